// The contract's errors, said kindly: what happened, the server's own words with its numbers, and what can be done.

const TITLES = {
  unreachable: "The server does not answer",
  unauthorized: "This server asks for a key",
  unknown_model: "That model is no longer served",
  body_too_large: "That is too much to send at once",
  result_too_large: "That answer would be too large",
  sequence_too_long: "That sentence is too long for this model",
  invalid: "The server cannot attend to that",
  malformed: "The server could not read that",
  not_finite: "The numbers overflowed",
  overloaded: "The server is busy",
  not_ready: "The server is not ready yet",
  draining: "The server is shutting down",
  device_failed: "The server's device has failed",
  out_of_memory: "The device ran out of memory",
  deadline_exceeded: "It took too long",
};

let countdown = null;

/** Take a notice away. */
export function clear(place) {
  clearInterval(countdown);
  place.hidden = true;
  place.replaceChildren();
}

/**
 * Show a refusal in `place`. `actions` are [label, function] pairs; where the server says when to come back,
 * the first of them waits until then.
 */
export function tell(place, refusal, actions = []) {
  clear(place);
  const title = document.createElement("strong");
  title.textContent = TITLES[refusal.code] ?? "The server refused";
  const words = document.createElement("p");
  words.textContent = refusal.message ?? "";
  const facts = document.createElement("p");
  facts.className = "soft";
  facts.textContent = [refusal.status && `${refusal.status} ${refusal.code}`, refusal.requestId && `request ${refusal.requestId}`]
    .filter(Boolean)
    .join(" · ");
  const row = document.createElement("div");
  row.className = "actions";
  for (const [label, act] of actions) row.append(button(label, act));
  place.append(title, words, facts, row);
  place.hidden = false;
  if (refusal.retryAfter && row.firstChild) wait(row.firstChild, refusal.retryAfter);
}

function button(label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.addEventListener("click", act);
  return made;
}

function wait(made, seconds) {
  const label = made.textContent;
  let left = Math.ceil(seconds);
  const show = () => {
    made.disabled = left > 0;
    made.textContent = left > 0 ? `${label} in ${left} s` : label;
    if (left <= 0) clearInterval(countdown);
    left -= 1;
  };
  countdown = setInterval(show, 1000);
  show();
}
