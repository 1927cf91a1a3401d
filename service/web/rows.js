// Input without text: rows of embeddings or token ids as JSON, and rows made from a seed.

/** mulberry32: a small generator of 32 bits of state, the same numbers for the same seed everywhere. */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** `tokens` rows of `width` standard normal numbers (Box and Muller), to four decimals, from a seed. */
export function generate(tokens, width, seed) {
  const next = uniform(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return Array.from({ length: tokens }, () => Array.from({ length: width }, () => Number(normal().toFixed(4))));
}

/** One row a line: as easy to read and to edit as such a thing can be. */
export function written(rows) {
  return `[${rows.map((row) => JSON.stringify(row)).join(",\n ")}]`;
}

/**
 * One input of the contract from what was typed: a list of lists is embeddings, a list of whole numbers token
 * ids. Throws an Error that says what is wrong; widths and ranges are the server's to judge.
 */
export function read(text) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON yet: ${error.message}`);
  }
  if (!Array.isArray(parsed) || parsed.length === 0) throw new Error("Give a list: one row a token.");
  if (parsed.every(Number.isInteger)) return { token_ids: parsed };
  if (parsed.every(Array.isArray)) return { embeddings: parsed };
  throw new Error("Give rows of numbers, or a list of whole numbers for token ids.");
}
