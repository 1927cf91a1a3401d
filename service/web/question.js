// What is asked: the model, the sentence or the rows, the layers; and the request of the contract that says so.

import { clear, tell } from "./notice.js";
import { generate, read, written } from "./rows.js";
import { bytes } from "./terminal.js";

const MOST_NUMBERS = 3e6; // weights in one reply, about 30 MB of JSON; more is asked a layer at a time
const CHARACTERS_A_TOKEN = 3; // fewer than English has, so that the estimate errs to the long side

const $ = (id) => document.getElementById(id);

/** The form. `changed({model})` follows typing (`model`: another model was chosen), `submitted()` the button. */
export class Question {
  constructor({ changed, submitted }) {
    this.changed = changed;
    this.mode = "text";
    this.narrowed = false; // whether the last layer alone was asked for where all were wanted
    this.cards = [];
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      submitted();
    });
    $("sentence").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submitted();
    });
    $("sentence").addEventListener("input", () => {
      this.size();
      changed({ model: false });
    });
    $("rows").addEventListener("input", () => changed({ model: false }));
    $("layers").addEventListener("change", () => submitted());
    $("model").addEventListener("change", () => this.fit());
    $("mode").addEventListener("change", () => this.turn($("mode").value));
    $("rows-make").addEventListener("click", () => this.make());
    this.usual = this.examples; // those of the page, for models that bring none
    $("examples").addEventListener("click", ({ target }) => {
      if (!target.matches("button")) return;
      this.take(target.textContent);
      submitted();
    });
  }

  /** The sentences that are offered. */
  get examples() {
    return Array.from($("examples").children, (button) => button.textContent);
  }

  take(sentence) {
    $("sentence").value = sentence;
    this.size();
  }

  /** Offer the model's own sentences; one of another model's that stands there untouched makes way. */
  exemplify(own) {
    const untouched = this.examples.includes($("sentence").value);
    const buttons = (own?.length ? own : this.usual).map((sentence) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = sentence;
      return button;
    });
    $("examples").replaceChildren(...buttons);
    if (untouched && !this.examples.includes($("sentence").value)) this.take(this.examples[0]);
  }

  /** A sentence stands large; the more there is of it, the smaller it is set. */
  size() {
    const { length } = $("sentence").value;
    $("sentence").dataset.length = length > 400 ? "text" : length > 110 ? "long" : "sentence";
  }

  /** The card of the chosen model. */
  get card() {
    return this.cards.find((card) => card.name === $("model").value);
  }

  /** Offer these models; the one in the address first, else one that reads text. */
  offer(cards) {
    this.cards = cards;
    $("model").replaceChildren(...cards.map((card) => new Option(card.name, card.name)));
    const wanted = cards.find((card) => card.name === this.wanted);
    const reader = cards.filter((card) => card.inputs.includes("text")).sort((a, b) => b.layers - a.layers)[0];
    $("model").value = (wanted ?? reader ?? cards[0]).name;
    this.fit();
  }

  fit() {
    const { card } = this;
    const numbers = Array.from({ length: card.layers }, (_, layer) => new Option(`${layer} only`, `${layer}`));
    $("layers").replaceChildren(new Option("all", "all"), ...numbers);
    $("facts").textContent =
      `${card.family} · ${card.layers} ${card.layers === 1 ? "layer" : "layers"} × ${card.heads} heads · ` +
      `d_model ${card.d_model} · ${card.dtype} on ${card.device} · ${bytes(card.bytes_resident)} resident`;
    const text = card.inputs.includes("text");
    this.exemplify(card.examples);
    $("mode").closest("[data-mode]").hidden = !text;
    $("ids-too").hidden = !card.inputs.includes("token_ids");
    $("width").textContent = this.width;
    $("mode").value = text ? "text" : "rows";
    this.turn($("mode").value, { model: true });
  }

  /** Numbers in one row of embeddings. */
  get width() {
    return this.card.d_input ?? this.card.d_model;
  }

  turn(mode, { model = false } = {}) {
    this.mode = mode;
    for (const part of document.querySelectorAll("[data-when]")) part.hidden = part.dataset.when !== mode;
    if (mode === "rows" && (model || !$("rows").value)) this.make({ model });
    else this.changed({ model });
  }

  make({ model = false } = {}) {
    const tokens = Math.max(1, Math.min(256, Number($("rows-tokens").value) || 8));
    $("rows").value = written(generate(tokens, this.width, Number($("rows-seed").value) || 0));
    this.changed({ model });
  }

  /** Ask for the last layer alone from now on. */
  narrow() {
    $("layers").value = `${this.card.layers - 1}`;
    $("layers").dispatchEvent(new Event("change"));
  }

  /** The body of the request, or null where there is nothing to ask yet. */
  request(extra) {
    const input = this.mode === "text" ? this.sentence() : this.rows();
    if (!input) return null;
    const all = $("layers").value === "all";
    const tokens = input.text === undefined ? Object.values(input)[0].length : input.text.length / CHARACTERS_A_TOKEN;
    this.narrowed = all && this.card.layers > 1 && this.numbers(tokens) > MOST_NUMBERS;
    const layer = this.narrowed ? this.card.layers - 1 : Number($("layers").value);
    return { inputs: [input], layers: all && !this.narrowed ? "all" : [layer], outputs: ["weights"], ...extra };
  }

  /** Weights in a reply of all layers. */
  numbers(tokens) {
    return this.card.layers * this.card.heads * Math.min(tokens, this.card.max_tokens ?? tokens) ** 2;
  }

  sentence() {
    const text = $("sentence").value;
    return text.trim() ? { text } : null;
  }

  rows() {
    try {
      return read($("rows").value);
    } catch (error) {
      tell($("notice"), { code: "malformed", message: error.message });
      return null;
    }
  }

  /** What the address keeps: the model and, unless it is rows, the sentence. */
  place() {
    return this.mode === "text" ? { model: this.card.name, text: $("sentence").value } : { model: this.card.name };
  }

  /** Take up what an address kept. */
  restore(place) {
    this.wanted = place.get("model");
    this.take(place.get("text") || this.examples[0]);
    clear($("notice"));
  }
}
