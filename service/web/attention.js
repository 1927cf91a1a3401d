// One reply's weights, and what can be said of them without bending them: means over heads, rows and keys
// left out with their mass kept, and plain averages that describe a head.

const NEAR = 2; // tokens to either side: heads that only look there are plenty, and tell little of meaning

/**
 * The weights of one sequence, [layers, heads, T, S], flat float32.
 * `layers` are the model's numbers of the layers that were asked for.
 */
export class Attention {
  constructor({ weights, layers, tokens, special }) {
    this.layers = layers;
    this.heads = weights[0].length;
    this.T = weights[0][0].length;
    this.S = weights[0][0][0].length;
    this.tokens = tokens ?? Array.from({ length: this.T }, (_, i) => `${i}`);
    this.named = tokens !== undefined;
    this.special = special ?? this.tokens.map(() => false);
    this.size = this.T * this.S;
    this.flat = new Float32Array(layers.length * this.heads * this.size);
    let at = 0;
    for (const layer of weights) {
      for (const head of layer) {
        for (const row of head) {
          this.flat.set(row, at);
          at += this.S;
        }
      }
    }
    this.means = new Map();
  }

  /** One head's [T, S] as a view, or the mean over heads where `head` is "mean". `layer` is a place in `layers`. */
  matrix(layer, head) {
    if (head === "mean") return this.mean(layer);
    const at = (layer * this.heads + head) * this.size;
    return this.flat.subarray(at, at + this.size);
  }

  mean(layer) {
    if (!this.means.has(layer)) {
      const sum = new Float64Array(this.size);
      for (let head = 0; head < this.heads; head += 1) {
        const matrix = this.matrix(layer, head);
        for (let i = 0; i < this.size; i += 1) sum[i] += matrix[i];
      }
      this.means.set(layer, Float32Array.from(sum, (x) => x / this.heads));
    }
    return this.means.get(layer);
  }

  /**
   * The head worth a first look: the one whose words most choose their own distant words, that is whose weights
   * beyond NEAR tokens exceed most what every row gives that key anyway.
   */
  liveliest() {
    let best = { layer: 0, head: 0, choice: -1 };
    for (let layer = 0; layer < this.layers.length; layer += 1) {
      for (let head = 0; head < this.heads; head += 1) {
        const choice = this.choice(this.matrix(layer, head));
        if (choice > best.choice) best = { layer, head, choice };
      }
    }
    return { layer: best.layer, head: best.head };
  }

  choice(matrix) {
    let sum = 0;
    for (let j = 0; j < this.S; j += 1) {
      if (this.special[j]) continue;
      let usual = 0;
      for (let i = 0; i < this.T; i += 1) usual += matrix[i * this.S + j] / this.T;
      for (let i = 0; i < this.T; i += 1) {
        if (Math.abs(i - j) > NEAR && !this.special[i]) sum += Math.max(0, matrix[i * this.S + j] - usual) ** 2;
      }
    }
    return sum;
  }
}

/** Whether two runs can be told apart cell by cell: the same layers, heads and numbers of tokens. */
export function alike(a, b) {
  const shape = ({ layers, heads, T, S }) => `${layers}|${heads}|${T}|${S}`;
  return shape(a) === shape(b);
}

/** How much more one matrix has than another, cell by cell. */
export function difference(matrix, other) {
  return matrix.map((weight, i) => weight - other[i]);
}

/**
 * What of a matrix is shown: the query rows and key columns that stay, and the mass of each row that is
 * left out with the others. Nothing is renormalised; `full` is the size at the end of the colour ramp. `signed`:
 * it is a difference of two matrices.
 */
export function shown(attention, matrix, { hideSpecial, stretch, signed = false }) {
  const { S } = attention;
  const keep = (i) => !(hideSpecial && attention.special[i]);
  const places = (count) => Array.from({ length: count }, (_, i) => i).filter(keep);
  const rows = places(attention.T);
  const keys = places(S);
  const leftOut = rows.map(() => 0);
  let most = 0;
  rows.forEach((row, y) => {
    for (let j = 0; j < S; j += 1) {
      const weight = matrix[row * S + j];
      if (!keep(j)) leftOut[y] += weight;
      else most = Math.max(most, Math.abs(weight));
    }
  });
  return { rows, keys, leftOut, matrix, S, signed, hiding: keys.length < S, full: (stretch && most) || 1 };
}

/**
 * The largest weight (or difference) between two different, not special tokens of a view, as {row, key}; null where
 * there is none.
 */
export function strongest(attention, view) {
  let best = null;
  for (const row of view.rows) {
    for (const key of view.keys) {
      if (row === key || attention.special[row] || attention.special[key]) continue;
      const size = Math.abs(view.matrix[row * view.S + key]);
      if (!best || size > best.size) best = { row, key, size };
    }
  }
  return best;
}

/** Averages over all rows of where the weight goes, and how many keys it spreads over (exp of the entropy). */
export function portrait(attention, matrix) {
  const { T, S, special } = attention;
  const sums = { self: 0, previous: 0, next: 0, special: 0, other: 0, spread: 0 };
  for (let i = 0; i < T; i += 1) {
    let entropy = 0;
    for (let j = 0; j < S; j += 1) {
      const weight = matrix[i * S + j];
      if (weight > 0) entropy -= weight * Math.log(weight);
      if (special[j]) sums.special += weight;
      else if (j === i) sums.self += weight;
      else if (j === i - 1) sums.previous += weight;
      else if (j === i + 1) sums.next += weight;
      else sums.other += weight;
    }
    sums.spread += Math.exp(entropy);
  }
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / T]));
}

/** Cosine similarity of two vectors, in float64; 0 where one has no length. */
export function cosine(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
}
