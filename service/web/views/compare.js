// One word in two sentences: the cosine distance of its two vectors at every layer, and which tokens of its own
// sentence each vector has come close to.

import { cosine } from "../attention.js";
import { weights } from "./colour.js";
import { rove, settle } from "./focus.js";
import { Refusal, attend } from "../server.js";
import { clear, tell } from "../notice.js";

const CHIP = "button.token";
const PULLS = 3;

const $ = (id) => document.getElementById(id);

const FIELDS = ["first", "second", "vectors"];

/** The comparison panel. `model()` gives the card in use; `changed()` is called when the address should say something else. */
export class Comparison {
  constructor({ model, changed }) {
    Object.assign(this, { model, changed, layer: null, chosen: [0, 0], own: false, vectors: null, wanted: null });
    this.page = fields(); // the page's own sentences, for models that bring none
    this.usual = this.page;
    this.asked = this.usual;
    $("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    $("vectors").addEventListener("change", () => this.ask());
    for (const [side, id] of ["first-tokens", "second-tokens"].entries()) {
      rove($(id), CHIP);
      $(id).addEventListener("click", (event) => {
        const chip = event.target.closest(CHIP);
        if (chip) this.choose(side, Number(chip.dataset.at));
      });
    }
    rove($("bars"), "button");
    $("bars").addEventListener("click", (event) => {
      const bar = event.target.closest("button");
      if (bar) this.chooseLayer(Number(bar.dataset.layer));
    });
  }

  /** Fit the panel to a model: it needs text in and `z` out. */
  fit(card) {
    const offered = card.outputs.map((output) => output.name);
    $("compare").hidden = !(card.inputs.includes("text") && offered.includes("z"));
    $("vector-choice").hidden = !offered.includes("hidden");
    if (!offered.includes("hidden")) $("vectors").value = "z";
    this.exemplify(card.examples ?? []);
    $("compare-result").hidden = true;
    Object.assign(this, { layer: null, wanted: null, vectors: null, own: false });
    clear($("compare-notice"));
    this.sight?.disconnect();
  }

  /** Stand the model's own sentences in, where those of another are untouched. */
  exemplify(own) {
    const usual = own.length > 1 ? { ...this.page, first: own[0], second: own.at(-1) } : this.page;
    for (const id of ["first", "second"]) {
      if ($(id).value === this.usual[id]) $(id).value = usual[id];
    }
    this.usual = usual;
    this.asked = fields();
  }

  /** Take up what an address kept; the layer and the words wait for the reply. */
  restore(address) {
    for (const id of FIELDS) {
      const value = address.text(id);
      const possible = id !== "vectors" || (value === "hidden" && !$("vector-choice").hidden);
      if (value !== null && possible) $(id).value = value;
    }
    this.wanted = { layer: address.number("bar"), words: address.pair("words") };
  }

  /** What the address keeps: what is not as the page has it by itself. */
  place() {
    const asked = this.wanted ? fields() : this.asked;
    const told = FIELDS.filter((id) => asked[id] !== this.usual[id]).map((id) => [id, asked[id]]);
    const last = this.vectors && this.vectors[0].length - 1;
    const now = { layer: this.layer === last ? null : this.layer, words: this.own ? this.chosen : null };
    const { layer, words } = this.wanted ?? now;
    return { ...Object.fromEntries(told), bar: layer, words: words && `${words}` };
  }

  /** Ask by itself, once, when the panel is looked at: called when the page has shown its own answer. */
  wait() {
    if (!$("compare-result").hidden || $("compare").hidden) return;
    this.sight?.disconnect();
    this.sight = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      this.sight.disconnect();
      this.ask();
    });
    this.sight.observe($("compare"));
  }

  async ask() {
    this.asking?.abort();
    const turn = new AbortController();
    this.asking = turn;
    const place = $("compare-notice");
    const card = this.model();
    const asked = fields();
    const inputs = [{ text: asked.first }, { text: asked.second }];
    try {
      const reply = await attend(card.name, { inputs, layers: "all", outputs: [asked.vectors] }, { signal: turn.signal });
      if (card !== this.model()) return; // another was chosen meanwhile
      clear(place);
      this.asked = asked;
      this.take(reply.body.outputs, asked.vectors);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      $("compare-result").hidden = true;
      tell(place, error, [["Try again", () => this.ask()]]);
    }
  }

  take(outputs, name) {
    this.tokens = outputs.map((output) => output.tokens);
    this.vectors = outputs.map((output) => output[name]);
    const last = this.vectors[0].length - 1;
    const { layer, words } = this.wanted ?? {};
    this.wanted = null;
    this.layer = Math.min(layer ?? this.layer ?? last, last);
    this.own = Boolean(words) && words.every((at, side) => at < this.tokens[side].length); // chosen by hand
    this.chosen = this.own ? words : sharedWord(...this.tokens);
    $("compare-result").hidden = false;
    this.draw();
    this.changed();
  }

  choose(side, at) {
    this.chosen[side] = at;
    this.own = true;
    const twin = this.tokens[1 - side].indexOf(this.tokens[side][at]);
    if (twin >= 0) this.chosen[1 - side] = twin; // the same token on the other side, where there is one
    this.draw();
    this.changed();
  }

  chooseLayer(layer) {
    this.layer = layer;
    this.draw();
    this.changed();
  }

  draw() {
    const focused = document.activeElement?.dataset ?? {};
    this.chips("first-tokens", 0);
    this.chips("second-tokens", 1);
    this.bars();
    this.words();
    const again = focused.layer !== undefined && $("bars").querySelector(`[data-layer="${focused.layer}"]`);
    if (again) again.focus();
  }

  similarities(side) {
    const vectors = this.vectors[side][this.layer];
    return vectors.map((vector) => cosine(vector, vectors[this.chosen[side]]));
  }

  chips(id, side) {
    const held = document.activeElement?.parentElement?.id === id;
    const near = this.similarities(side);
    const made = this.tokens[side].map((word, at) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "token";
      chip.dataset.at = at;
      chip.textContent = word;
      const chosen = at === this.chosen[side];
      chip.setAttribute("aria-pressed", `${chosen}`);
      chip.title = chosen ? "the chosen token" : `cosine similarity ${near[at].toFixed(3)}`;
      if (!chosen) {
        const weight = Math.max(0, near[at]) ** 2; // the ramp takes a square root
        chip.style.background = weights.colour(weight);
        chip.style.color = weights.contrast(weight);
      }
      return chip;
    });
    $(id).replaceChildren(...made);
    settle($(id), CHIP, made[this.chosen[side]]);
    if (held) made[this.chosen[side]].focus();
  }

  distances() {
    return this.vectors[0].map((layer, l) => 1 - cosine(layer[this.chosen[0]], this.vectors[1][l][this.chosen[1]]));
  }

  bars() {
    const distances = this.distances();
    const full = Math.max(1, ...distances); // 1 is a right angle; opposite directions reach 2
    const made = distances.map((distance, layer) => {
      const bar = document.createElement("button");
      bar.type = "button";
      bar.dataset.layer = layer;
      bar.setAttribute("aria-pressed", `${layer === this.layer}`);
      bar.setAttribute("aria-label", `layer ${layer}: ${distance.toFixed(3)}`);
      const column = document.createElement("i");
      column.style.setProperty("--share", `${(100 * distance) / full}%`);
      const value = document.createElement("b");
      value.textContent = distance.toFixed(2);
      const name = document.createElement("span");
      name.textContent = `layer ${layer}`;
      bar.append(column, value, name);
      return bar;
    });
    $("bars").replaceChildren(...made);
    settle($("bars"), "button", made[this.layer]);
  }

  words() {
    const [a, b] = [0, 1].map((side) => this.tokens[side][this.chosen[side]]);
    const figure = document.createElement("b");
    figure.textContent = this.distances()[this.layer].toFixed(3);
    $("distance").replaceChildren(
      figure,
      ` cosine distance at layer ${this.layer} between “${a}” in the first sentence and “${b}” in the second. 0 is the same direction, 1 unrelated.`,
    );
    $("neighbours").textContent = `Nearest in its own sentence: ${this.nearest(0)}; ${this.nearest(1)}.`;
  }

  nearest(side) {
    const near = this.similarities(side);
    const order = near.map((_, at) => at).filter((at) => at !== this.chosen[side]);
    order.sort((x, y) => near[y] - near[x]);
    return order
      .slice(0, PULLS)
      .map((at) => `${this.tokens[side][at]} ${near[at].toFixed(2)}`)
      .join(", ");
  }
}

/** What the form holds. */
function fields() {
  return Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
}

/** Places of the longest token that both sentences have; the second token of each where they share none. */
function sharedWord(first, second) {
  const shared = first.filter((word) => /\p{L}/u.test(word) && !/^[[<]/.test(word) && second.includes(word));
  shared.sort((a, b) => b.length - a.length);
  if (!shared.length) return [Math.min(1, first.length - 1), Math.min(1, second.length - 1)];
  return [first.indexOf(shared[0]), second.indexOf(shared[0])];
}
