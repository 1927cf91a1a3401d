// What one head does, in five shares of its attention that add up to the whole.

import { portrait } from "../attention.js";

const SHARES = [
  ["self", "itself"],
  ["previous", "the token before"],
  ["next", "the token after"],
  ["other", "other tokens"],
  ["special", "special tokens"],
];

const $ = (id) => document.getElementById(id);

/** Describe the matrix of a view (`shown` of attention.js): averages over all its rows, hidden ones included. */
export function describe(attention, view) {
  const mean = portrait(attention, view.matrix);
  const special = attention.special.some(Boolean);
  const rows = SHARES.filter(([name]) => special || name !== "special");
  $("portrait").replaceChildren(...rows.flatMap(([name, words]) => share(words, mean[name])));
  let text = `Average of ${attention.T} rows. A row spreads over ${mean.spread.toFixed(1)} tokens (the exponential of its entropy).`;
  if (view.hiding && view.rows.length) {
    const left = view.leftOut.reduce((sum, x) => sum + x, 0) / view.rows.length;
    text += ` Of the rows shown, ${percent(left)} goes to the special tokens: it is in the hatched column, and nothing is rescaled.`;
  }
  $("spread").textContent = text;
}

function share(words, part) {
  const name = document.createElement("dt");
  name.textContent = words;
  const value = document.createElement("dd");
  const bar = document.createElement("i");
  bar.style.setProperty("--share", `${100 * part}%`);
  const figure = document.createElement("b");
  figure.textContent = percent(part);
  value.append(bar, figure);
  return [name, value];
}

function percent(part) {
  return `${Math.round(100 * part)}%`;
}
