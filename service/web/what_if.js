// What if a head were silent, or a query could not see a key: the edits of the request, listed, each with a way back.

import { explain, withoutEdit } from "./offers.js";

const $ = (id) => document.getElementById(id);

const NEEDED = ["scale", "block"]; // the verbs that the page itself makes

/** The edits, as the contract writes them. `changed()` is called when there are others. */
export class WhatIf {
  constructor({ changed }) {
    Object.assign(this, { changed, edits: [], refusals: {}, word: (i) => `token ${i}` });
    $("edits").addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button) this.remove(Number(button.dataset.at));
    });
    $("edits-clear").addEventListener("click", () => this.replace([]));
    $("silence-set").addEventListener("click", () => this.add({ edit: "scale", heads: $("head-set").value, value: 0 }));
  }

  /** Fit to a model of `cards`: edits of another one make no sense in it. */
  fit(card, cards) {
    this.refusals = Object.fromEntries(NEEDED.map((verb) => [verb, withoutEdit(card, verb)]));
    this.edits = [];
    explain($("edits-refused"), card, cards, (one) => NEEDED.map((verb) => withoutEdit(one, verb)).find(Boolean) ?? "");
    for (const verb of NEEDED) {
      for (const part of document.querySelectorAll(`[data-needs=${verb}]`)) part.hidden = !this.offers(verb);
    }
    const sets = this.offers("scale") ? Object.entries(card.head_sets ?? {}) : [];
    $("head-set").replaceChildren(...sets.map(([name, { pairs }]) => new Option(`${name} (${pairs} heads)`, name)));
    $("head-sets").hidden = !sets.length;
  }

  offers(verb) {
    return this.refusals[verb] === "";
  }

  /** Take up what an address kept, without asking anew. */
  restore(address) {
    this.edits = address.edits("edits");
  }

  place() {
    return { edits: this.edits.length ? this.edits : null };
  }

  replace(edits) {
    this.edits = edits;
    this.draw();
    this.changed();
  }

  add(edit) {
    const there = this.edits.some((other) => JSON.stringify(other) === JSON.stringify(edit));
    if (this.offers(edit.edit) && !there) this.replace([...this.edits, edit]);
  }

  remove(at) {
    this.replace(this.edits.filter((_, i) => i !== at));
    const { children } = $("edits");
    (children[Math.min(at, children.length - 1)]?.lastChild ?? $("keep")).focus(); // the pressed one is gone
  }

  /** Forget what speaks of positions: the sentence is another one. Silent heads stay silent. */
  forgetPositions() {
    this.edits = this.edits.filter((edit) => edit.queries === undefined && edit.keys === undefined);
  }

  /** Silence a head by the model's own numbers, or let it speak again. */
  toggle(layer, head) {
    const others = this.edits.filter((edit) => !(silences(edit) && only(edit.heads, layer, head)));
    if (others.length < this.edits.length) this.replace(others);
    else this.add({ edit: "scale", heads: [[layer, head]], value: 0 });
  }

  /** Block what queries `rows` see of `keys`: in the heads or layers that `reach` names. */
  block({ rows, keys }, reach) {
    this.add({ edit: "block", ...reach, queries: rows, keys });
  }

  silenced(layer, head) {
    return this.edits.some((edit) => silences(edit) && reaches(edit, layer, head));
  }

  blocked(row, key, layer, head) {
    const here = (places, at) => places === undefined || places.includes?.(at);
    return this.edits.some(
      (edit) => edit.edit === "block" && reaches(edit, layer, head) && here(edit.queries, row) && here(edit.keys, key),
    );
  }

  /** List the edits; `word(i)` names a token. */
  show(word) {
    this.word = word;
    this.draw();
  }

  draw() {
    const held = $("edits").contains(document.activeElement) ? document.activeElement.dataset.at : null;
    const lines = this.edits.map((edit, at) => {
      const line = document.createElement("li");
      const said = document.createElement("span");
      said.textContent = describe(edit, this.word);
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.at = at;
      button.textContent = "Remove";
      button.setAttribute("aria-label", `Remove: ${said.textContent}`);
      line.append(said, button);
      return line;
    });
    $("edits").replaceChildren(...lines);
    $("edits").hidden = !lines.length;
    $("edits-clear").hidden = !lines.length;
    if (held !== null) lines[held]?.lastChild.focus();
  }
}

function silences(edit) {
  return edit.edit === "scale" && edit.value === 0 && edit.queries === undefined;
}

function only(heads, layer, head) {
  return Array.isArray(heads) && heads.length === 1 && heads[0][0] === layer && heads[0][1] === head;
}

function reaches({ heads, layers }, layer, head) {
  if (Array.isArray(heads)) return heads.some((pair) => pair[0] === layer && pair[1] === head);
  return heads === undefined && (layers === "all" || layers === layer || Boolean(layers?.includes?.(layer)));
}

/** An edit in words. */
function describe(edit, word) {
  const where = place(edit);
  if (silences(edit)) return `${where} silenced`;
  if (edit.edit === "scale" && edit.queries === undefined) return `${where} × ${edit.value}`;
  if (edit.edit === "block" && Array.isArray(edit.queries) && Array.isArray(edit.keys)) {
    return `${several(edit.queries, word)} cannot see ${several(edit.keys, word)} in ${where}`;
  }
  return JSON.stringify(edit);
}

function place({ heads, layers: chosen }) {
  if (typeof heads === "string") return `head set ${heads}`;
  if (Array.isArray(heads)) {
    const named = heads.map((pair) => `layer ${pair[0]} head ${pair[1]}`);
    return named.length > 4 ? `${named.slice(0, 3).join(", ")} and ${named.length - 3} more` : named.join(", ");
  }
  return chosen === "all" ? "every layer" : `layer ${chosen}`;
}

function several(places, word) {
  if (places.length === 1) return word(places[0]);
  return `${word(places[0])} … ${word(places.at(-1))} (${places.length} tokens)`;
}
