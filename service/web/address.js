// The address of what is shown: everything after #, which browsers send to nobody.

const LONGEST = 16_000; // characters of one value; what is longer would not survive being sent about

/** An address of these values: null, undefined, "" and false are left out, lists and objects are JSON. */
export function written(values) {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "" || value === false) continue;
    const text = value === true ? "1" : typeof value === "object" ? JSON.stringify(value) : `${value}`;
    if (text.length <= LONGEST) kept.set(name, text);
  }
  return `#${kept}`;
}

/** What an address says, or null of each thing that it does not say or that cannot be. */
export class Address {
  constructor(hash) {
    this.values = new URLSearchParams(hash.slice(1));
  }

  text(name) {
    return this.values.get(name);
  }

  flag(name) {
    return this.values.get(name) === "1";
  }

  /** A whole number, 0 or more. */
  number(name) {
    const text = this.values.get(name);
    return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
  }

  /** Two whole numbers, either of which may be left out (undefined). */
  pair(name) {
    const found = /^(\d{0,9}),(\d{0,9})$/.exec(this.values.get(name) ?? "");
    return found && found.slice(1).map((text) => (text ? Number(text) : undefined));
  }

  /** A head: a number, or "mean". */
  head(name) {
    return this.values.get(name) === "mean" ? "mean" : this.number(name);
  }

  /** Edits as the contract writes them; the server judges what they say. */
  edits(name) {
    const found = this.json(name);
    return isEdits(found) ? found : [];
  }

  /** What a kept run was asked: an object, of which `edits` are edits. */
  input(name) {
    const found = this.json(name);
    return isObject(found) && isEdits(found.edits ?? []) ? found : null;
  }

  json(name) {
    try {
      return JSON.parse(this.values.get(name));
    } catch {
      return null;
    }
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEdits(value) {
  return Array.isArray(value) && value.every((edit) => isObject(edit) && typeof edit.edit === "string");
}
