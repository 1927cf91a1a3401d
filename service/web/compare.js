// One word in two sentences: the cosine distance of its two vectors at every layer, and which tokens of its own
// sentence each vector has come close to.

import { cosine } from "./attention.js";
import { colour, contrast } from "./colour.js";
import { rove, settle } from "./focus.js";
import { Refusal, attend } from "./server.js";
import { clear, tell } from "./notice.js";

const CHIP = "button.token";
const PULLS = 3;

const $ = (id) => document.getElementById(id);

/** The comparison panel. `model()` gives the card in use. */
export class Comparison {
  constructor({ model }) {
    this.model = model;
    this.layer = null;
    this.chosen = [0, 0];
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
    $("compare-result").hidden = true;
    this.layer = null;
    clear($("compare-notice"));
    this.sight?.disconnect();
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
    const place = $("compare-notice");
    const card = this.model();
    const name = $("vectors").value;
    const inputs = ["first", "second"].map((id) => ({ text: $(id).value }));
    try {
      const reply = await attend(card.name, { inputs, layers: "all", outputs: [name] });
      if (card !== this.model()) return; // another was chosen meanwhile
      clear(place);
      this.take(reply.body.outputs, name);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      $("compare-result").hidden = true;
      tell(place, error, [["Try again", () => this.ask()]]);
    }
  }

  take(outputs, name) {
    this.tokens = outputs.map((output) => output.tokens);
    this.vectors = outputs.map((output) => output[name]);
    const last = this.vectors[0].length - 1;
    this.layer = Math.min(this.layer ?? last, last);
    this.chosen = sharedWord(...this.tokens);
    $("compare-result").hidden = false;
    this.draw();
  }

  choose(side, at) {
    this.chosen[side] = at;
    const twin = this.tokens[1 - side].indexOf(this.tokens[side][at]);
    if (twin >= 0) this.chosen[1 - side] = twin; // the same token on the other side, where there is one
    this.draw();
  }

  chooseLayer(layer) {
    this.layer = layer;
    this.draw();
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
        chip.style.background = colour(weight);
        chip.style.color = contrast(weight);
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

/** Places of the longest token that both sentences have; the second token of each where they share none. */
function sharedWord(first, second) {
  const shared = first.filter((word) => /\p{L}/u.test(word) && !/^[[<]/.test(word) && second.includes(word));
  shared.sort((a, b) => b.length - a.length);
  if (!shared.length) return [Math.min(1, first.length - 1), Math.min(1, second.length - 1)];
  return [first.indexOf(shared[0]), second.indexOf(shared[0])];
}
