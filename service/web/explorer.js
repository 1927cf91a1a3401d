// The page: what is asked, what came back, which head is enlarged, which token is pointed at. Views draw; this
// module decides what they show.

import { Attention, shown, strongest } from "./attention.js";
import { dark, drawScale, ticks } from "./colour.js";
import { Comparison } from "./compare.js";
import { Grid } from "./grid.js";
import { Matrix } from "./matrix.js";
import { masthead, openKey } from "./masthead.js";
import { clear, tell } from "./notice.js";
import { describe } from "./portrait.js";
import { Question } from "./question.js";
import { Refusal, attend, models } from "./server.js";
import { Terminal } from "./terminal.js";
import { Threads } from "./threads.js";

const PAUSE = 350; // ms without a keystroke before the sentence is asked

const $ = (id) => document.getElementById(id);

const state = { cards: [], attention: null, layer: 0, head: 0, hideSpecial: false, stretch: false, held: null, asked: null, chosen: false };
let asking = null;
let typing = 0;

const question = new Question({ changed: askSoon, submitted: ask });
const grid = new Grid($("grid"), { choose: (layer, head) => choose(layer, head) });
const matrix = new Matrix($("matrix"), { point: follow, hold: ({ row }) => hold({ row }) });
const threads = new Threads({ queries: $("queries"), keys: $("keys"), canvas: $("strands") }, { point, hold });
const terminal = new Terminal();
const comparison = new Comparison({ model: () => question.card });

let place = remembered();

async function start() {
  try {
    state.cards = await models();
  } catch (error) {
    refused(error, start);
    return;
  }
  clear($("notice"));
  if (!state.cards.length) {
    tell($("notice"), { code: "unknown_model", message: "No model is loaded." }, [["Look again", start]]);
    return;
  }
  question.offer(state.cards); // which asks
}

function fit() {
  comparison.fit(question.card);
  state.chosen = false;
}

function askSoon({ model }) {
  clearTimeout(typing);
  if (model) fit();
  typing = setTimeout(ask, model ? 0 : PAUSE);
}

async function ask(extra = {}) {
  clearTimeout(typing);
  asking?.abort();
  const turn = new AbortController();
  asking = turn;
  const card = question.card;
  const request = question.request(extra);
  if (!request) return;
  $("attend").setAttribute("aria-busy", "true");
  try {
    const reply = await attend(card.name, request, { signal: turn.signal });
    take(reply, { card, request });
  } catch (error) {
    if (error.name !== "AbortError") refused(error, () => ask(extra));
  } finally {
    if (asking === turn) $("attend").removeAttribute("aria-busy");
  }
}

function take(reply, { card, request }) {
  clear($("notice"));
  const output = reply.body.outputs[0];
  const layers = request.layers === "all" ? [...Array(card.layers).keys()] : request.layers;
  state.attention = new Attention({ weights: output.weights, layers, tokens: output.tokens, special: output.special });
  state.asked = { card, request };
  state.held = null;
  settle();
  $("result").hidden = false;
  $("result").classList.remove("stale");
  $("remarks").textContent = remarks(output, { card, narrowed: question.narrowed });
  $("hide").disabled = !state.attention.special.some(Boolean);
  terminal.facts(reply, { numbers: state.attention.flat.length });
  draw();
  comparison.wait();
}

function remarks(output, { card, narrowed }) {
  const said = [];
  const unknown = (output.tokens ?? []).filter((token) => /^(\[UNK\]|<unk>)$/.test(token)).length;
  if (unknown) said.push(`${unknown} of ${output.tokens.length} tokens are not in this model's vocabulary.`);
  if (output.truncated) said.push(`${output.truncated} tokens were cut off: the model has ${card.max_tokens} positions.`);
  if (narrowed) said.push("A long text: only the last layer was asked for, to keep the reply small. Others are under layers.");
  return said.join(" ");
}

/** Which head to enlarge: the one chosen, where there is still such a one; else the one worth a first look. */
function settle() {
  const { attention } = state;
  const kept = place && !state.chosen && { layer: attention.layers.indexOf(place.layer), head: place.head };
  if (kept) Object.assign(state, kept, { chosen: true });
  place = null;
  const there = state.layer in attention.layers && (state.head === "mean" || state.head < attention.heads);
  if (!state.chosen || !there) Object.assign(state, attention.liveliest());
}

function refused(error, again) {
  if (!(error instanceof Refusal)) throw error;
  const actions = [["Try again", () => again()]];
  if (error.code === "unauthorized") actions.unshift(["Enter a key", openKey]);
  if (error.code === "result_too_large") actions.unshift(["Ask for one layer", () => question.narrow()]);
  if (error.code === "sequence_too_long" && question.mode === "text") {
    actions.unshift(["Cut it to fit", () => ask({ truncate: true })]);
  }
  $("result").classList.add("stale"); // what is still shown below answers an earlier question
  tell($("notice"), error, actions);
}

function draw() {
  grid.show(state.attention, state);
  drawHead();
}

function drawHead() {
  const { attention, layer, head } = state;
  const weights = attention.matrix(layer, head);
  state.view = shown(attention, weights, state);
  const name = `layer ${attention.layers[layer]}, ${head === "mean" ? "mean over heads" : `head ${head}`}`;
  $("matrix-title").textContent = name[0].toUpperCase() + name.slice(1);
  $("matrix").setAttribute("aria-label", `Attention weights of ${name}, ${attention.T} by ${attention.S}. Arrow keys read them.`);
  $("mean").checked = head === "mean";
  grid.select(layer, head);
  matrix.show(state.view, attention.tokens);
  threads.show(state.view, attention.tokens);
  describe(attention, state.view);
  ticks($("ticks"), state.view.full);
  point(null);
  commands();
  remember();
}

function choose(layer, head) {
  if (head !== "mean") state.lastHead = head;
  Object.assign(state, { layer, head, chosen: true });
  drawHead();
}

/** Point from the matrix: the threads come along. */
function follow(at) {
  if (at) threads.reveal(at.row);
  point(at);
}

/** Show what is pointed at everywhere; nothing pointed at shows what is held. */
function point(at) {
  if (!state.view) return;
  const shownAt = at ?? state.held;
  matrix.mark(shownAt);
  threads.mark(shownAt, state.held);
  $("readout").textContent = shownAt ? reading(shownAt) : summary();
}

function hold(at) {
  const same = state.held && state.held.row === at.row && state.held.key === at.key;
  state.held = same ? null : at;
  point(same ? null : at);
}

function summary() {
  const most = strongest(state.attention, state.view);
  return most ? `Strongest between words: ${reading(most)}` : "";
}

/** A token as it is written, with its position where the same one stands elsewhere too. */
function word(i) {
  const { tokens, named } = state.attention;
  if (!named) return `token ${i}`;
  return `“${tokens[i]}”${tokens.indexOf(tokens[i]) === tokens.lastIndexOf(tokens[i]) ? "" : ` (${i})`}`;
}

function reading(at) {
  const { view } = state;
  if (at.row !== undefined && at.key !== undefined) {
    const weight = view.matrix[at.row * view.S + at.key];
    return `${word(at.row)} attends to ${word(at.key)}: ${weight.toFixed(4)}`;
  }
  const side = at.row !== undefined;
  const pairs = (side ? view.keys : view.rows).map((i) => [i, view.matrix[side ? at.row * view.S + i : i * view.S + at.key]]);
  pairs.sort((a, b) => b[1] - a[1]);
  const most = pairs.slice(0, 3).map(([i, weight]) => `${word(i)} ${weight.toFixed(3)}`).join(", ");
  return side ? `${word(at.row)} attends most to ${most}` : `${word(at.key)} is attended to most by ${most}`;
}

function commands() {
  const { attention, asked, layer, head } = state;
  const { inputs, truncate } = asked.request;
  const one = { inputs, layers: attention.layers[layer], ...(head === "mean" ? { outputs: ["weights_mean"] } : { heads: [head], outputs: ["weights"] }) };
  if (truncate) one.truncate = true;
  terminal.show(asked.card.name, { all: asked.request, one });
}

/** Keep what is shown in the address, after #, which browsers send to nobody. */
function remember() {
  const place = new URLSearchParams({ ...question.place(), layer: state.attention.layers[state.layer], head: state.head });
  history.replaceState(null, "", `#${place}`);
}

/** Take up what the address kept: the head is shown once the first reply is here. */
function remembered() {
  const place = new URLSearchParams(location.hash.slice(1));
  question.restore(place);
  if (!place.has("layer") || !place.has("head")) return null;
  return { layer: Number(place.get("layer")), head: place.get("head") === "mean" ? "mean" : Number(place.get("head")) };
}

$("mean").addEventListener("change", () => choose(state.layer, $("mean").checked ? "mean" : (state.lastHead ?? 0)));
for (const [id, choice] of [["hide", "hideSpecial"], ["stretch", "stretch"]]) {
  $(id).addEventListener("change", () => {
    state[choice] = $(id).checked;
    draw();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.held) hold(state.held);
});
dark.addEventListener("change", () => {
  drawScale($("scale"));
  if (state.attention) draw();
});

drawScale($("scale"));
masthead({ keyChanged: start });
start();
