// What the model would write: the likeliest tokens after a row, or in place of a [MASK], and what has changed against
// the kept run.

import { explain, withoutOutput } from "../offers.js";
import { Refusal, attend } from "../server.js";

const MOST = 6; // words shown of each run
const SAME = "same"; // to a tenth of a percentage point
const MASK = /^(\[MASK\]|<mask>)$/i;

const $ = (id) => document.getElementById(id);

/** The panel of predictions. */
export class Next {
  constructor() {
    Object.assign(this, { asking: null, asked: [] });
  }

  fit(card, cards) {
    const without = (one) => withoutOutput(one, "next_ids");
    this.refusal = without(card);
    this.own = card.predictions?.of === "own"; // a row speaks of its own word, not of the one after it
    explain($("next-refused"), card, cards, without);
    this.say("");
    this.asking?.abort();
    this.asked = [];
  }

  /** Ask what the model would write at `row` of `run` (null: the row worth asking), and what it would have in the kept run. */
  async show(run, { kept = null, row = null } = {}) {
    if (this.refusal || [run, kept, row].every((one, i) => one === this.asked[i])) return;
    this.asked = [run, kept, row];
    this.asking?.abort();
    const turn = new AbortController();
    this.asking = turn;
    const runs = [run, kept].filter(Boolean);
    const rows = runs.map((one) => this.rowOf(one, row));
    if (rows.includes(null)) {
      this.say("It fills in a [MASK]: write one into the sentence, or hold a token.");
      return;
    }
    try {
      const found = await Promise.all(runs.map((one, i) => predictions(one, rows[i], turn.signal)));
      await complete(runs, rows, found, turn.signal);
      if (this.asking === turn) this.draw(run, rows[0], found);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refusal)) throw error;
      this.say(error.message);
    }
  }

  say(words) {
    $("next-list").replaceChildren();
    $("next-of").textContent = words;
  }

  /** The row held; else the last, or of a model that speaks of its own words the first [MASK]; null where there is none. */
  rowOf({ attention }, row) {
    if (row !== null && row < attention.T) return row;
    if (!this.own) return attention.T - 1;
    const mask = attention.tokens.findIndex((token) => MASK.test(token));
    return mask < 0 ? null : mask;
  }

  draw(run, row, [now, before]) {
    $("next-of").textContent = `${this.own ? "In place of" : "After"} ${run.word(row)}:`;
    const order = [...now.values()].sort((a, b) => b.logprob - a.logprob);
    $("next-list").replaceChildren(...order.map((one) => line(one, before?.get(one.id))));
  }
}

/** The likeliest tokens of one row, by id. */
async function predictions(run, row, signal) {
  const wanted = run.about({ layers: -1, rows: [row], outputs: ["next"], top_k: MOST });
  const { body } = await attend(run.card.name, wanted, { signal });
  const { next_ids: [ids], next_logprobs: [logprobs], next_tokens: tokens } = body.outputs[0];
  return new Map(ids.map((id, i) => [id, { id, token: tokens?.[0][i] ?? `${id}`, logprob: logprobs[i] }]));
}

/** Have each run say of the others' tokens, too, how likely they are. */
async function complete(runs, rows, found, signal) {
  const all = new Map(found.flatMap((one) => [...one]));
  await Promise.all(
    runs.map(async (run, i) => {
      const targets = [...all.keys()].filter((id) => !found[i].has(id));
      if (!targets.length) return;
      const wanted = run.about({ layers: -1, rows: [rows[i]], outputs: ["logprobs"], targets });
      const { body } = await attend(run.card.name, wanted, { signal });
      targets.forEach((id, n) => found[i].set(id, { ...all.get(id), logprob: body.outputs[0].logprobs[0][n] }));
    }),
  );
}

function line({ token, logprob }, before) {
  const made = document.createElement("li");
  const now = Math.exp(logprob);
  const word = document.createElement("b");
  word.textContent = token;
  const bar = document.createElement("i");
  bar.style.setProperty("--share", `${100 * now}%`);
  const figure = document.createElement("span");
  figure.textContent = percent(now);
  made.append(word, bar, figure);
  if (before) {
    const change = now - Math.exp(before.logprob);
    bar.style.setProperty("--before", `${100 * Math.exp(before.logprob)}%`);
    bar.classList.add("compared");
    const moved = document.createElement("em");
    moved.textContent = points(change);
    if (moved.textContent !== SAME) moved.className = change < 0 ? "less" : "more";
    made.append(moved);
  }
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

/** A change of a share in percentage points. */
function points(change) {
  const size = Math.abs(100 * change).toFixed(1);
  if (size === "0.0") return SAME;
  return `${change < 0 ? "−" : "+"}${size}`;
}
