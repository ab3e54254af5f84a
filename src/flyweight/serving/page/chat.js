// The conversation: sends what was asked with all that came before, shows the answer as it streams, and stops it.
// What the model writes is put into the page as text and only as text.

import * as api from "./api.js";
import { events } from "./events.js";
import { element, number, seconds } from "./format.js";
import { bar } from "./plots.js";

const NEAR_END = 60; // pixels: who reads further up is not pulled down
const $ = (id) => document.getElementById(id);

export class Chat {
  // model, parameters: functions that say what is chosen now; onKeyWanted: called when the server asks for a key.
  constructor({ model, parameters, onKeyWanted }) {
    this.model = model;
    this.parameters = parameters;
    this.onKeyWanted = onKeyWanted;
    this.messages = [];
    this.running = null;
  }

  get isRunning() {
    return this.running !== null;
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    $("messages").replaceChildren($("welcome"));
    $("welcome").hidden = false;
    $("announce").textContent = "New conversation.";
  }

  async ask(question) {
    if (this.running) return;
    const messages = this.messages;
    $("welcome").hidden = true;
    messages.push({ role: "user", content: question });
    addMessage("user", "You").querySelector(".text").textContent = question;
    const shown = addMessage("assistant", this.model());
    scrollToEnd();
    const answer = new Answer(shown);
    const control = new AbortController();
    this.running = control;
    this.onChange?.();
    shown.setAttribute("aria-busy", "true");
    $("announce").textContent = "The model is answering.";
    try {
      await this.stream(messages, answer, control.signal);
    } catch (error) {
      if (control.signal.aborted) answer.end = "stopped";
      else answer.fail(error);
      if (error instanceof api.ApiError && error.status === 401) this.onKeyWanted();
    } finally {
      this.running = null;
      shown.removeAttribute("aria-busy");
      // Without an answer the question is not part of what the model is told next time.
      if (answer.text) messages.push({ role: "assistant", content: answer.text });
      else messages.pop();
      answer.finish();
      if (messages === this.messages) $("announce").textContent = answer.announcement();
      this.onChange?.();
    }
  }

  async stream(messages, answer, signal) {
    const { system, ...rest } = this.parameters();
    const told = system ? [{ role: "system", content: system }, ...messages] : messages;
    const body = { model: this.model(), messages: told, stream: true, stream_options: { include_usage: true }, ...rest };
    const response = await api.request("/v1/chat/completions", { body, signal });
    answer.id = response.headers.get("X-Request-Id");
    for await (const event of events(response.body)) answer.take(event);
    if (answer.end === null && !answer.failed) answer.fail(new Error("the answer broke off: the connection ended before it did"));
  }
}

class Answer {
  constructor(shown) {
    this.shown = shown;
    this.place = shown.querySelector(".text");
    this.text = "";
    this.id = null;
    this.end = null;
    this.usage = null;
    this.failed = false;
    this.began = performance.now();
    this.first = null;
    this.last = null;
    this.waiting = false;
  }

  take(event) {
    if (event.error) {
      this.fail(new Error(String(event.error.message ?? "the server could not finish the answer")));
      return;
    }
    if (event.usage) this.usage = event.usage;
    const choice = event.choices?.[0];
    if (!choice) return;
    const text = choice.delta?.content;
    if (text) {
      this.first ??= performance.now();
      this.last = performance.now();
      this.text += text;
      this.drawSoon();
    }
    if (choice.finish_reason) this.end = choice.finish_reason;
  }

  // Many tokens may come between two frames: the page is touched once for all of them.
  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const follow = isNearEnd();
    this.place.textContent = this.text;
    if (follow) scrollToEnd();
  }

  fail(error) {
    this.failed = true;
    const line = this.shown.querySelector(".error");
    const wait = error.retryAfter ? ` Try again in ${seconds(error.retryAfter)}.` : "";
    line.textContent = error instanceof TypeError ? "The server could not be reached." : error.message + wait;
    line.hidden = false;
  }

  finish() {
    this.draw();
    const figures = [];
    const tokens = this.usage?.completion_tokens;
    if (tokens !== undefined) figures.push(`${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
    if (this.first !== null) figures.push(`first after ${seconds((this.first - this.began) / 1000)}`);
    if (tokens > 1 && this.last > this.first) figures.push(`${number((1000 * (tokens - 1)) / (this.last - this.first))} tokens/s`);
    const cached = this.usage?.prompt_tokens_details?.cached_tokens;
    if (cached) figures.push(`${number(cached)} of ${number(this.usage.prompt_tokens)} prompt tokens from the cache`);
    if (this.end === "length") figures.push("cut off at the token limit");
    if (this.end === "stopped") figures.push("stopped");
    this.shown.querySelector(".figures").textContent = figures.join(" · ");
    this.shown.querySelector(".after").hidden = false;
    const copy = this.shown.querySelector(".copy");
    copy.hidden = !this.text || !navigator.clipboard;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(this.text);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    const why = this.shown.querySelector(".why");
    why.hidden = this.id === null;
    why.addEventListener("click", () => this.toggleTimeline(why));
    if (isNearEnd()) scrollToEnd();
  }

  announcement() {
    if (this.failed) return ""; // the error announces itself
    return this.end === "stopped" ? "Answer stopped." : `The model answered: ${this.text}`;
  }

  async toggleTimeline(button) {
    const place = this.shown.querySelector(".timeline");
    const open = place.hidden;
    button.setAttribute("aria-expanded", String(open));
    place.hidden = !open;
    if (!open) return;
    try {
      const { answers } = await api.json(`/v1/requests/${encodeURIComponent(this.id)}/timeline`);
      showTimeline(place, answers[0]);
    } catch (error) {
      place.replaceChildren(element("p", error.message));
    }
    if (isNearEnd()) scrollToEnd();
  }
}

function showTimeline(place, timeline) {
  const parts = [
    ["queue", timeline.queue_seconds ?? 0, "waited"],
    ["prefill", timeline.prefill_seconds ?? 0, "read the prompt"],
    ["decode", timeline.decode_seconds ?? 0, "wrote the answer"],
  ];
  const legend = element("div", undefined, { class: "legend" });
  for (const [name, value, words] of parts) legend.append(element("span", `${words} ${seconds(value)}`, { class: name }));
  const facts = element("dl", undefined, { class: "facts" });
  const fact = (name, value) => facts.append(element("dt", name), element("dd", value));
  fact("prompt", `${number(timeline.prompt_tokens)} tokens, ${number(timeline.cached_tokens)} from the cache, in ${number(timeline.chunks.length)} ${timeline.chunks.length === 1 ? "chunk" : "chunks"}`);
  if (timeline.decode.steps) fact("answer", `${number(timeline.answer_tokens)} tokens in ${number(timeline.decode.steps)} steps, each shared by ${number(timeline.decode.mean_batch_size)} on average`);
  if (timeline.preemptions) fact("preempted", `${number(timeline.preemptions)} times`);
  if (timeline.speculation?.proposed) fact("guessed ahead", `${number(timeline.speculation.accepted)} of ${number(timeline.speculation.proposed)} right`);
  const waited = timeline.waited_for;
  if (waited && waited.own.length + waited.others) fact("waited for", `${number(waited.own.length)} of your requests, ${number(waited.others)} of others`);
  const label = parts.map(([, value, words]) => `${words} ${seconds(value)}`).join(", ");
  place.replaceChildren(bar(parts.map(([name, value]) => [name, value]), label), legend, facts);
}

function addMessage(role, who) {
  const made = $("message-template").content.firstElementChild.cloneNode(true);
  made.classList.add(role);
  made.querySelector(".who").textContent = who;
  $("messages").append(made);
  return made;
}

function isNearEnd() {
  const list = $("messages");
  return list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END;
}

function scrollToEnd() {
  const list = $("messages");
  list.scrollTop = list.scrollHeight;
}
