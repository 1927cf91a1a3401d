// How weights are shown: without special tokens, in stretched colours.

const $ = (id) => document.getElementById(id);

/** The two choices of the toolbar. `changed()` is called when either is another. */
export class Look {
  constructor({ changed }) {
    for (const id of ["hide", "stretch"]) $(id).addEventListener("change", () => changed());
  }

  /** As `shown` of attention.js takes them. */
  get choices() {
    return { hideSpecial: $("hide").checked, stretch: $("stretch").checked };
  }

  /** Fit to a run: there may be no special token to hide. */
  show(run) {
    $("hide").disabled = !run.attention.special.some(Boolean);
  }

  restore(address) {
    for (const id of ["hide", "stretch"]) $(id).checked = address.flag(id);
  }

  place() {
    return { hide: $("hide").checked, stretch: $("stretch").checked };
  }
}
