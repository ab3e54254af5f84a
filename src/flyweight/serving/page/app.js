// Joins the page's parts: what is typed and clicked, the chat, the engine's state, the models.

import * as api from "./api.js";
import { Chat } from "./chat.js";
import { EngineView, showCard } from "./engine.js";

const $ = (id) => document.getElementById(id);
const cards = new Map();

const model = () => $("model").value;
const chat = new Chat({ model, parameters, onKeyWanted });
const engine = new EngineView({ model, onKeyWanted, onModels });

// What the form says, without the fields left empty: these are the server's and the model's to choose.
function parameters() {
  const form = new FormData($("parameters"));
  const chosen = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const text = String(form.get(name)).trim();
    if (text !== "") chosen[name] = Number(text);
  }
  const stop = String(form.get("stop")).split("\n").filter((line) => line !== "");
  if (stop.length) chosen.stop = stop;
  const system = String(form.get("system")).trim();
  if (system) chosen.system = system;
  return chosen;
}

function openSide(open) {
  document.body.classList.toggle("side-open", open);
  $("show-side").setAttribute("aria-expanded", String(open));
  $("show-side").textContent = open ? "Back to chat" : "Engine & settings";
}

let keyWasWanted = false;

function onKeyWanted() {
  $("key-card").classList.add("wanted");
  if (!keyWasWanted) {
    keyWasWanted = true;
    openSide(true);
    $("key").focus();
  }
}

// Models come and go while the page is open.
function onModels(names) {
  if (names.length !== cards.size || !names.every((name) => cards.has(name))) loadModels();
}

async function loadModels() {
  try {
    const { data } = await api.json("/v1/models");
    const before = model();
    cards.clear();
    for (const card of data) cards.set(card.id, card);
    $("model").replaceChildren(...data.map((card) => new Option(card.id, card.id)));
    $("model").disabled = data.length < 2;
    if (cards.has(before)) $("model").value = before;
    if (cards.has(model())) showCard(cards.get(model()));
    $("key-card").classList.remove("wanted");
  } catch (error) {
    if (error instanceof api.ApiError && error.status === 401) onKeyWanted();
  }
}

function fitQuestion() {
  const area = $("question");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function send() {
  const area = $("question");
  const question = area.value.trim();
  if (!question || chat.isRunning) return;
  if (!$("parameters").reportValidity()) {
    openSide(true);
    $("parameters").reportValidity();
    return;
  }
  area.value = "";
  fitQuestion();
  chat.ask(question);
}

chat.onChange = () => {
  const hadFocus = document.activeElement === $("send") || document.activeElement === $("stop");
  $("send").hidden = chat.isRunning;
  $("stop").hidden = !chat.isRunning;
  if (hadFocus) $(chat.isRunning ? "stop" : "question").focus();
};

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("input", fitQuestion);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.isRunning) chat.stop();
});
$("stop").addEventListener("click", () => chat.stop());
$("new-chat").addEventListener("click", () => {
  chat.clear();
  openSide(false);
  $("question").focus();
});
$("show-side").addEventListener("click", () => openSide(!document.body.classList.contains("side-open")));
$("parameters").addEventListener("submit", (event) => event.preventDefault());
$("model").addEventListener("change", () => {
  showCard(cards.get(model()));
  engine.refresh();
});
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  api.setKey($("key").value.trim());
  await Promise.all([loadModels(), engine.refresh()]);
  if (cards.size) {
    openSide(false);
    $("question").focus();
  }
});

$("key").value = api.key();
await Promise.all([loadModels(), engine.refresh()]);
