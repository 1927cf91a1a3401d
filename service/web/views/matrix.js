// One matrix, large: token labels on both axes, the weight under the pointer or the arrow keys, and, where
// special tokens are hidden, a hatched column that holds the mass that went to them.

import { scaleOf } from "./colour.js";
import { listen, within } from "./matrix_input.js";

const LARGEST_CELL = 44;
const LABELLED_CELL = 10; // below it labels would overlap: none are written, and the line below the matrix says what is pointed at
const NUMBERED_CELL = 27;
const LONGEST_LABEL = 92;
const FONT = '12px ui-sans-serif, system-ui, "Inter", "Segoe UI", sans-serif';
const MOST_MEASURED = 64; // labels measured for the gutter: with more tokens than this none are written
const SLANT = Math.PI / 4;

/**
 * The matrix on `canvas`. `point({row, key})` follows the pointer (null: it left), `hold({row, key})` a click,
 * `block({rows, keys})` cells that were dragged over, where it is `blockable()`; `drag(area)` says which are being
 * dragged over (null: none).
 */
export class Matrix {
  constructor(canvas, acts) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.at = null;
    this.area = null;
    listen(this, acts);
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  /** Draw a view of a matrix (`shown` of attention.js) with these tokens; `blocked(row, key)` cells are crossed out. */
  show(view, tokens, blocked) {
    Object.assign(this, { view, tokens, blocked, at: null, area: null });
    this.draw();
  }

  /** Frame an area, {rows, keys} of the cells in it; null frames none. */
  outlineArea(area) {
    this.area = area;
    this.draw();
  }

  /** Frame one row, and one key in it where given; null frames nothing. */
  mark(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    if (!this.view) return;
    this.context.font = FONT;
    this.measure();
    const { context, place } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [Math.round(place.width * scale), Math.round(place.height * scale)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    this.canvas.style.height = `${place.height}px`;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, place.width, place.height);
    context.font = FONT;
    this.style = getComputedStyle(document.documentElement);
    this.cells();
    if (this.view.hiding) this.leftOut();
    this.labels();
    this.frame();
  }

  measure() {
    const { rows, keys, hiding } = this.view;
    const width = this.canvas.parentElement.clientWidth - padding(this.canvas.parentElement);
    const across = keys.length + (hiding ? 1.4 : 0);
    const left = this.widest(rows) + 12;
    const slanted = this.widest(keys) * Math.SQRT1_2;
    const roomy = Math.min(LARGEST_CELL, (width - left - 6) / across);
    const over = Math.max(0, slanted - roomy / 2); // the last slanted label leans out to the right
    const cell = Math.floor(Math.min(LARGEST_CELL, (width - left - over - 6) / across));
    this.place =
      cell >= LABELLED_CELL
        ? { width, left, top: slanted + 16, cell, labelled: true }
        : { width, left: 4, top: 4, cell: whole((width - 8) / across), labelled: false };
    this.place.height = Math.ceil(this.place.top + this.place.cell * rows.length + 4);
  }

  widest(places) {
    const widths = places.slice(0, MOST_MEASURED).map((i) => this.context.measureText(this.tokens[i]).width);
    return Math.min(LONGEST_LABEL, Math.max(8, ...widths));
  }

  cells() {
    const { context, place, view } = this;
    const gap = place.cell >= 18 ? 2 : place.cell >= 8 ? 1 : 0;
    const side = place.cell - gap;
    view.rows.forEach((row, y) => {
      view.keys.forEach((key, x) => {
        const weight = view.matrix[row * view.S + key];
        const corner = { x: place.left + x * place.cell, y: place.top + y * place.cell };
        const blocked = this.blocked(row, key);
        this.box({ weight, ...corner, side, numbered: !blocked });
        if (blocked) this.cross({ ...corner, side });
      });
    });
    context.textAlign = "left";
  }

  box({ weight, x, y, side, numbered = true }) {
    const { context, place, view } = this;
    const scale = scaleOf(view);
    const tone = weight / view.full;
    context.fillStyle = scale.colour(tone);
    if (place.cell >= 12) {
      context.beginPath();
      context.roundRect(x, y, side, side, Math.min(4, place.cell / 8));
      context.fill();
    } else {
      context.fillRect(x, y, side + (place.cell < 8 ? 0.5 : 0), side + (place.cell < 8 ? 0.5 : 0));
    }
    if (!numbered || place.cell < NUMBERED_CELL || Math.abs(weight) < 0.005) return;
    context.fillStyle = scale.contrast(tone);
    context.font = `${place.cell >= 36 ? 11.5 : 10}px ui-sans-serif, system-ui, "Inter", sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(short(weight, view.signed), x + side / 2, y + side / 2 + 0.5);
    context.font = FONT;
  }

  cross({ x, y, side }) {
    const { context } = this;
    const inset = side / 3.2;
    context.strokeStyle = this.ink("--accent");
    context.lineWidth = Math.min(2, side / 6);
    context.beginPath();
    for (const [from, to] of [[inset, side - inset], [side - inset, inset]]) {
      context.moveTo(x + from, y + inset);
      context.lineTo(x + to, y + side - inset);
    }
    context.stroke();
  }

  leftOut() {
    const { context, place, view } = this;
    const x = place.left + (view.keys.length + 0.4) * place.cell;
    const side = Math.max(2, place.cell - 2);
    view.leftOut.forEach((mass, y) => {
      const top = place.top + y * place.cell;
      this.box({ weight: mass, x, y: top, side });
      context.save();
      context.beginPath();
      context.rect(x, top, side, side);
      context.clip();
      context.strokeStyle = scaleOf(view).contrast(mass / view.full);
      context.globalAlpha = 0.22;
      context.beginPath();
      for (let d = -side; d < side; d += 6) {
        context.moveTo(x + d, top + side);
        context.lineTo(x + d + side, top);
      }
      context.stroke();
      context.restore();
    });
    if (place.labelled) this.slanted("left out", x + place.cell / 2, this.ink("--soft"));
  }

  labels() {
    const { place, view, at } = this;
    if (!place.labelled) return;
    const ink = (marked) => this.ink(marked ? "--accent" : "--ink");
    view.rows.forEach((row, y) => this.level(this.tokens[row], place.top + (y + 0.5) * place.cell, ink(at?.row === row)));
    view.keys.forEach((key, x) => this.slanted(this.tokens[key], place.left + (x + 0.5) * place.cell, ink(at?.key === key)));
  }

  level(text, y, ink) {
    const { context, place } = this;
    context.fillStyle = ink;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(this.clipped(text), place.left - 8, y);
  }

  slanted(text, x, ink) {
    const { context, place } = this;
    context.save();
    context.translate(x, place.top - 7);
    context.rotate(-SLANT);
    context.fillStyle = ink;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(this.clipped(text), 0, 0);
    context.restore();
  }

  clipped(text) {
    if (this.context.measureText(text).width <= LONGEST_LABEL) return text;
    let kept = text;
    while (kept && this.context.measureText(`${kept}…`).width > LONGEST_LABEL) kept = kept.slice(0, -1);
    return `${kept}…`;
  }

  frame() {
    const { context, place, view, at, area } = this;
    context.strokeStyle = this.ink("--accent");
    context.lineWidth = 1.5;
    if (area) {
      const [x, y] = [view.keys.indexOf(area.keys[0]), view.rows.indexOf(area.rows[0])];
      const [across, down] = [area.keys.length * place.cell, area.rows.length * place.cell];
      context.fillStyle = this.ink("--accent");
      context.globalAlpha = 0.25;
      context.fillRect(place.left + x * place.cell - 1, place.top + y * place.cell - 1, across, down);
      context.globalAlpha = 1;
      this.outline(place.left + x * place.cell - 2, place.top + y * place.cell - 2, across + 2, down + 2);
    }
    if (!at) return;
    const y = view.rows.indexOf(at.row);
    const x = view.keys.indexOf(at.key);
    const across = (view.keys.length + (view.hiding ? 1.4 : 0)) * place.cell;
    if (y >= 0) this.outline(place.left - 2, place.top + y * place.cell - 2, across + 2, place.cell + 2);
    if (x >= 0) this.outline(place.left + x * place.cell - 2, place.top - 2, place.cell + 2, view.rows.length * place.cell + 2);
  }

  outline(x, y, width, height) {
    this.context.beginPath();
    this.context.roundRect(x, y, width, height, 5);
    this.context.stroke();
  }

  ink(name) {
    return this.style.getPropertyValue(name);
  }

  /** The cell under a pointer, or null. */
  under(event) {
    if (!this.view) return null;
    const { x, y } = this.cellAt(event);
    const [row, key] = [this.view.rows[y], this.view.keys[x]];
    return row === undefined || key === undefined ? null : { row, key };
  }

  /** The cell nearest to a pointer that may have left the matrix. */
  nearest(event) {
    const { x, y } = this.cellAt(event);
    const { rows, keys } = this.view;
    return { row: rows[within(y, rows.length)], key: keys[within(x, keys.length)] };
  }

  cellAt(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const { left, top, cell } = this.place;
    const x = Math.floor((event.clientX - bounds.left - left) / cell);
    return { x, y: Math.floor((event.clientY - bounds.top - top) / cell) };
  }
}

/** A weight in two places, without the zero before the point; of a difference the sign too. */
function short(weight, signed) {
  const size = Math.abs(weight);
  const written = size >= 0.995 ? "1" : size.toFixed(2).slice(1);
  return signed ? `${weight < 0 ? "−" : "+"}${written}` : written;
}

/** Whole pixels draw crisp; a matrix too large for them takes what there is. */
function whole(cell) {
  return cell >= 2 ? Math.min(LARGEST_CELL, Math.floor(cell)) : cell;
}

function padding(element) {
  const style = getComputedStyle(element);
  return parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
}
