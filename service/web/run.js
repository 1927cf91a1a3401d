// One run: what was asked of a model, and the attention that came back.

import { Attention } from "./attention.js";
import { attend } from "./server.js";

/** The answer to a request of one input: `attention`, `profile` [layers, heads, 6] where it was asked for. */
export class Run {
  constructor({ card, request, output }) {
    const layers = request.layers === "all" ? [...Array(card.layers).keys()] : request.layers;
    Object.assign(this, { card, request, output });
    this.attention = new Attention({ weights: output.weights, layers, tokens: output.tokens, special: output.special });
    this.profile = output.head_profile ?? null;
  }

  /** What was attended to, edits included. */
  get input() {
    return this.request.inputs[0];
  }

  /** A request about the same input. */
  about(wanted) {
    return { inputs: [this.input], ...(this.request.truncate ? { truncate: true } : {}), ...wanted };
  }

  /** A token as it is written, with its position where the same one stands elsewhere too. */
  word(i) {
    const { tokens, named } = this.attention;
    if (!named || tokens[i] === undefined) return `token ${i}`;
    return `“${tokens[i]}”${tokens.indexOf(tokens[i]) === tokens.lastIndexOf(tokens[i]) ? "" : ` (${i})`}`;
  }
}

/** Ask; resolves to the run and the reply it came in. */
export async function ask(card, request, { signal } = {}) {
  const reply = await attend(card.name, request, { signal });
  return { reply, run: new Run({ card, request, output: reply.body.outputs[0] }) };
}
