// How a hand reaches a matrix: the pointer reads, holds and drags, and so do the keys.
//
// Pointer: moving reads a cell, a click holds it, an alt-click blocks it, dragging blocks all between.
// Keys: arrows read, with Shift they take more cells in, Enter holds, B or Delete blocks, Escape lets go.

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const BLOCKING = ["b", "B", "Delete"];

/** Listen to what is done to `matrix`; `acts` are those of Matrix. */
export function listen(matrix, { point, hold, block, drag, blockable }) {
  const { canvas } = matrix;
  let start = null; // the cell where the button went down, or the keys began to take more in

  const take = (area) => {
    if (!area && !matrix.area) return;
    matrix.outlineArea(area);
    drag(area);
  };
  const letGo = () => {
    start = null;
    take(null);
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    letGo();
    start = matrix.under(event);
    if (start) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const held = start && event.buttons & 1 && blockable();
    if (!held) {
      if (!matrix.area) point(matrix.under(event));
      return;
    }
    const at = matrix.nearest(event);
    if (matrix.area || at.row !== start.row || at.key !== start.key) take(between(matrix.view, start, at));
  });
  canvas.addEventListener("pointerup", (event) => {
    const { area } = matrix;
    const at = start;
    letGo();
    if (area) block(area);
    else if (at && event.altKey) block({ rows: [at.row], keys: [at.key] });
    else if (at) hold(at);
  });
  canvas.addEventListener("pointercancel", letGo);
  canvas.addEventListener("pointerleave", () => {
    if (!matrix.area) point(null);
  });
  canvas.addEventListener("blur", () => {
    letGo();
    point(null);
  });
  canvas.addEventListener("keydown", (event) => {
    if (!matrix.view || event.ctrlKey || event.metaKey) return;
    const { at, area } = matrix;
    if (event.key in MOVES) {
      const next = moved(matrix, MOVES[event.key]);
      const more = event.shiftKey && blockable();
      start = more ? (start ?? at ?? next) : null;
      point(next);
      take(more ? between(matrix.view, start, next) : null);
    } else if (BLOCKING.includes(event.key) && at?.key !== undefined) {
      const cells = area ?? { rows: [at.row], keys: [at.key] };
      letGo();
      block(cells);
    } else if (event.key === "Enter" && at?.key !== undefined) {
      hold(at);
    } else if (event.key === "Escape" && area) {
      event.stopPropagation();
      letGo();
      return;
    } else {
      return;
    }
    event.preventDefault();
  });
}

/** The nearest of so many places. */
export function within(at, count) {
  return Math.min(count - 1, Math.max(0, at));
}

/** Every row and key of a view from one cell to another. */
function between(view, from, to) {
  const part = (places, a, b) => {
    const ends = [places.indexOf(a), places.indexOf(b)].sort((x, y) => x - y);
    return places.slice(ends[0], ends[1] + 1);
  };
  return { rows: part(view.rows, from.row, to.row), keys: part(view.keys, from.key, to.key) };
}

function moved({ view, at }, [down, right]) {
  const { rows, keys } = view;
  const started = at && rows.includes(at.row) && keys.includes(at.key);
  const y = started ? within(rows.indexOf(at.row) + down, rows.length) : 0;
  const x = started ? within(keys.indexOf(at.key) + right, keys.length) : 0;
  return { row: rows[y], key: keys[x] };
}
