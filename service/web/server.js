// The page's one way to the server: the same public routes as any client, and the contract's errors as text a
// person can act on.

const KEY = "heed.key";

// Where the server's paths begin: "/", or a proxy's prefix.
const ROOT = new URL("..", import.meta.url).pathname;

/** The API key, of this tab only; of this page only where a browser keeps nothing for framed pages. */
export const key = {
  unkept: "",
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return this.unkept;
    }
  },
  set(value) {
    this.unkept = value;
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // the page has it
    }
  },
};

/** A refusal of the server: status, the contract's code, its message, and when to come back (seconds). */
export class Refusal extends Error {
  constructor({ status, code, message, retryAfter = null, requestId = "" }) {
    super(message);
    Object.assign(this, { status, code, retryAfter, requestId });
  }
}

/** What is served: one card a model. */
export async function models() {
  const { body } = await call(`${ROOT}v1/models`);
  return body.models;
}

/** Whether the server is ready, in its own words. */
export async function health() {
  const reply = await fetch(`${ROOT}health`, { cache: "no-store" });
  return reply.json();
}

/** The path of a model's main route. */
export function attendPath(model) {
  return `${ROOT}v1/models/${encodeURIComponent(model)}/attend`;
}

/** Attend; resolves to the reply with its headers, sizes and times. */
export function attend(model, request, { signal } = {}) {
  return call(attendPath(model), { method: "POST", body: JSON.stringify(request), signal });
}

async function call(path, { method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const started = performance.now();
  let reply;
  let buffer;
  try {
    reply = await fetch(path, { method, headers, body, signal, cache: "no-store" });
    buffer = await reply.arrayBuffer();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ status: 0, code: "unreachable", message: "The server does not answer." });
  }
  const milliseconds = performance.now() - started;
  if (!reply.ok) throw refusal(reply, buffer);
  const parsing = performance.now();
  const parsed = JSON.parse(new TextDecoder().decode(buffer));
  return {
    body: parsed,
    status: reply.status,
    requestId: reply.headers.get("x-request-id") ?? "",
    sentBytes: body === undefined ? 0 : new TextEncoder().encode(body).length,
    bytes: buffer.byteLength,
    encoding: reply.headers.get("content-encoding") ?? "",
    wireBytes: onTheWire(path, buffer.byteLength),
    timing: serverTiming(reply.headers.get("server-timing") ?? ""),
    milliseconds,
    parseMilliseconds: performance.now() - parsing,
  };
}

function refusal(reply, buffer) {
  let error = {};
  try {
    error = JSON.parse(new TextDecoder().decode(buffer)).error ?? {};
  } catch {
    error = { code: "unreadable", message: `The server answered ${reply.status} without saying why.` };
  }
  return new Refusal({
    status: reply.status,
    code: error.code,
    message: error.message,
    retryAfter: Number(reply.headers.get("retry-after")) || null,
    requestId: reply.headers.get("x-request-id") ?? error.request_id ?? "",
  });
}

// Requests to one address may be under way together: this reply's record is the one of its own size. Null where
// the browser keeps no such record.
function onTheWire(path, decodedBytes) {
  const entries = performance.getEntriesByName(new URL(path, location.href).href, "resource");
  const own = entries.findLast((entry) => entry.decodedBodySize === decodedBytes);
  performance.clearResourceTimings();
  return own?.encodedBodySize || null;
}

/** `decode;dur=0.1, queue;dur=2` as [{name, milliseconds}]. */
export function serverTiming(header) {
  return header
    .split(",")
    .map((part) => /^\s*([\w-]+)\s*;.*?dur=([\d.]+)/.exec(part))
    .filter(Boolean)
    .map(([, name, duration]) => ({ name, milliseconds: Number(duration) }));
}
