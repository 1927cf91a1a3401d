// Every layer and every head as a small heat map: layers downwards, heads to the right, their mean last; or all heads
// in an order of their own, each with the number that placed it there.

import { scaleOf } from "./colour.js";
import { rove, settle } from "./focus.js";

const CELL = "button.cell";
const MOST_PIXELS = 96; // a side; larger matrices show the largest weight of each block
const SILENCING = ["s", "S", "Delete"];

/**
 * The grid in `root`. `choose(layer, head)` is called with a place in the asked layers and a head or "mean";
 * `silence(layer, head)` with a head, for an alt-click or the key S.
 */
export class Grid {
  constructor(root, { choose, silence }) {
    Object.assign(this, { root, choose, silence, cells: new Map(), shape: "" });
    rove(root, CELL, () => this.columns());
    root.addEventListener("click", (event) => {
      const cell = event.target.closest(CELL);
      if (!cell) return;
      if (event.altKey) this.silenceIn(cell);
      else this.choose(Number(cell.dataset.layer), headOf(cell));
    });
    root.addEventListener("keydown", (event) => {
      const cell = event.target.closest(CELL);
      if (cell && SILENCING.includes(event.key) && !event.ctrlKey && !event.metaKey) this.silenceIn(cell);
    });
  }

  silenceIn(cell) {
    if (headOf(cell) !== "mean") this.silence(Number(cell.dataset.layer), headOf(cell));
  }

  /** Draw every head of `attention`; `view(layer, head)` gives what of it. `order`: [{layer, head, value}], or null. */
  show(attention, view, order = null) {
    const shape = `${attention.layers}|${attention.heads}|${order?.map((one) => [one.layer, one.head, one.value])}`;
    if (shape !== this.shape) this.rebuild(attention, order);
    this.shape = shape;
    for (const cell of this.cells.values()) {
      paint(cell.firstChild, view(Number(cell.dataset.layer), headOf(cell)));
    }
  }

  /** Mark the enlarged one. */
  select(layer, head) {
    for (const cell of this.cells.values()) cell.setAttribute("aria-pressed", "false");
    const cell = this.cells.get(`${layer}|${head}`);
    cell?.setAttribute("aria-pressed", "true");
    if (cell ?? this.root.querySelector(CELL)) settle(this.root, CELL, cell ?? this.root.querySelector(CELL));
  }

  /** Mark those that are `silenced(layer, head)`. */
  mark(silenced) {
    for (const cell of this.cells.values()) {
      const [layer, head] = [Number(cell.dataset.layer), headOf(cell)];
      const gone = silenced(layer, head);
      cell.classList.toggle("silenced", gone);
      cell.setAttribute("aria-label", gone ? `${cell.dataset.name}, silenced` : cell.dataset.name);
    }
  }

  /** How many cells stand in a row. */
  columns() {
    const tops = [...this.cells.values()].map((cell) => cell.offsetTop);
    return tops.filter((top) => top === tops[0]).length;
  }

  rebuild(attention, order) {
    const held = this.root.contains(document.activeElement) ? document.activeElement.dataset : null;
    this.cells.clear();
    this.root.classList.toggle("sorted", order !== null);
    this.root.style.setProperty("--heads", attention.heads);
    this.root.replaceChildren(...(order ? this.inOrder(attention, order) : this.byLayer(attention)));
    if (held) this.cells.get(`${held.layer}|${held.head}`)?.focus();
  }

  byLayer(attention) {
    const heads = [...Array(attention.heads).keys(), "mean"];
    const lines = attention.layers.flatMap((number, layer) => [
      element("span", "line", `${number}`),
      ...heads.map((head) => this.cell({ number, layer, head })),
    ]);
    return [element("span", "corner", "layer \\ head"), ...heads.map((head) => element("span", "column", `${head}`)), ...lines];
  }

  inOrder(attention, order) {
    return order.map(({ layer, head, value }) => {
      const box = document.createElement("div");
      const number = attention.layers[layer];
      const cell = this.cell({ number, layer, head, value });
      box.append(cell, element("span", "place", `${number}.${head}`), element("span", "value", value));
      return box;
    });
  }

  cell({ number, layer, head, value }) {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "cell";
    cell.dataset.layer = layer;
    cell.dataset.head = head;
    const name = head === "mean" ? `layer ${number}, mean over heads` : `layer ${number}, head ${head}`;
    cell.dataset.name = value === undefined ? name : `${name}: ${value}`;
    cell.setAttribute("aria-label", cell.dataset.name);
    cell.title = cell.dataset.name;
    cell.append(document.createElement("canvas"));
    this.cells.set(`${layer}|${head}`, cell);
    return cell;
  }
}

function headOf(cell) {
  return cell.dataset.head === "mean" ? "mean" : Number(cell.dataset.head);
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** Paint rows × keys, one pixel a weight (or a block of them), for the browser to enlarge. */
export function paint(canvas, view) {
  const block = Math.max(1, Math.ceil(Math.max(view.rows.length, view.keys.length) / MOST_PIXELS));
  const width = Math.max(1, Math.ceil(view.keys.length / block));
  const height = Math.max(1, Math.ceil(view.rows.length / block));
  const most = new Float32Array(width * height);
  view.rows.forEach((row, y) => {
    const line = Math.floor(y / block) * width;
    view.keys.forEach((key, x) => {
      const at = line + Math.floor(x / block);
      const weight = view.matrix[row * view.S + key];
      if (Math.abs(weight) > Math.abs(most[at])) most[at] = weight;
    });
  });
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const scale = scaleOf(view);
  const colours = scale.bytes;
  most.forEach((weight, i) => {
    const at = 3 * scale.step(weight / view.full);
    image.data.set([colours[at], colours[at + 1], colours[at + 2], 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}
