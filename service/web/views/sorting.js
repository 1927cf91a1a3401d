// All heads in the order of one column of their profile.

import { explain, withoutOutput } from "../offers.js";

// The columns of `head_profile`, in its order, and how a number of each is written.
const COLUMNS = ["self", "previous", "entropy", "distance", "variance", "induction"];

const $ = (id) => document.getElementById(id);

/** The choice of an order. `changed()` is called when it is another. */
export class Sorting {
  constructor({ changed }) {
    for (const id of ["sort", "ascending"]) $(id).addEventListener("change", () => changed());
  }

  fit(card, cards) {
    const without = (one) => withoutOutput(one, "head_profile");
    explain($("sort-refused"), card, cards, without);
    $("sort").closest("label").hidden = Boolean(without(card));
    $("sort").value = "";
    this.refusal = without(card);
  }

  /** The column, or "" for the model's own order. */
  get by() {
    return $("sort").value;
  }

  get ascending() {
    return $("ascending").checked;
  }

  restore(address) {
    const by = address.text("sort");
    if (COLUMNS.includes(by) && !this.refusal) $("sort").value = by;
    $("ascending").checked = address.flag("ascending");
  }

  place() {
    return { sort: this.by, ascending: this.ascending };
  }

  /** [{layer, head, value}] in order, `layer` a place in the asked layers; null where there is none. */
  order(run) {
    $("ascending").closest("label").hidden = !this.by;
    const unknown = Boolean(this.by && run.input.embeddings);
    if (unknown) $("sort-refused").textContent = "Rows of embeddings have no tokens, and so no profile to sort by.";
    if (!this.refusal) $("sort-refused").hidden = !unknown;
    if (!this.by || !run.profile) return null;
    const column = COLUMNS.indexOf(this.by);
    const all = run.profile.flatMap((heads, layer) => heads.map((profile, head) => ({ layer, head, number: profile[column] })));
    all.sort((a, b) => (this.ascending ? a.number - b.number : b.number - a.number));
    return all.map(({ layer, head, number }) => ({ layer, head, value: number === null ? "none" : number.toPrecision(3) }));
  }
}
