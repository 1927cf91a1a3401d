// The top of the page: how the server is, and the key to it.

import { health, key } from "../server.js";

const BETWEEN = 15_000; // ms from one look at the server's health to the next

const $ = (id) => document.getElementById(id);

/** Bring the top of the page to life. `keyChanged()` is called when a key is given or forgotten. */
export function masthead({ keyChanged }) {
  const use = (value) => {
    key.set(value.trim());
    $("key-field").value = "";
    $("key").open = false;
    $("key").classList.toggle("set", Boolean(key.get()));
    keyChanged();
  };
  $("key").classList.toggle("set", Boolean(key.get()));
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    use($("key-field").value);
  });
  $("key-forget").addEventListener("click", () => use(""));
  $("key").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    $("key").open = false;
    $("key").querySelector("summary").focus();
  });
  watch();
}

/** Open the field for the key. */
export function openKey() {
  $("key").open = true;
  $("key-field").focus();
}

async function watch() {
  let status = "no answer";
  try {
    status = (await health()).status;
  } catch {
    // unreachable: said below, and looked at again
  }
  $("health").textContent = status;
  $("health").dataset.status = status;
  setTimeout(watch, BETWEEN);
}
