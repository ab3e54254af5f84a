// The live state of the engine and the model's card. Asks every two seconds while the page is visible.

import * as api from "./api.js";
import { bytes, element, number, percent, seconds } from "./format.js";
import { draw } from "./plots.js";

const EVERY = 2000;
const $ = (id) => document.getElementById(id);

export class EngineView {
  // model: the name that is chosen; onKeyWanted: called when the server asks for a key; onModels: told the names served.
  constructor({ model, onKeyWanted, onModels }) {
    this.model = model;
    this.onModels = onModels;
    this.onKeyWanted = onKeyWanted;
    this.timer = null;
    this.asking = false;
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  async refresh() {
    clearTimeout(this.timer);
    if (document.hidden || this.asking) return;
    this.asking = true;
    try {
      this.show(await api.json("/v1/engine/state"));
    } catch (error) {
      this.fail(error);
    } finally {
      this.asking = false;
      this.timer = setTimeout(() => this.refresh(), EVERY);
    }
  }

  fail(error) {
    if (error instanceof api.ApiError && error.status === 401) {
      this.health("bad", "key needed");
      this.onKeyWanted();
    } else if (error instanceof api.ApiError) {
      this.health("bad", error.message);
    } else {
      this.health("bad", "server not reachable");
    }
    $("engine-age").textContent = "(not current)";
  }

  health(state, text) {
    const line = $("health");
    line.dataset.state = state;
    if (line.textContent !== text) line.textContent = text;
  }

  show(state) {
    this.onModels(state.models.map((model) => model.name));
    const one = state.models.find((model) => model.name === this.model()) ?? state.models[0];
    if (one === undefined) {
      this.health("bad", "no model loaded");
      return;
    }
    const status = one.status ?? "ready";
    this.health(status !== "ready" || one.waiting > 0 ? "busy" : "ready", status !== "ready" ? status : one.waiting > 0 ? "busy" : "ready");
    $("engine-age").textContent = "";
    $("running").textContent = number(one.running);
    $("waiting").textContent = number(one.waiting);
    $("tokens-per-second").textContent = number(one.tokens_per_second);
    $("ttft").textContent = seconds(one.time_to_first_token_seconds);
    $("tpot").textContent = seconds(one.time_per_output_token_seconds);
    $("prefix-hits").textContent = percent(one.prefix_hit_rate);
    $("cache").value = one.cache_usage;
    $("cache-text").textContent = `${percent(one.cache_usage)} of ${number(one.cache_tokens)} tokens`;
    const { history } = one;
    const span = history.interval_seconds * history.tokens_per_second.length;
    const plot = (id, title, values, write) => draw($(id), { title, values, seconds: span, write });
    plot("plot-tokens", "Tokens per second", history.tokens_per_second, (value) => number(value));
    plot("plot-ttft", "Time to first token (TTFT)", history.time_to_first_token_seconds, seconds);
    plot("plot-tpot", "Time per output token (TPOT)", history.time_per_output_token_seconds, seconds);
  }
}

// Shows what /v1/models says of one model.
export function showCard(card) {
  const facts = $("model-card");
  facts.replaceChildren();
  const fact = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    facts.append(element("dt", name), element("dd", String(value)));
  };
  fact("name", card.id);
  fact("architecture", card.architecture);
  fact("context", card.max_model_len === undefined ? undefined : `${card.max_model_len.toLocaleString("en")} tokens`);
  fact("quantization", card.quantization ?? "none");
  fact("bits per weight", card.compression?.bits_per_weight && number(card.compression.bits_per_weight));
  fact("recipe", typeof card.compression?.recipe === "string" ? card.compression.recipe : undefined);
  fact("size", card.compression?.compressed_bytes && bytes(card.compression.compressed_bytes));
  $("how").hidden = !card.running?.length;
  $("how-list").replaceChildren(...(card.running ?? []).map((line) => element("li", line)));
  const place = $("quality");
  place.replaceChildren();
  const figures = rows(card.quality);
  if (!figures.length) {
    place.append(element("p", "No quality report lies beside this checkpoint.", { class: "help" }));
    return;
  }
  const table = element("table");
  table.append(element("caption", "Measured quality"));
  for (const [name, value] of figures) {
    const row = element("tr");
    row.append(element("th", name, { scope: "row" }), element("td", value));
    table.append(row);
  }
  place.append(table);
}

// Any nested figures as rows of (name, text): what a report holds differs from model to model.
export function rows(figures, prefix = "") {
  if (figures === null || typeof figures !== "object") return [];
  return Object.entries(figures).flatMap(([key, value]) => {
    const name = (prefix ? `${prefix}, ` : "") + key.replaceAll("_", " ");
    if (value === null || value === undefined) return [];
    if (Array.isArray(value)) return [[name, value.map((one) => (typeof one === "number" ? number(one, 4) : String(one))).join(" to ")]];
    if (typeof value === "object" && typeof value.value === "number") return [[name, interval(value)]];
    if (typeof value === "object") return rows(value, name);
    return [[name, typeof value === "number" ? number(value, 4) : String(value)]];
  });
}

function interval({ value, low, high }) {
  if (typeof low !== "number" || typeof high !== "number") return number(value, 4);
  return `${number(value, 4)} [${number(low, 4)}, ${number(high, 4)}]`;
}
