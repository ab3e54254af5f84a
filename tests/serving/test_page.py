"""The page in a real browser: chat, stop, keys, live state, hostile answers, keyboard, phone, light and dark."""

import json
import os
import re
import time
from importlib.resources import files
from pathlib import Path

import pytest
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.http.routes.page import PAGE_FILES, POLICY
from flyweight.serving.options import ServeOptions

CHROMIUM = Path("/usr/bin/chromium")
PAGE = files("flyweight.serving.page")
KEY = "correct-horse-battery"
EVIL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script><b>bold</b> & ${1+1}"

needs_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


# Without a browser


def test_every_file_is_served_and_nothing_else_lies_there():
    assert sorted(PAGE_FILES) == sorted(one.name for one in PAGE.iterdir() if "." in one.name and one.is_file())


@pytest.mark.parametrize("name", PAGE_FILES)
def test_files_load_nothing_from_outside_and_hold_no_inline_code(name):
    text = PAGE.joinpath(name).read_text()
    assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "cookie",
    ):
        assert forbidden not in text
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|javascript:", text)


def test_a_strict_policy_comes_with_every_file(client):
    for name in PAGE_FILES:
        answer = client.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        again = client.get(answer.url, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""


def test_the_page_needs_no_key_and_what_it_shows_does():
    with served(options=ServeOptions(port=0, api_key=(KEY,))) as server, server.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/app.js").status_code == 200
        for path in (
            "/v1/engine/state",
            "/metrics",
            "/v1/requests/x/timeline",
            "/page/",
            "/page/app.js/",
            "/index.html",
        ):
            assert client.get(path).status_code == 401, path


# In a browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    os.environ.setdefault("PLAYWRIGHT_SKIP_VALIDATE_HOST_REQUIREMENTS", "1")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield found
        found.close()


class Opened:
    """A page, the requests it made and what its console said."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.url = url
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self):
        self.page.goto(self.url)
        return self.page

    def ask(self, question):
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        return self.page.locator(".message.assistant").last

    def wait_for_answer(self, answer):
        answer.locator(".after:not([hidden])").wait_for()
        return answer.locator(".text").inner_text()


@pytest.fixture
def open_page(browser):
    contexts = []

    def open_one(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        return Opened(context, url)

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def opened(open_page, demo):
    found = open_page(demo.url)
    found.go()
    return found


@pytest.fixture(scope="module")
def slow():
    """A server whose steps take 15 ms longer, behind a key."""
    model = load(model_path())
    forward = model.forward

    def slow_forward(batch):
        time.sleep(0.015)
        return forward(batch)

    model.forward = slow_forward
    with served({"demo": model}, ServeOptions(port=0, api_key=(f"alice={KEY}",))) as server:
        yield server


@needs_browser
def test_a_chat_with_its_figures_its_timeline_and_the_live_state(opened, demo):
    page = opened.page
    page.wait_for_selector("#health[data-state=ready]")
    answer = opened.ask("What is the capital of France?")
    text = opened.wait_for_answer(answer)
    with demo.client() as client:
        body = {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
        whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert text == whole.strip("\n")
    assert re.search(r"\d+ tokens? · first after ", answer.locator(".figures").inner_text())
    answer.get_by_role("button", name="Where the time went").click()
    answer.locator(".timeline svg rect").first.wait_for(state="attached")
    assert "read the prompt" in answer.locator(".timeline").inner_text()
    assert re.search(r"\d+ tokens, \d+ from the cache", answer.locator(".timeline").inner_text())
    page.wait_for_selector("#plot-tokens .curve, #plot-tokens .dot", state="attached")
    page.wait_for_selector("#plot-ttft .dot, #plot-ttft .curve", state="attached")
    assert "tokens" in page.inner_text("#model-card")
    assert page.get_attribute("#plot-ttft svg", "aria-label").startswith("Time to first token")
    second = opened.wait_for_answer(opened.ask("And of Italy?"))
    assert second
    assert "from the cache" in page.locator(".figures").last.inner_text(), "the second turn found the first one"
    assert opened.complaints == []
    assert {url.split("/")[2] for url in opened.requests} == {demo.url.split("/")[2]}, "a request went elsewhere"


@needs_browser
def test_parameters_are_sent_and_bad_ones_are_not(opened):
    page = opened.page
    page.fill("[name=max_tokens]", "3")
    page.fill("[name=temperature]", "0")
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=stop]", "###\nEND")
    with page.expect_request("**/v1/chat/completions") as sent:
        answer = opened.ask("Tell me a long story.")
    body = json.loads(sent.value.post_data)
    assert body["max_tokens"] == 3
    assert body["temperature"] == 0
    assert body["stop"] == ["###", "END"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "top_p" not in body
    assert "seed" not in body
    opened.wait_for_answer(answer)
    assert "cut off at the token limit" in answer.locator(".figures").inner_text()
    page.fill("[name=temperature]", "7")
    page.fill("#question", "again")
    page.press("#question", "Enter")
    assert page.locator(".message.assistant").count() == 1
    assert page.input_value("#question") == "again", "what was typed is kept"


@needs_browser
def test_a_key_is_asked_for_used_and_kept_in_this_tab_only(open_page, slow):
    opened = open_page(slow.url)
    page = opened.go()
    page.wait_for_selector("#key-card.wanted")
    assert page.inner_text("#health") == "key needed"
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("wrong-key-given")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert page.locator("#key-card.wanted").count() == 1
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#health[data-state=ready]")
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.get_attribute("#key", "type") == "password"
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert opened.wait_for_answer(opened.ask("Hello"))
    assert all(KEY not in url for url in opened.requests)
    page.reload()
    page.wait_for_selector("#health[data-state=ready]")
    other = open_page(slow.url).go()
    other.wait_for_selector("#key-card.wanted")


@needs_browser
def test_stop_ends_the_answer_here_and_in_the_engine(open_page, slow):
    opened = open_page(slow.url)
    page = opened.go()
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#health[data-state=ready]")
    for end in (lambda: page.click("#stop"), lambda: page.keyboard.press("Escape")):
        answer = opened.ask("Count from one to one hundred, please, with every number in words.")
        page.wait_for_selector("#stop:not([hidden])")
        answer.locator(".text:not(:empty)").wait_for()
        assert answer.get_attribute("aria-busy") == "true"
        end()
        opened.wait_for_answer(answer)
        assert answer.get_attribute("aria-busy") is None
        assert "stopped" in answer.locator(".figures").inner_text()
        assert page.locator("#send:not([hidden])").count() == 1
    service = slow.state.services["demo"]
    deadline = time.monotonic() + 5
    while service.metrics.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not service.metrics.running, "the engine goes on though nobody reads"


@needs_browser
def test_what_a_model_writes_is_text_and_never_html(open_page, demo):
    opened = open_page(demo.url)
    page = opened.page
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": EVIL}, "finish_reason": "stop"}]}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        ),
    )
    card = {"id": EVIL, "architecture": EVIL, "max_model_len": 8, "quality": {EVIL: EVIL}, "running": [EVIL]}
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [card]}))
    opened.go()
    answer = opened.ask(EVIL)
    assert opened.wait_for_answer(answer) == EVIL
    assert page.locator(".message.user .text").inner_text() == EVIL
    page.unroute("**/v1/chat/completions")
    error = {"error": {"message": EVIL, "type": "x", "param": None, "code": "x"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json=error))
    failed = opened.ask("again")
    failed.locator(".error:not([hidden])").wait_for()
    assert failed.locator(".error").inner_text() == EVIL
    assert page.locator("main img, main script, main b, aside img, aside script, aside b").count() == 0
    assert page.evaluate("window.hacked") is None
    blocked = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } }"
    )
    assert blocked, "trusted types keep HTML out even where code asks for it"


@needs_browser
@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            {"status": 429, "headers": {"Retry-After": "7"}, "json": {"error": {"message": "too much"}}},
            "Try again in 7.00 s",
        ),
        ({"status": 502, "body": "<html>"}, "status 502"),
        ({"content_type": "text/event-stream", "body": 'data: {"choices":[]}\n\n'}, "broke off"),
        ({"content_type": "text/event-stream", "body": 'data: {"error":{"message":"it failed"}}\n\n'}, "it failed"),
    ],
)
def test_failures_are_told_and_the_next_question_works(opened, answer, shown):
    page = opened.page
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    failed = opened.ask("Hello")
    failed.locator(".error:not([hidden])").wait_for()
    assert shown in failed.locator(".error").inner_text()
    page.unroute("**/v1/chat/completions")
    with page.expect_request("**/v1/chat/completions") as sent:
        good = opened.ask("Hello again")
    assert opened.wait_for_answer(good)
    roles = [message["role"] for message in json.loads(sent.value.post_data)["messages"]]
    assert roles == ["user"], "a question without an answer is not told to the model again"


@needs_browser
def test_events_are_put_together_however_they_are_cut(opened):
    """Bytes may be cut anywhere: inside a character, a line, between CR and LF."""
    stream = ': comment\r\n\r\ndata: {"n":1,\ndata: "é":"ü€😀"}\r\n\r\nid: 7\n'
    stream += 'data:{"n":2}\n\ndata: [DONE]\n\ndata: {"n":3}\n\n'
    read = """async ([bytes, size]) => {
        const { events } = await import("/page/events.js");
        const all = new Uint8Array(bytes);
        const body = new ReadableStream({ start(control) {
            for (let at = 0; at < all.length; at += size) control.enqueue(all.slice(at, at + size));
            control.close();
        }});
        const found = [];
        for await (const event of events(body)) found.push(event);
        return found;
    }"""
    for size in (1, 2, 3, 7, 1000):
        assert opened.page.evaluate(read, [list(stream.encode()), size]) == [{"n": 1, "é": "ü€😀"}, {"n": 2}]


@needs_browser
def test_everything_is_reached_by_keyboard_and_has_a_name(opened):
    page = opened.page
    page.wait_for_selector("#health[data-state=ready]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "question"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button,input,select,textarea,meter,[role=log],aside,main,section")]
            .filter((one) => one.offsetParent !== null)
            .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
                || one.labels?.length || one.textContent.trim()))
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    page.focus("#question")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#question") == "one\ntwo"
    answer = opened.ask("Say hello.")
    opened.wait_for_answer(answer)
    assert page.inner_text("#announce").startswith("The model answered: "), "screen readers hear the answer once, whole"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => one.tagName)")
    assert levels[0] == "H1"


@needs_browser
def test_a_phone(open_page, demo):
    opened = open_page(demo.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = opened.go()
    page.wait_for_selector("#health[data-state=ready]")
    opened.wait_for_answer(opened.ask("What is the capital of France, and a_very_long_word" + "x" * 200))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    for wanted in ("#question", "#send", "#model", "#show-side"):
        box = page.locator(wanted).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360, wanted
        assert box["y"] + box["height"] <= 740, wanted
    assert not page.is_visible("#side")
    page.tap("#show-side")
    assert page.is_visible("#plot-tokens svg")
    assert page.get_attribute("#show-side", "aria-expanded") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.tap("#show-side")
    assert page.is_visible("#question")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_can_be_read(open_page, demo, scheme):
    page = open_page(demo.url, color_scheme=scheme).go()
    colour = page.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const names = ["ground", "card", "ink", "faint", "accent", "accent-ink", "mine", "bad", "bad-ground"];
            return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
        }"""
    )
    assert (luminance(colour["ground"]) < 0.2) == (scheme == "dark")
    pairs = [("ink", "ground"), ("ink", "card"), ("ink", "mine"), ("faint", "ground"), ("faint", "card")]
    for front, back in [*pairs, ("accent-ink", "accent"), ("accent", "ground"), ("bad", "bad-ground"), ("card", "bad")]:
        assert contrast(colour[front], colour[back]) >= 4.5, (
            f"{front} on {back}: {contrast(colour[front], colour[back])}"
        )


@needs_browser
def test_a_model_that_comes_while_the_page_is_open_can_be_chosen(open_page, demo):
    opened = open_page(demo.url)
    page = opened.go()
    page.wait_for_selector("#health[data-state=ready]")
    assert page.is_disabled("#model")
    service = demo.state.services["demo"]
    demo.loop.call_soon_threadsafe(demo.state.services.__setitem__, "second", service)
    try:
        page.locator("#model option").nth(1).wait_for(state="attached")
        page.select_option("#model", "demo")
    finally:
        demo.loop.call_soon_threadsafe(demo.state.services.pop, "second")


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
