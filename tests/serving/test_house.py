"""Models come, go and change behind their names while requests run, under a memory bound, and no request is lost."""

import asyncio
import gc
import shutil
import threading
import time
import weakref

import pytest
from support.observing import wait_until
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.options import ServeOptions

ADMIN = "admin-key-of-the-test"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("first", "second", "deep/third"):
        (folder / name).mkdir(parents=True)
        for file in CHECKPOINT_FILES:
            shutil.copy(model_path() / file, folder / name / file)
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "outside").symlink_to(model_path())
    (folder / "circle").symlink_to(folder / "circle")
    return folder


def start(root, **options):
    model = load(root / "first", cache_tokens=2048)
    return served({"chat": model}, ServeOptions(port=0, admin_key=(ADMIN,), model_root=root, **options))


@pytest.fixture(scope="module")
def server(root):
    with start(root) as found:
        yield found


@pytest.fixture
def admin(server):
    with server.client(**HEADERS) as client:
        yield client


def ask(client, model, *, tokens=4, prompt="Hello"):
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
    return client.post("/v1/chat/completions", json=body)


def test_load_use_unload(admin):
    answer = admin.post("/v1/admin/models", json={"name": "extra", "path": "deep/third", "cache_tokens": 1024})
    assert answer.status_code == 200, answer.text
    assert answer.json()["card"]["id"] == "extra"
    assert ask(admin, "extra").status_code == 200
    assert [card["id"] for card in admin.get("/v1/models").json()["data"]] == ["chat", "extra"]
    listed = admin.get("/v1/admin/models").json()
    assert {(one["name"], one["path"], one["state"]) for one in listed["data"]} == {
        ("chat", "first", "serving"),
        ("extra", "deep/third", "serving"),
    }
    assert listed["memory_bytes"] == sum(one["memory_bytes"] for one in listed["data"]) > 0
    assert 'flyweight:model_loaded{engine="0",model_name="extra"} 1.0' in admin.get("/metrics").text
    assert admin.delete("/v1/admin/models/extra").status_code == 200
    assert ask(admin, "extra").status_code == 404
    wait_until(lambda: len(admin.get("/v1/admin/models").json()["data"]) == 1)
    assert 'model_name="extra"' not in admin.get("/metrics").text
    assert 'model_changes_total{change="load",outcome="done"} 1.0' in admin.get("/metrics").text


def test_what_is_unloaded_leaves_memory(server, admin):
    assert admin.post("/v1/admin/models", json={"name": "brief", "path": "second"}).status_code == 200
    alive = weakref.ref(server.state.services["brief"].model)
    assert alive() is not None
    assert admin.delete("/v1/admin/models/brief").status_code == 200

    def is_gone():
        gc.collect()
        return alive() is None

    wait_until(is_gone)


def test_a_swap_under_traffic_loses_no_request(server, admin):
    before = server.state.services["chat"]
    statuses, stop = [], threading.Event()

    def traffic(number):
        with server.client() as client:
            count = 0
            while not stop.is_set():
                count += 1
                answer = ask(client, "chat", tokens=20, prompt=f"{number} {count}: tell me of the sea")
                usage = answer.json().get("usage", {})
                statuses.append((answer.status_code, usage.get("completion_tokens", 0) > 0))

    def stream():
        body = {"model": "chat", "messages": [{"role": "user", "content": "Go on"}], "max_tokens": 100, "stream": True}
        with server.client() as client:
            while not stop.is_set():
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    lines = [line for line in answer.iter_lines() if line]
                statuses.append((answer.status_code, lines[-1] == "data: [DONE]" and "error" not in lines[-2]))

    threads = [threading.Thread(target=traffic, args=(number,)) for number in range(3)]
    threads.append(threading.Thread(target=stream))
    for thread in threads:
        thread.start()
    try:
        for path in ("second", "first"):
            seen = len(statuses)
            wait_until(lambda seen=seen: len(statuses) >= seen + 4)
            answer = admin.post("/v1/admin/models/chat/swap", json={"path": path, "cache_tokens": 2048})
            assert answer.status_code == 200, answer.text
        seen = len(statuses)
        wait_until(lambda: len(statuses) >= seen + 4)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {(200, True)}
    after = server.state.services["chat"]
    assert after is not before
    wait_until(lambda: not server.state.leaving)
    assert not before._worker.is_alive
    assert before._worker.metrics.held_blocks == 0
    text = admin.get("/metrics").text
    total = next(line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total"))
    assert float(total.split()[-1]) > after.metrics.answer_tokens, "counters go on across a swap"


def test_one_who_holds_the_old_service_is_sent_on(server, admin):
    """A route that has looked the service up just before the name moved."""
    from flyweight.engine.sampling_options import SamplingOptions
    from flyweight.serving.asks import Ask, Owner, Text

    old = server.state.services["chat"]
    assert admin.post("/v1/admin/models/chat/swap", json={"path": "second", "cache_tokens": 2048}).status_code == 200

    async def late():
        options = SamplingOptions(max_tokens=3, ignore_eos=True)
        asked = Ask(request_id="late", owner=Owner(), prompts=(Text(text="Hello"),), options=options, max_tokens=3)
        return await (await old.answer(asked)).all()

    pieces = asyncio.run_coroutine_threadsafe(late(), server.loop).result(10)
    assert pieces[0].completion.usage.completion_tokens == 3


def test_one_whose_grammar_is_compiled_while_the_model_is_replaced_gets_an_answer(server, admin):
    old = server.state.services["chat"]
    compile_now, begun = old.model.grammars.compile, threading.Event()

    def compile_slowly(spec):
        begun.set()
        wait_until(lambda: server.state.services["chat"] is not old)
        time.sleep(0.3)  # the old one has nothing else to do
        kept.append(old._worker.is_alive)
        return compile_now(spec)

    old.model.grammars.compile = compile_slowly
    found, kept = [], []

    def ask_for_json():
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}
        with server.client() as client:
            found.append(client.post("/v1/chat/completions", json={**body, "response_format": {"type": "json_object"}}))

    thread = threading.Thread(target=ask_for_json)
    thread.start()
    assert begun.wait(10)
    assert admin.post("/v1/admin/models/chat/swap", json={"path": "first", "cache_tokens": 2048}).status_code == 200
    thread.join()
    assert found[0].status_code == 200, found[0].text
    assert kept[0], "it was stopped while a request was prepared for it"
    wait_until(lambda: not server.state.leaving)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "chat", "path": "second"}, 409, "is taken"),
        ({"name": "x/y", "path": "second"}, 400, "not possible"),
        ({"name": "../x", "path": "second"}, 400, "not possible"),
        ({"name": "x\n", "path": "second"}, 400, "not possible"),
        ({"name": "x", "path": "missing"}, 404, "no checkpoint"),
        ({"name": "x", "path": "empty"}, 404, "no checkpoint"),
        ({"name": "x", "path": "."}, 400, "below"),
        ({"name": "x", "path": "../models"}, 400, "below"),
        ({"name": "x", "path": "first/../../.."}, 400, "below"),
        ({"name": "x", "path": "/etc"}, 400, "below"),
        ({"name": "x", "path": "outside"}, 400, "below"),
        ({"name": "x", "path": "circle"}, 400, "below"),
        ({"name": "x", "path": "a\0b"}, 400, "below"),
        ({"name": "x", "path": "a" * 4000}, 400, "below"),
        ({"name": "x", "path": "broken"}, 400, "broken"),
        ({"name": "x", "path": "second", "cache_tokens": 1 << 30}, 409, "left"),
        ({"name": "x", "path": "second", "cache_tokens": 0}, 400, "cache_tokens"),
        ({"name": "x"}, 400, "path"),
        ({"name": "x", "path": "second", "url": "http://x"}, 400, "url"),
    ],
)
def test_refusals(admin, root, body, status, says):
    answer = admin.post("/v1/admin/models", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert str(root) not in answer.text
    assert "x" not in [card["id"] for card in admin.get("/v1/models").json()["data"]]


def test_a_whole_path_is_refused_even_below_the_root(admin, root):
    answer = admin.post("/v1/admin/models", json={"name": "x", "path": str(root / "second")})
    assert answer.status_code == 400
    assert "below" in answer.json()["error"]["message"]


def test_a_failed_swap_leaves_the_old_one(server, admin):
    before = server.state.services["chat"]
    for path, status in (("broken", 400), ("missing", 404)):
        assert admin.post("/v1/admin/models/chat/swap", json={"path": path}).status_code == status
    assert admin.post("/v1/admin/models/other/swap", json={"path": "second"}).status_code == 404
    assert admin.delete("/v1/admin/models/other").status_code == 404
    assert server.state.services["chat"] is before
    assert ask(admin, "chat").status_code == 200


def test_memory_is_refused_with_numbers_before_anything_is_loaded(root):
    with start(root, models_memory="300MB") as server, server.client(**HEADERS) as admin:
        answer = admin.post("/v1/admin/models", json={"name": "b", "path": "second", "cache_tokens": 65536})
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["code"] == "not_enough_memory"
        for words in ("weights", "cache of 65536 tokens", "a step", "are left"):
            assert words in error["message"]
        assert admin.get("/v1/admin/models").json()["memory_bound_bytes"] == 300_000_000
        assert admin.post("/v1/admin/models", json={"name": "b", "path": "second"}).status_code == 200
        assert admin.post("/v1/admin/models", json={"name": "c", "path": "second"}).status_code == 409
        assert 'model_changes_total{change="load",outcome="refused"} 2.0' in admin.get("/metrics").text


def test_only_an_admin_key_opens_the_admin_paths(root):
    keys = {"api_key": ("alice=correct-horse-battery",)}
    calls = [("GET", ""), ("POST", ""), ("DELETE", "/chat"), ("POST", "/chat/swap")]
    with start(root, **keys) as server:
        for headers, status in (({}, 401), ({"Authorization": "Bearer correct-horse-battery"}, 403)):
            with server.client(**headers) as client:
                for method, path in calls:
                    answer = client.request(method, f"/v1/admin/models{path}", json={"path": "second"})
                    assert answer.status_code == status, (method, path)
        with server.client(**HEADERS) as admin:
            assert admin.get("/v1/admin/models").status_code == 200
            assert ask(admin, "chat").status_code == 200
    with start(root) as server, server.client() as client:
        assert ask(client, "chat").status_code == 200, "without API keys all else is open"
        for method, path in calls:
            answer = client.request(method, f"/v1/admin/models{path}", json={"path": "second"})
            assert answer.status_code == 403, (method, path)


def test_without_admin_keys_the_paths_do_not_exist(demo):
    with demo.client() as client:
        assert client.get("/v1/admin/models").status_code == 404
        assert client.post("/v1/admin/models/demo/swap", json={"path": "x"}).status_code == 404


def test_without_a_root_nothing_can_be_loaded(root):
    model = load(root / "first", cache_tokens=1024)
    with served({"chat": model}, ServeOptions(port=0, admin_key=(ADMIN,))) as server, server.client(**HEADERS) as admin:
        assert admin.post("/v1/admin/models", json={"name": "x", "path": "second"}).status_code == 403


def test_one_change_at_a_time(server, admin):
    answers = []

    def swap():
        with server.client(**HEADERS) as client:
            answers.append(client.post("/v1/admin/models/chat/swap", json={"path": "first", "cache_tokens": 2048}))

    threads = [threading.Thread(target=swap) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses) <= {200, 409}
    assert ask(admin, "chat").status_code == 200
