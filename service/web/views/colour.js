// From a number to a colour. Weights: one dark-is-more ramp on paper, one bright-is-more ramp at night. Differences:
// less is blue, more is orange, nothing is the page itself.
// Stops are mixed in OKLab (Björn Ottosson, 2020), so that equal steps look equal. Position on a ramp is the square
// root of the number: a weight of 0.05 must not look like nothing in a row of many tokens.

const STEPS = 256;

/** Whether the page is shown dark. */
export const dark = matchMedia("(prefers-color-scheme: dark)");

/** A ramp of colours. `place` gives the position on it, 0 to 1, of a part of the number at its end; `parts` are written under it. */
class Scale {
  constructor({ paper, night, place, parts, meaning }) {
    Object.assign(this, { paper, night, place, parts, meaning, ramps: new Map() });
  }

  /** The ramp in use: RGB bytes of 256 colours, 3 a colour. */
  get bytes() {
    const stops = dark.matches ? this.night : this.paper;
    if (!this.ramps.has(stops)) this.ramps.set(stops, mix(stops));
    return this.ramps.get(stops);
  }

  /** Place on the ramp, 0 to 255. */
  step(part) {
    return Math.min(STEPS - 1, Math.max(0, Math.round(this.place(part) * (STEPS - 1))));
  }

  rgb(part) {
    const at = 3 * this.step(part);
    return this.bytes.subarray(at, at + 3);
  }

  /** CSS colour of a part of the number at the ramp's end. */
  colour(part) {
    const [r, g, b] = this.rgb(part);
    return `rgb(${r} ${g} ${b})`;
  }

  /** Black or white, whichever reads better on that colour (WCAG relative luminance). */
  contrast(part) {
    const [r, g, b] = Array.from(this.rgb(part), (byte) => linear(byte / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.19 ? "#15131c" : "#ffffff";
  }

  /** Paint the ramp itself, and number it in `list`, for a legend. `full` is the number at its end. */
  legend(canvas, list, full) {
    const context = canvas.getContext("2d");
    for (let x = 0; x < canvas.width; x += 1) {
      const at = 3 * Math.round((x / (canvas.width - 1)) * (STEPS - 1));
      context.fillStyle = `rgb(${this.bytes.subarray(at, at + 3).join(" ")})`;
      context.fillRect(x, 0, 1, canvas.height);
    }
    const written = this.parts.map((part) => {
      const tick = document.createElement("i");
      tick.textContent = `${Number((part * full).toPrecision(2))}`.replace(/^(-?)0\./, "$1.").replace("-", "−");
      tick.style.left = `${100 * this.place(part)}%`;
      return tick;
    });
    list.replaceChildren(...written);
  }
}

const root = (part) => Math.sqrt(Math.max(0, part));

/** Of weights, 0 to 1. */
export const weights = new Scale({
  paper: ["#fffdf9", "#fbe6c4", "#f3a96b", "#d04a69", "#842480", "#261052"],
  night: ["#1a1822", "#38235f", "#822a80", "#d34c70", "#f5a065", "#fff4cf"],
  place: root,
  parts: [0, 0.05, 0.25, 0.5, 1],
  meaning: "Colour scale: the square root of the weight",
});

/** Of differences between two weights, −1 to 1. */
export const differences = new Scale({
  paper: ["#08306b", "#2f7fbc", "#9ecae1", "#fffdf9", "#f9c08a", "#d9661f", "#7a2704"],
  night: ["#c6e6ff", "#4fa3e0", "#1f4f7d", "#1a1822", "#7d3a12", "#ec8338", "#ffe0bd"],
  place: (part) => (1 + Math.sign(part) * root(Math.abs(part))) / 2,
  parts: [-1, -0.25, 0, 0.25, 1],
  meaning: "Colour scale: the signed square root of the difference; blue is less than the kept run, orange more",
});

/** The scale that a view (`shown` of attention.js) is drawn in. */
export function scaleOf(view) {
  return view.signed ? differences : weights;
}

function mix(stops) {
  const labs = stops.map(toLab);
  const bytes = new Uint8Array(3 * STEPS);
  for (let i = 0; i < STEPS; i += 1) {
    const at = (i / (STEPS - 1)) * (labs.length - 1);
    const low = Math.min(Math.floor(at), labs.length - 2);
    const part = at - low;
    const lab = labs[low].map((x, axis) => x + part * (labs[low + 1][axis] - x));
    bytes.set(toBytes(lab), 3 * i);
  }
  return bytes;
}

const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
const encoded = (x) => (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);

function toLab(hex) {
  const [r, g, b] = [1, 3, 5].map((i) => linear(parseInt(hex.slice(i, i + 2), 16) / 255));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function toBytes([light, a, b]) {
  const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => Math.round(255 * Math.min(1, Math.max(0, encoded(x)))));
}
