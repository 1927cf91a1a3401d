// Every layer and every head as a small heat map, layers downwards, heads to the right, their mean last.

import { ramp, step } from "./colour.js";
import { rove, settle } from "./focus.js";
import { shown } from "./attention.js";

const CELL = "button.cell";
const MOST_PIXELS = 96; // a side; larger matrices show the largest weight of each block

/** The grid in `root`. `choose(layer, head)` is called with a place in the asked layers and a head or "mean". */
export class Grid {
  constructor(root, { choose }) {
    this.root = root;
    this.choose = choose;
    this.cells = new Map();
    this.shape = "";
    rove(root, CELL, () => this.columns);
    root.addEventListener("click", (event) => {
      const cell = event.target.closest(CELL);
      if (cell) this.choose(Number(cell.dataset.layer), headOf(cell));
    });
  }

  /** Draw every head of `attention`; `choices` are those of `shown`. */
  show(attention, choices) {
    const shape = `${attention.layers}|${attention.heads}`;
    if (shape !== this.shape) this.build(attention);
    this.shape = shape;
    for (const cell of this.cells.values()) {
      const matrix = attention.matrix(Number(cell.dataset.layer), headOf(cell));
      paint(cell.firstChild, shown(attention, matrix, choices));
    }
  }

  /** Mark the enlarged one. */
  select(layer, head) {
    for (const cell of this.cells.values()) cell.setAttribute("aria-pressed", "false");
    const cell = this.cells.get(`${layer}|${head}`);
    cell?.setAttribute("aria-pressed", "true");
    if (cell) settle(this.root, CELL, cell);
  }

  build(attention) {
    const heads = [...Array(attention.heads).keys(), "mean"];
    this.columns = heads.length;
    this.cells.clear();
    this.root.style.setProperty("--heads", attention.heads);
    const corner = element("span", "corner", "layer \\ head");
    this.root.replaceChildren(corner, ...heads.map((head) => element("span", "column", `${head}`)));
    attention.layers.forEach((number, layer) => {
      this.root.append(element("span", "line", `${number}`));
      for (const head of heads) this.root.append(this.cell({ number, layer, head }));
    });
  }

  cell({ number, layer, head }) {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "cell";
    cell.dataset.layer = layer;
    cell.dataset.head = head;
    const name = head === "mean" ? `layer ${number}, mean over heads` : `layer ${number}, head ${head}`;
    cell.setAttribute("aria-label", name);
    cell.title = name;
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
      most[at] = Math.max(most[at], view.matrix[row * view.S + key]);
    });
  });
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const colours = ramp();
  most.forEach((weight, i) => {
    const at = 3 * step(weight / view.full);
    image.data.set([colours[at], colours[at + 1], colours[at + 2], 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}
