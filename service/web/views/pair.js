// Why a weight is what it is: the query times the key, dimension by dimension, then the scale, then the softmax.

import { explain, withoutOutput } from "../offers.js";
import { Refusal, attend } from "../server.js";

const PAUSE = 120; // ms that a pair is pointed at before its vectors are asked for
const NAMED = 3; // dimensions said in words

const $ = (id) => document.getElementById(id);

/** The panel of one pair's q·k. */
export class Pair {
  constructor() {
    Object.assign(this, { asking: null, timer: 0, row: null });
  }

  fit(card, cards) {
    const without = (one) => withoutOutput(one, "queries") || withoutOutput(one, "keys");
    this.refusal = without(card);
    this.extra = ["scores", "lse"].filter((name) => !withoutOutput(card, name));
    explain($("pair-refused"), card, cards, without);
    this.say("");
  }

  /** Show the pair of `head` of `layer` (its place among the run's), or say how to choose one. */
  show(run, { layer, head, at }) {
    clearTimeout(this.timer);
    if (this.refusal) return;
    if (head === "mean") this.say("A mean over heads has no query and no key: choose one head.");
    else if (at?.row === undefined || at.key === undefined) this.say("Point at a cell of the matrix; click to hold it.");
    else {
      const known = this.row?.run === run && this.row.layer === layer && this.row.head === head && this.row.at === at.row;
      this.timer = setTimeout(() => this.bring(run, { layer, head, at }), known ? 0 : PAUSE);
    }
  }

  say(words) {
    this.asking?.abort();
    $("pair-note").textContent = words;
    $("pair-note").hidden = !words;
    $("pair-result").hidden = true;
  }

  async bring(run, { layer, head, at }) {
    this.asking?.abort();
    const turn = new AbortController();
    this.asking = turn;
    try {
      const known = this.row?.run === run && this.row.layer === layer && this.row.head === head && this.row.at === at.row;
      if (!known) {
        const wanted = { layers: run.attention.layers[layer], heads: [head], rows: [at.row] };
        const outputs = ["queries", "keys", ...this.extra];
        const { body } = await attend(run.card.name, run.about({ ...wanted, outputs }), { signal: turn.signal });
        this.row = { run, layer, head, at: at.row, output: body.outputs[0] };
      }
      if (this.asking === turn) this.draw(at);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      this.say(error.message);
    }
  }

  draw({ row, key }) {
    const { run, layer, head, output } = this.row;
    const [query, keyed] = [output.queries[0][0], output.keys[0][key]];
    const products = query.map((q, d) => q * keyed[d]);
    $("pair-note").hidden = true;
    $("pair-result").hidden = false;
    $("pair-of").textContent = `${run.word(row)} → ${run.word(key)}, layer ${run.attention.layers[layer]}, head ${head}`;
    bars("pair-query", query);
    bars("pair-key", keyed);
    bars("pair-product", products);
    $("pair-most").textContent = most(products);
    const weight = run.attention.matrix(layer, head)[row * run.attention.S + key];
    const known = { score: output.scores?.[0][0][key], lse: output.lse?.[0][0], weight };
    $("pair-sum").replaceChildren(...sum(run.card, { query, keyed, products, ...known }).flatMap(step));
  }
}

/** One bar a dimension, up for more than 0 and down for less; the largest is as high as there is room. */
function bars(id, numbers) {
  const full = Math.max(...numbers.map(Math.abs)) || 1;
  const made = numbers.map((number, d) => {
    const bar = document.createElement("i");
    bar.className = number < 0 ? "less" : "more";
    bar.style.setProperty("--share", `${(50 * Math.abs(number)) / full}%`);
    bar.title = `dimension ${d}: ${number.toFixed(4)}`;
    return bar;
  });
  $(id).replaceChildren(...made);
  $(id).setAttribute("aria-label", `${numbers.length} dimensions, the largest ${full.toFixed(3)} in size`);
}

function most(products) {
  const order = products.map((product, d) => [d, product]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const named = order.slice(0, NAMED).map(([d, product]) => `${d} (${signed(product)})`);
  return `Most of it comes from dimensions ${named.join(", ")}.`;
}

/** The way from the product to the weight, as [name, number] of each step. */
function sum(card, { query, keyed, products, score, lse, weight }) {
  const product = products.reduce((total, x) => total + x, 0);
  const steps = [["q · k", signed(product)]];
  const scaled = scaling(card.spec?.attention, { query, keyed, product, steps });
  if (score === null) steps.push(["masked or blocked", "−∞"]);
  else if (score !== undefined && scaled === null) steps.push(["as the model scales it", signed(score)]);
  else if (score !== undefined && Math.abs(score - scaled) > 1e-3 * Math.max(1, Math.abs(score))) {
    steps.push(["after what the model adds, or an edit", signed(score)]);
  }
  if (lse !== undefined && lse !== null) steps.push(["− logsumexp of the row", signed(-lse)]);
  steps.push(["exponential: the weight", weight.toFixed(4)]);
  return steps;
}

/** The product as the model's rule scales it, its steps noted; null where the rule is not known here. */
function scaling(rule, { query, keyed, product, steps }) {
  if (!rule) return null;
  const cosine = rule.similarity === "cosine";
  const length = cosine ? Math.hypot(...query) * Math.hypot(...keyed) || 1 : 1;
  if (cosine) steps.push(["÷ ‖q‖ ‖k‖", signed(product / length)]);
  const usual = rule.scale === null && !cosine;
  const factor = rule.scale ?? (cosine ? 1 : 1 / Math.sqrt(query.length));
  const scaled = (product / length) * factor;
  steps.push([usual ? `÷ √${query.length}` : `× ${Number(factor.toPrecision(4))}`, signed(scaled)]);
  return scaled;
}

function step([name, number]) {
  const [term, value] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  value.textContent = number;
  return [term, value];
}

function signed(number) {
  return `${number < 0 ? "−" : ""}${Math.abs(number).toFixed(3)}`;
}
