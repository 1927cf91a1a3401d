// The page: what is asked, what came back, which head is enlarged, which token is pointed at. Views draw; this
// module decides what they show.

import { Address, written } from "./address.js";
import { shown } from "./attention.js";
import { Kept } from "./kept.js";
import { clear, tell } from "./notice.js";
import { Question } from "./question.js";
import { ask as askRun } from "./run.js";
import { Refusal, models } from "./server.js";
import { Terminal } from "./terminal.js";
import { dark, scaleOf } from "./views/colour.js";
import { Comparison } from "./views/compare.js";
import { Grid } from "./views/grid.js";
import { Look } from "./views/look.js";
import { masthead, openKey } from "./views/masthead.js";
import { Matrix } from "./views/matrix.js";
import { Next } from "./views/next.js";
import { Pair } from "./views/pair.js";
import { describe } from "./views/portrait.js";
import { Reading } from "./views/reading.js";
import { Sorting } from "./views/sorting.js";
import { Threads } from "./views/threads.js";
import { Tools, dragged } from "./views/tools.js";
import { WhatIf } from "./what_if.js";

const PAUSE = 350; // ms without a keystroke before the sentence is asked

const $ = (id) => document.getElementById(id);

const state = { run: null, layer: 0, head: 0, held: null, chosen: false };
let asking = null;
let typing = 0;

const question = new Question({ changed: askSoon, submitted: ask, replaced: () => whatIf.forgetPositions() });
const whatIf = new WhatIf({ changed: () => stay(ask) });
const kept = new Kept({ current: () => state.run, changed: () => stay(draw) });
const sorting = new Sorting({ changed: () => (sorting.by && !state.run?.profile ? ask() : draw()) });
const grid = new Grid($("grid"), { choose, silence });
const matrix = new Matrix($("matrix"), { point: follow, hold, block, drag, blockable: () => whatIf.offers("block") });
const threads = new Threads({ queries: $("queries"), keys: $("keys"), canvas: $("strands") }, { point, hold });
const tools = new Tools({ silence: () => silence(state.layer, state.head), block, changed: remember });
const look = new Look({ changed: draw });
const next = new Next();
const pair = new Pair();
const terminal = new Terminal();
const comparison = new Comparison({ model: () => question.card, changed: remember });
const remembering = [look, whatIf, kept, tools, sorting, comparison];

let place = new Address(location.hash); // until the first reply is here
question.restore(place);

async function start() {
  try {
    question.cards = await models();
  } catch (error) {
    refused(error, start);
    return;
  }
  clear($("notice"));
  if (!question.cards.length) {
    tell($("notice"), { code: "unknown_model", message: "No model is loaded." }, [["Look again", start]]);
    return;
  }
  question.offer(); // which asks
}

/** Fit every panel to another model; what was said of the one before is let go of. */
function fit() {
  const { card } = question;
  for (const panel of [comparison, whatIf, sorting, next, pair]) panel.fit(card, question.cards);
  kept.forget();
  Object.assign(state, { chosen: false, held: null });
  if (place) restore(place);
}

/** Take up what the address kept; the head and the pair wait for the first reply. */
function restore(from) {
  for (const panel of remembering) panel.restore(from, question.input());
}

function askSoon({ model }) {
  clearTimeout(typing);
  if (model) fit();
  typing = setTimeout(ask, model ? 0 : PAUSE);
}

async function ask() {
  clearTimeout(typing);
  asking?.abort();
  const turn = new AbortController();
  asking = turn;
  const { card } = question;
  const request = question.request({ edits: whatIf.edits, profile: Boolean(sorting.by) });
  if (!request) return;
  $("attend").setAttribute("aria-busy", "true");
  try {
    const { run, reply } = await askRun(card, request, { signal: turn.signal });
    await kept.bring(run, { signal: turn.signal });
    take(run, reply);
  } catch (error) {
    if (error.name !== "AbortError") refused(error, ask);
  } finally {
    if (asking === turn) $("attend").removeAttribute("aria-busy");
  }
}

function take(run, reply) {
  clear($("notice"));
  state.run = run;
  settle();
  $("result").hidden = false;
  $("result").classList.remove("stale");
  $("remarks").textContent = question.remarks(run.output);
  look.show(run);
  terminal.facts(reply, { numbers: run.attention.flat.length });
  draw();
  comparison.wait();
}

/** Ask without the kept run that an address told of. */
function forget() {
  kept.forget();
  ask();
}

/** Go on with the head that is enlarged, though nobody chose it: what follows is about a difference to it. */
function stay(next) {
  state.chosen = true;
  next();
}

/** Which head to enlarge: the one chosen, where there is still such a one; else the one worth a first look. */
function settle() {
  const { attention } = state.run;
  const [number, head] = [place?.number("layer") ?? null, place?.head("head") ?? null];
  if (number !== null && head !== null) Object.assign(state, { layer: attention.layers.indexOf(number), head, chosen: true });
  const [row, key] = place?.pair("pair") ?? [];
  if (row !== undefined || key !== undefined) state.held = { row, key };
  place = null;
  const there = state.layer in attention.layers && (state.head === "mean" || state.head < attention.heads);
  if (!state.chosen || !there) Object.assign(state, attention.liveliest());
  const { held } = state;
  if (held && ((held.row ?? 0) >= attention.T || (held.key ?? 0) >= attention.S)) state.held = null;
}

function refused(error, again) {
  if (!(error instanceof Refusal)) throw error;
  const actions = [["Try again", () => again()]];
  if (error.code === "unauthorized") actions.unshift(["Enter a key", openKey]);
  const wrong = ["invalid", "malformed"].includes(error.code);
  if (wrong && kept.awaited) actions.unshift(["Forget the kept run", forget]);
  if (wrong && whatIf.edits.length) actions.unshift(["Remove all edits", () => whatIf.replace([])]);
  if (error.code === "result_too_large") actions.unshift(["Ask for one layer", () => question.narrow()]);
  if (error.code === "sequence_too_long" && question.mode === "text") actions.unshift(["Cut it to fit", () => question.cut()]);
  $("result").classList.add("stale"); // what is still shown below answers an earlier question
  whatIf.draw();
  tell($("notice"), error, actions);
}

function draw() {
  const { run } = state;
  whatIf.show((i) => run.word(i));
  kept.show(run);
  grid.show(run.attention, view, sorting.order(run));
  const number = (layer) => run.attention.layers[layer];
  grid.mark((layer, head) => whatIf.silenced(number(layer), head));
  drawHead();
}

/** What is shown of a head: its weights, or how they differ from the kept run's. */
function view(layer, head) {
  const { run } = state;
  const signed = kept.differing(run);
  const weights = signed ? kept.difference(run, layer, head) : run.attention.matrix(layer, head);
  return shown(run.attention, weights, { ...look.choices, signed });
}

function drawHead() {
  const { run, layer, head } = state;
  const { attention } = run;
  state.view = view(layer, head);
  const before = state.view.signed ? kept.run.attention.matrix(layer, head) : null;
  state.reading = new Reading(run, state.view, before);
  const name = `layer ${attention.layers[layer]}, ${head === "mean" ? "mean over heads" : `head ${head}`}`;
  $("matrix-title").textContent = name[0].toUpperCase() + name.slice(1);
  $("matrix-note").textContent = state.view.signed
    ? "Orange: more than in the kept run; blue: less."
    : "A row is a token that attends; its weights sum to 1.";
  const what = state.view.signed ? "How attention weights differ from the kept run's" : "Attention weights";
  $("matrix").setAttribute("aria-label", `${what} of ${name}, ${attention.T} by ${attention.S}. Arrow keys read them.`);
  $("mean").checked = head === "mean";
  grid.select(layer, head);
  matrix.show(state.view, attention.tokens, (row, key) => whatIf.blocked(row, key, attention.layers[layer], head));
  threads.show(state.view, attention.tokens);
  describe(attention, shown(attention, attention.matrix(layer, head), look.choices));
  scaleOf(state.view).legend($("scale"), $("ticks"), state.view.full);
  $("scale").parentElement.setAttribute("aria-label", scaleOf(state.view).meaning);
  point(null);
  commands();
  held();
}

/** What follows from the pair that is held: its predictions, its tools, the address. */
function held() {
  const { run, layer, head } = state;
  tools.show({ run, layer, head, held: state.held, silenced: whatIf.silenced(run.attention.layers[layer], head) });
  next.show(run, { kept: kept.run === run ? null : kept.run, row: state.held?.row ?? null });
  remember();
}

function choose(layer, head) {
  if (head !== "mean") state.lastHead = head;
  Object.assign(state, { layer, head, chosen: true });
  drawHead();
}

function silence(layer, head) {
  if (whatIf.offers("scale") && head !== "mean") whatIf.toggle(state.run.attention.layers[layer], head);
}

function block(area) {
  if (whatIf.offers("block")) whatIf.block(area, tools.reach(state.run, state));
}

/** Say what letting go would block; null: nothing is dragged over. */
function drag(area) {
  $("readout").textContent = area ? dragged(area, state.run) : state.reading.of(state.held);
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
  pair.show(state.run, { layer: state.layer, head: state.head, at: shownAt });
  $("readout").textContent = state.reading.of(shownAt);
}

function hold(at) {
  const same = state.held && state.held.row === at.row && state.held.key === at.key;
  state.held = same ? null : at;
  point(same ? null : at);
  held();
}

function commands() {
  const { run, layer, head } = state;
  const part = head === "mean" ? { outputs: ["weights_mean"] } : { heads: [head], outputs: ["weights"] };
  terminal.show(run.card.name, { all: run.request, one: run.about({ layers: run.attention.layers[layer], ...part }) });
}

/** Keep what is shown in the address. */
function remember() {
  const { run, layer, head } = state;
  if (!run) return;
  const address = {
    ...question.place(),
    layer: run.attention.layers[layer],
    head,
    pair: state.held && `${state.held.row ?? ""},${state.held.key ?? ""}`,
  };
  for (const panel of remembering) Object.assign(address, panel.place(run));
  history.replaceState(null, "", written(address));
}

$("mean").addEventListener("change", () => choose(state.layer, $("mean").checked ? "mean" : (state.lastHead ?? 0)));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.held) hold(state.held);
});
$("result").addEventListener("click", ({ target }) => {
  if (target.matches("button[data-model]")) question.choose(target.dataset.model);
});
dark.addEventListener("change", () => state.run && draw());
addEventListener("hashchange", () => {
  if (location.hash.includes("=")) location.reload(); // an address was pasted; our own changes raise no event
  else remember(); // a link to a part of this page was followed
});

masthead({ keyChanged: start });
start();
