// The kept run: one answer put aside, that every later one is held against.

import { alike, difference } from "./attention.js";
import { ask } from "./run.js";

const HINT = "Keep it, change something, and see the difference.";

const $ = (id) => document.getElementById(id);

/** The kept run and its buttons. `current()` gives the run on the page; `changed()` is called when another is kept, or none. */
export class Kept {
  constructor({ current, changed }) {
    Object.assign(this, { current, run: null, wanted: null });
    $("keep").addEventListener("click", () => {
      this.keep(current());
      changed();
      $("forget").focus();
    });
    $("forget").addEventListener("click", () => {
      this.forget();
      changed();
      $("keep").focus();
    });
    $("difference").addEventListener("change", () => changed());
  }

  keep(run) {
    Object.assign(this, { run, wanted: null });
    $("difference").checked = true;
  }

  forget() {
    Object.assign(this, { run: null, wanted: null });
    $("difference").checked = false;
  }

  /** Have the input of an address be the kept run, once `bring` asks for it; `now` where it says edits alone. */
  restore(address, now) {
    $("difference").checked = address.flag("difference");
    const found = address.input("kept");
    if (!found) return;
    const { edits, ...other } = found;
    const whole = Object.keys(other).length ? other : bare(now);
    this.wanted = edits?.length ? { ...whole, edits } : whole;
  }

  /** What the address keeps: the input, or its edits alone where all else is that of `run`. */
  place(run) {
    const input = this.wanted ?? this.run?.input;
    if (!input) return {};
    const same = JSON.stringify(bare(input)) === JSON.stringify(bare(run.input));
    return { kept: same ? { edits: input.edits ?? [] } : input, difference: $("difference").checked };
  }

  /** Have what is kept be of the same layers as `run`, which is of the same model: it is asked for anew where it is not. */
  async bring(run, { signal }) {
    const input = this.wanted ?? this.run?.input;
    if (!input || (!this.wanted && `${this.run.attention.layers}` === `${run.attention.layers}`)) return;
    const request = { ...run.request, inputs: [input] };
    this.run = (await ask(run.card, request, { signal })).run;
    this.wanted = null;
  }

  /** Whether it is still to be asked for, as an address has it. */
  get awaited() {
    return this.wanted !== null;
  }

  /** Whether `run` can be held against it cell by cell. */
  comparable(run) {
    return Boolean(this.run) && this.run !== run && alike(this.run.attention, run.attention);
  }

  /** Whether it is the difference that is looked at. */
  differing(run) {
    return $("difference").checked && this.comparable(run);
  }

  /** How much more weight `run` has than what is kept, of one head. */
  difference(run, layer, head) {
    return difference(run.attention.matrix(layer, head), this.run.attention.matrix(layer, head));
  }

  show(run) {
    const kept = this.run;
    $("keep").textContent = kept ? "Keep this one instead" : "Keep this run";
    $("keep").disabled = kept === run;
    $("forget").hidden = !kept;
    $("difference").disabled = !this.comparable(run);
    $("difference").closest("label").hidden = !kept;
    $("kept").textContent = kept ? this.words(run) : HINT;
  }

  words(run) {
    const { input, attention } = this.run;
    const edits = input.edits?.length ?? 0;
    const edited = edits ? `with ${edits} ${edits === 1 ? "edit" : "edits"}` : "without edits";
    const said = `${input.text === run.input.text ? "this sentence" : `“${shortened(input.text)}”`} ${edited}`;
    if (this.run === run) return `Kept: this run, ${edited}. Now change something.`;
    if (this.comparable(run)) return `Kept: ${said}.`;
    return `Kept: ${said}. Its weights cannot be compared cell by cell: it has ${attention.T} tokens, this run ${run.attention.T}.`;
  }
}

/** An input without its edits. */
function bare({ edits, ...input }) {
  return input;
}

function shortened(text) {
  if (text === undefined) return "other rows";
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
}
