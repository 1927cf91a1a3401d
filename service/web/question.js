// What is asked: the model, the sentence or the rows, the layers; and the request of the contract that says so.

import { clear, tell } from "./notice.js";
import { generate, read, written } from "./rows.js";
import { bytes } from "./terminal.js";

const MOST_NUMBERS = 3e6; // weights in one reply, about 30 MB of JSON; more is asked a layer at a time
const UNKNOWN = /^(\[UNK\]|<unk>)$/;
const CHARACTERS_A_TOKEN = 3; // fewer than English has, so that the estimate errs to the long side

const $ = (id) => document.getElementById(id);

/**
 * The form. `changed({model})` follows typing (`model`: another model was chosen), `submitted()` the button;
 * `replaced()` comes before either where the whole sentence made way for another.
 */
export class Question {
  constructor({ changed, submitted, replaced }) {
    Object.assign(this, { changed, submitted, wanted: null });
    this.truncate = false; // whether a text too long for the model is cut: said once for one text
    this.seeded = null; // [tokens, seed] of rows that were generated and not edited since
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
      this.truncate = false;
      changed({ model: false });
    });
    $("rows").addEventListener("input", () => {
      this.seeded = null;
      changed({ model: false });
    });
    $("layers").addEventListener("change", () => submitted());
    $("model").addEventListener("change", () => this.fit());
    $("mode").addEventListener("change", () => this.turn($("mode").value));
    $("rows-make").addEventListener("click", () => this.make());
    this.usual = this.examples; // those of the page, for models that bring none
    $("examples").addEventListener("click", ({ target }) => {
      if (!target.matches("button")) return;
      replaced();
      this.truncate = false;
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

  /** Offer the models there are; the one in the address first, else one that reads text. */
  offer() {
    const { cards } = this;
    $("model").replaceChildren(...cards.map((card) => new Option(card.name, card.name)));
    const wanted = cards.find((card) => card.name === this.wanted?.model);
    const reader = cards.filter((card) => card.inputs.includes("text")).sort((a, b) => b.layers - a.layers)[0];
    $("model").value = (wanted ?? reader ?? cards[0]).name;
    this.fit();
  }

  /** Turn to another model. */
  choose(name) {
    $("model").value = name;
    this.fit();
  }

  fit() {
    const { card } = this;
    const numbers = Array.from({ length: card.layers }, (_, layer) => new Option(`${layer} only`, `${layer}`));
    $("layers").replaceChildren(new Option("all", "all"), ...numbers);
    $("facts").textContent =
      `${card.family} · ${card.layers} ${card.layers === 1 ? "layer" : "layers"} × ${card.heads} heads · ` +
      `d_model ${card.d_model} · ${card.dtype} on ${card.device} · ${bytes(card.bytes_resident)} resident`;
    const wanted = this.wanted ?? {};
    this.wanted = null;
    if (wanted.layer < card.layers) $("layers").value = `${wanted.layer}`;
    const text = card.inputs.includes("text");
    this.exemplify(card.examples);
    $("mode").closest("[data-mode]").hidden = !text;
    $("ids-too").hidden = !card.inputs.includes("token_ids");
    $("width").textContent = this.width;
    $("mode").value = text ? (wanted.mode ?? "text") : "rows";
    this.turn($("mode").value, { model: true, written: wanted.rows });
  }

  /** Numbers in one row of embeddings. */
  get width() {
    return this.card.d_input ?? this.card.d_model;
  }

  turn(mode, { model = false, written: rows = null } = {}) {
    this.mode = mode;
    for (const part of document.querySelectorAll("[data-when]")) part.hidden = part.dataset.when !== mode;
    if (rows) $("rows").value = rows;
    else if (mode === "rows" && (model || !$("rows").value)) return this.make({ model });
    return this.changed({ model });
  }

  make({ model = false } = {}) {
    const tokens = Math.max(1, Math.min(256, Number($("rows-tokens").value) || 8));
    const seed = Number($("rows-seed").value) || 0;
    $("rows").value = written(generate(tokens, this.width, seed));
    this.seeded = [tokens, seed];
    this.changed({ model });
  }

  /** Ask for the last layer alone from now on. */
  narrow() {
    $("layers").value = `${this.card.layers - 1}`;
    $("layers").dispatchEvent(new Event("change"));
  }

  /** Ask for as much of the text as the model takes, until it is another. */
  cut() {
    this.truncate = true;
    this.submitted();
  }

  /** What is attended to, or null where there is nothing to ask yet. */
  input() {
    return this.mode === "text" ? this.sentence() : this.rows();
  }

  /** The body of the request, or null; `profile`: what heads do in numbers, too, where tokens are known. */
  request({ edits, profile }) {
    const input = this.input();
    if (!input) return null;
    const all = $("layers").value === "all";
    const tokens = input.text === undefined ? Object.values(input)[0].length : input.text.length / CHARACTERS_A_TOKEN;
    this.narrowed = all && this.card.layers > 1 && this.numbers(tokens) > MOST_NUMBERS;
    const layer = this.narrowed ? this.card.layers - 1 : Number($("layers").value);
    return {
      inputs: [edits.length ? { ...input, edits } : input],
      layers: all && !this.narrowed ? "all" : [layer],
      outputs: profile && !input.embeddings ? ["weights", "head_profile"] : ["weights"],
      ...(this.truncate ? { truncate: true } : {}),
    };
  }

  /** What there is to say of one output of a reply. */
  remarks({ tokens, truncated }) {
    const said = [];
    const unknown = (tokens ?? []).filter((token) => UNKNOWN.test(token)).length;
    if (unknown) said.push(`${unknown} of ${tokens.length} tokens are not in this model's vocabulary.`);
    if (truncated) said.push(`${truncated} tokens were cut off: the model has ${this.card.max_tokens} positions.`);
    if (this.narrowed) said.push("A long text: only the last layer was asked for, to keep the reply small. Others are under layers.");
    return said.join(" ");
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

  /** What the address keeps: the model, and what is asked of it. */
  place() {
    const layers = $("layers").value === "all" ? null : $("layers").value;
    const asked = { model: this.card.name, layers, truncate: this.truncate };
    if (this.mode === "text") return { ...asked, text: $("sentence").value };
    return { ...asked, mode: "rows", ...(this.seeded ? { seeded: `${this.seeded}` } : { rows: $("rows").value }) };
  }

  /** Take up what an address kept; what depends on the model waits until there is one. */
  restore(address) {
    const seeded = address.pair("seeded");
    this.wanted = {
      model: address.text("model"),
      layer: address.number("layers") ?? undefined,
      mode: address.text("mode") === "rows" ? "rows" : "text",
      rows: address.text("rows"),
    };
    if (seeded) [$("rows-tokens").value, $("rows-seed").value] = seeded;
    this.truncate = address.flag("truncate");
    this.take(address.text("text") || this.examples[0]);
    clear($("notice"));
  }
}
