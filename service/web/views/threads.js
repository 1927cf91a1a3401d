// The sentence twice, side by side, and a thread for every weight: from the token that attends to the tokens it
// attends to.

import { differences, scaleOf } from "./colour.js";
import { rove } from "./focus.js";

const TOKEN = "button.token";
const ROW = 27; // px; explorer.css has the same in --row
const MOST_PIXELS = 16e6; // of one canvas: what the most modest browser allows
const FAINTEST = 0.015; // a thread of less is not drawn while all are shown
const PLAIN = 0.5; // where on the scale of differences a thread's colour is taken, whatever its size: it shows by width

/** The two columns and the canvas between. `point(at)` and `hold(at)`: {row} on the left, {key} on the right. */
export class Threads {
  constructor({ queries, keys, canvas }, { point, hold }) {
    Object.assign(this, { queries, keys, canvas, point, hold, at: null });
    for (const [list, side] of [[queries, "row"], [keys, "key"]]) {
      rove(list, TOKEN);
      const tell = (act) => (event) => {
        const token = event.target.closest(TOKEN);
        if (token) act({ [side]: Number(token.dataset.at) });
      };
      list.addEventListener("pointerover", tell((at) => this.point(at)));
      list.addEventListener("pointerleave", () => this.point(null));
      list.addEventListener("focusin", tell((at) => this.point(at)));
      list.addEventListener("focusout", () => this.point(null));
      list.addEventListener("click", tell((at) => this.hold(at)));
    }
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show a view of a matrix with these tokens. */
  show(view, tokens) {
    this.view = view;
    this.fill(this.queries, view.rows, tokens);
    this.fill(this.keys, view.keys, tokens);
    if (view.hiding) {
      const rest = document.createElement("li");
      rest.className = "rest";
      rest.textContent = "left out";
      this.keys.append(rest);
    }
    const lines = Math.max(view.rows.length, view.keys.length + (view.hiding ? 1 : 0));
    this.height = lines * ROW;
    this.canvas.style.height = `${this.height}px`;
    this.mark(null);
  }

  /** Bring a query's row into view, inside the list only. */
  reveal(row) {
    const list = this.canvas.parentElement;
    const top = this.view.rows.indexOf(row) * ROW;
    if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 2 * ROW) list.scrollTop = top - list.clientHeight / 2;
  }

  /** Show the threads of one query ({row}), of one key ({key}), or all (null). */
  mark(at, held = null) {
    this.at = at;
    if (!this.view) return;
    const { view } = this;
    const rowOf = (row) => (key) => view.matrix[row * view.S + key];
    const row = view.rows.includes(at?.row) ? at.row : undefined;
    const key = row === undefined && view.keys.includes(at?.key) ? at.key : undefined;
    const received = (k) => view.rows.reduce((sum, r) => sum + rowOf(r)(k), 0) / (view.rows.length || 1);
    this.shade(this.keys, key === undefined ? (row === undefined ? received : rowOf(row)) : null, row !== undefined);
    this.shade(this.queries, key === undefined ? null : (r) => rowOf(r)(key), true);
    this.shadeRest(row);
    this.current(this.queries, row, held?.row);
    this.current(this.keys, key, held?.key);
    this.draw();
  }

  fill(list, places, tokens) {
    const item = (at, first) => {
      const line = document.createElement("li");
      const token = document.createElement("button");
      token.type = "button";
      token.className = "token";
      token.dataset.at = at;
      token.tabIndex = first ? 0 : -1;
      const word = document.createElement("span");
      word.textContent = tokens[at];
      token.append(word, document.createElement("small"));
      line.append(token);
      return line;
    };
    list.replaceChildren(...places.map((at, i) => item(at, i === 0)));
  }

  shade(list, weightOf, numbered) {
    for (const token of list.querySelectorAll(TOKEN)) {
      const weight = weightOf ? weightOf(Number(token.dataset.at)) : null;
      const scale = scaleOf(this.view);
      token.style.background = weight === null ? "" : scale.colour(weight / this.view.full);
      token.style.color = weight === null ? "" : scale.contrast(weight / this.view.full);
      token.lastChild.textContent = numbered && weight !== null ? percent(weight, this.view) : "";
    }
  }

  shadeRest(row) {
    const rest = this.keys.querySelector(".rest");
    if (!rest) return;
    const mass = row === undefined ? average(this.view.leftOut) : this.view.leftOut[this.view.rows.indexOf(row)];
    rest.textContent = `left out ${percent(mass, this.view)}`;
  }

  current(list, at, held) {
    for (const token of list.querySelectorAll(TOKEN)) {
      const place = Number(token.dataset.at);
      token.classList.toggle("current", place === at);
      token.setAttribute("aria-pressed", `${place === held}`);
    }
  }

  draw() {
    if (!this.view || !this.canvas.clientWidth) return;
    const width = this.canvas.clientWidth;
    const scale = Math.min(devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (width * this.height)));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(this.height * scale);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineCap = "round";
    const { view, at } = this;
    view.rows.forEach((row, y) => {
      view.keys.forEach((key, x) => {
        const chosen = at?.row === row || (at?.row === undefined && at?.key === key);
        const weight = view.matrix[row * view.S + key];
        if (view.signed) context.strokeStyle = differences.colour(weight < 0 ? -PLAIN : PLAIN);
        if (at ? chosen : Math.abs(weight) > FAINTEST) strand(context, { weight, y, x, width, strong: Boolean(at) });
      });
    });
    if (view.hiding) this.drawRest(context, width, style.getPropertyValue("--soft"));
  }

  drawRest(context, width, ink) {
    const { view, at } = this;
    context.strokeStyle = ink;
    context.setLineDash([2, 5]);
    view.leftOut.forEach((weight, y) => {
      const chosen = at?.row === view.rows[y];
      if (chosen) strand(context, { weight, y, x: view.keys.length, width, strong: true });
    });
  }
}

function strand(context, { weight: signed, y, x, width, strong }) {
  const weight = Math.abs(signed);
  const [from, to] = [(y + 0.5) * ROW, (x + 0.5) * ROW];
  context.globalAlpha = strong ? Math.sqrt(Math.min(1, weight)) : Math.min(0.9, weight);
  context.lineWidth = strong ? 0.5 + 7 * weight : 0.6 + 4 * weight;
  context.beginPath();
  context.moveTo(0, from);
  context.bezierCurveTo(width * 0.45, from, width * 0.55, to, width, to);
  context.stroke();
}

function percent(weight, { signed }) {
  if (!signed) return weight > 0 && weight < 0.005 ? "<1%" : `${Math.round(100 * weight)}%`;
  const whole = Math.round(100 * weight);
  return whole ? `${whole < 0 ? "−" : "+"}${Math.abs(whole)}%` : "0%";
}

function average(numbers) {
  return numbers.length ? numbers.reduce((sum, x) => sum + x, 0) / numbers.length : 0;
}
