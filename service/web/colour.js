// From a weight to a colour: one dark-is-more ramp on paper, one bright-is-more ramp at night.
// Stops are mixed in OKLab (Björn Ottosson, 2020), so that equal steps look equal. Position on the ramp is
// the square root of the weight: a weight of 0.05 must not look like nothing in a row of many tokens.

const PAPER = ["#fffdf9", "#fbe6c4", "#f3a96b", "#d04a69", "#842480", "#261052"];
const NIGHT = ["#1a1822", "#38235f", "#822a80", "#d34c70", "#f5a065", "#fff4cf"];
const STEPS = 256;

/** Whether the page is shown dark. */
export const dark = matchMedia("(prefers-color-scheme: dark)");

const ramps = new Map();

/** The ramp in use: RGB bytes of 256 colours, 3 a colour. */
export function ramp() {
  const stops = dark.matches ? NIGHT : PAPER;
  if (!ramps.has(stops)) ramps.set(stops, mix(stops));
  return ramps.get(stops);
}

/** Place of a weight on the ramp, 0 to 255. */
export function step(weight) {
  return Math.min(STEPS - 1, Math.max(0, Math.round(Math.sqrt(weight) * (STEPS - 1))));
}

/** CSS colour of a weight. */
export function colour(weight) {
  const bytes = ramp();
  const at = 3 * step(weight);
  return `rgb(${bytes[at]} ${bytes[at + 1]} ${bytes[at + 2]})`;
}

/** Black or white, whichever reads better on the colour of a weight (WCAG relative luminance). */
export function contrast(weight) {
  const bytes = ramp();
  const at = 3 * step(weight);
  const [r, g, b] = [0, 1, 2].map((i) => linear(bytes[at + i] / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.19 ? "#15131c" : "#ffffff";
}

/** Paint the ramp itself, for a legend. */
export function drawScale(canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    context.fillStyle = colour((x / (canvas.width - 1)) ** 2);
    context.fillRect(x, 0, 1, canvas.height);
  }
}

/** Number the legend: these parts of the weight at its end stand where explorer.css places them, at their roots. */
export function ticks(list, full) {
  const written = [0, 0.05, 0.25, 0.5, 1].map((part) => {
    const tick = document.createElement("i");
    tick.textContent = `${Number((part * full).toPrecision(2))}`.replace(/^0\./, ".");
    return tick;
  });
  list.replaceChildren(...written);
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
