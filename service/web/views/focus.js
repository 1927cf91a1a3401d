// Arrow keys among many small buttons: one tab stop for the group, arrows, Home and End inside it
// (the roving tabindex of the ARIA Authoring Practices).

const MOVES = { ArrowLeft: -1, ArrowRight: 1 };

/** Make `selector`'s matches under `root` one tab stop. `columns()` is how many stand in a row. */
export function rove(root, selector, columns = () => 1) {
  root.addEventListener("keydown", (event) => {
    const items = [...root.querySelectorAll(selector)];
    const at = items.indexOf(document.activeElement);
    if (at < 0) return;
    const row = columns();
    const moves = { ...MOVES, ArrowUp: -row, ArrowDown: row, Home: -at, End: items.length - 1 - at };
    if (!(event.key in moves)) return;
    event.preventDefault();
    items[Math.min(items.length - 1, Math.max(0, at + moves[event.key]))].focus();
  });
  root.addEventListener("focusin", (event) => {
    if (event.target.matches(selector)) settle(root, selector, event.target);
  });
}

/** Let `chosen` be the one that Tab reaches. */
export function settle(root, selector, chosen) {
  for (const item of root.querySelectorAll(selector)) item.tabIndex = item === chosen ? 0 : -1;
}
