// What can be done to the head that is enlarged: silence it, block a pair of its cells, and how far a block reaches.

const USUAL = "layers"; // how far a block reaches unless something else is chosen: every layer

const $ = (id) => document.getElementById(id);

/** The buttons over the matrix. `changed()` is called when blocks shall reach further, or less far. */
export class Tools {
  constructor({ silence, block, changed }) {
    $("silence").addEventListener("click", () => silence());
    $("block").addEventListener("click", () => {
      if (this.pair) block({ rows: [this.pair.row], keys: [this.pair.key] });
    });
    $("reach").addEventListener("change", () => changed());
  }

  restore(address) {
    const name = address.text("reach");
    if ([...$("reach").options].some((option) => option.value === name)) $("reach").value = name;
  }

  place() {
    return { reach: $("reach").value === USUAL ? null : $("reach").value };
  }

  /** Where a block goes, as the contract says it; a mean over heads has no head of its own. */
  reach({ attention }, { layer, head }) {
    const number = attention.layers[layer];
    if ($("reach").value === "head" && head !== "mean") return { heads: [[number, head]] };
    return { layers: $("reach").value === USUAL ? "all" : [number] };
  }

  /** Fit to the head that is enlarged and the pair that is held. */
  show({ run, head, held, silenced }) {
    this.pair = held?.row === undefined || held.key === undefined ? null : held;
    $("silence").disabled = head === "mean";
    $("silence").setAttribute("aria-pressed", `${silenced}`);
    $("silence").textContent = silenced ? "Let this head speak" : "Silence this head";
    $("block").disabled = !this.pair;
    $("block").textContent = this.pair ? `Block ${run.word(held.row)} → ${run.word(held.key)}` : "Block a pair";
  }
}

/** An area of the matrix in words, while it is dragged over. */
export function dragged({ rows, keys }, run) {
  const part = (places) => (places.length === 1 ? run.word(places[0]) : `${run.word(places[0])} … ${run.word(places.at(-1))}`);
  return `Let go to block what ${part(rows)} can see of ${part(keys)}. Escape keeps it.`;
}
