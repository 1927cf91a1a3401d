// What is pointed at, in a sentence.

import { strongest } from "../attention.js";

const NAMED = 3;

/** Reads a view (`shown` of attention.js) of a run; `before` is the kept run's matrix where the view is a difference. */
export class Reading {
  constructor(run, view, before = null) {
    Object.assign(this, { run, view, before });
  }

  /** Of a cell ({row, key}), a row or a key; of nothing, what stands out. */
  of(at) {
    if (!at) return this.summary();
    if (at.row !== undefined && at.key !== undefined) return this.cell(at);
    return at.row !== undefined ? this.row(at.row) : this.key(at.key);
  }

  summary() {
    const most = strongest(this.run.attention, this.view);
    if (!most) return "";
    return `${this.view.signed ? "Changed most" : "Strongest"} between words: ${this.cell(most)}`;
  }

  cell({ row, key }) {
    const { run, view, before } = this;
    const at = row * view.S + key;
    const said = `${run.word(row)} attends to ${run.word(key)}`;
    if (!view.signed) return `${said}: ${view.matrix[at].toFixed(4)}`;
    return `${said}: ${(before[at] + view.matrix[at]).toFixed(4)}, kept ${before[at].toFixed(4)}, ${signed(view.matrix[at], 4)}`;
  }

  row(row) {
    const { run, view } = this;
    return `${run.word(row)} ${view.signed ? "changed most towards" : "attends most to"} ${this.most(view.keys, (key) => row * view.S + key)}`;
  }

  key(key) {
    const { run, view } = this;
    return `${run.word(key)} ${view.signed ? "changed most for" : "is attended to most by"} ${this.most(view.rows, (row) => row * view.S + key)}`;
  }

  most(places, at) {
    const pairs = places.map((i) => [i, this.view.matrix[at(i)]]);
    pairs.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const written = (weight) => (this.view.signed ? signed(weight, 3) : weight.toFixed(3));
    return pairs.slice(0, NAMED).map(([i, weight]) => `${this.run.word(i)} ${written(weight)}`).join(", ");
  }
}

function signed(number, places) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(places)}`;
}
