// The same request as a curl command, and the facts of the reply: sizes, times, where the time went.

import { attendPath, key } from "./server.js";

const LONGEST_COMMAND = 4000; // characters of a body that a terminal takes gladly
const HUES = { decode: "--t1", queue: "--t2", batch: "--t3", compute: "--t4", encode: "--t5" };

const $ = (id) => document.getElementById(id);

/** The request panel: two commands, one of them shown, and the reply's facts. */
export class Terminal {
  constructor() {
    this.which = "all";
    this.link = null;
    for (const which of ["all", "one"]) {
      $(`curl-${which}`).addEventListener("click", () => {
        this.which = which;
        this.draw();
      });
    }
    $("copy").addEventListener("click", () => this.copy());
  }

  /** Show commands for `all` (the request the page made) and `one` (the matrix alone). */
  show(model, { all, one }) {
    this.model = model;
    this.requests = { all, one };
    this.draw();
  }

  draw() {
    if (!this.requests) return;
    for (const which of ["all", "one"]) $(`curl-${which}`).setAttribute("aria-pressed", `${which === this.which}`);
    const body = JSON.stringify(this.requests[this.which]);
    const inFile = body.length > LONGEST_COMMAND;
    $("curl").textContent = command(this.model, inFile ? "@request.json" : quoted(body));
    $("curl-note").hidden = !inFile;
    if (this.link) URL.revokeObjectURL(this.link);
    this.link = inFile ? URL.createObjectURL(new Blob([body], { type: "application/json" })) : null;
    if (inFile) $("save").href = this.link;
  }

  async copy() {
    const text = $("curl").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren($("curl")); // no clipboard here (plain http): selected, one keystroke away
      $("copy").textContent = "Selected";
      return;
    }
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  }

  /** Show a reply's facts. */
  facts(reply, { numbers }) {
    const wire = reply.wireBytes && reply.wireBytes !== reply.bytes;
    const size = `${bytes(reply.bytes)} of JSON${wire ? `, ${bytes(reply.wireBytes)} on the wire (${reply.encoding})` : ""}`;
    const rows = [
      ["status", `${reply.status}`],
      ["weights", `${numbers.toLocaleString("en")} numbers`],
      ["reply", size],
      ["request", bytes(reply.sentBytes)],
      ["round trip", `${reply.milliseconds.toFixed(1)} ms, and ${reply.parseMilliseconds.toFixed(1)} ms to parse here`],
      ["request id", reply.requestId || "none"],
    ];
    $("reply").replaceChildren(...rows.flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
    this.timing(reply);
  }

  timing(reply) {
    const stages = reply.timing;
    const served = stages.reduce((sum, stage) => sum + stage.milliseconds, 0);
    const rest = Math.max(0, reply.milliseconds - served);
    const parts = [...stages, { name: "network and browser", milliseconds: rest }];
    const bar = text("div", "");
    bar.className = "bar";
    const legend = text("ul", "");
    for (const { name, milliseconds } of parts) {
      const hue = `var(${HUES[name] ?? "--line"})`;
      const part = text("i", "");
      part.style.flexGrow = milliseconds;
      part.style.background = hue;
      part.title = name;
      bar.append(part);
      const line = text("li", "");
      const dot = text("i", "");
      dot.style.background = hue;
      line.append(dot, `${name} ${milliseconds.toFixed(2)} ms`);
      legend.append(line);
    }
    $("timing").replaceChildren(bar, legend);
  }
}

function command(model, data) {
  const lines = [`curl -s ${location.origin}${attendPath(model)}`, "-H 'content-type: application/json'"];
  if (key.get()) lines.push('-H "authorization: Bearer $HEED_API_KEY"');
  lines.push(`-d ${data}`);
  return lines.join(" \\\n     ");
}

/** A string in a POSIX shell's single quotes. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Bytes as people write them, in thousands. */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

function text(tag, words) {
  const made = document.createElement(tag);
  made.textContent = words;
  return made;
}
