// Elements, numbers, colours and the state that all figures of a page share.

const page = document.getElementById("page");
const svgSpace = document.getElementById("space").namespaceURI;

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(svgSpace, tag), attributes, children);

const list = (value) => (Array.isArray(value) ? value : []);
const object = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const number = (value) => (isNumber(value) ? value : NaN);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const isSet = (value) => value !== null && value !== undefined && value !== "";

// --- numbers as text -------------------------------------------------------------------------------------------------

const withMinus = (text) => text.replace(/-/g, "−");

/** Four significant digits, thousands apart: 1.234, 0.00012, 12 345. */
function plain(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) return withMinus(value.toExponential(2).replace("e+", "e"));
  if (Number.isInteger(value) || size >= 1e4) {
    return withMinus(Math.round(value).toString()).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }
  return withMinus(value.toPrecision(4))
    .replace(/(\.\d*?)0+$/, "$1")
    .replace(/\.$/, "");
}

/** Three significant digits with k, M, G, T, P: 41.0k. */
function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  const power = size < 1000 ? 0 : Math.min(5, Math.floor(Math.log10(size * 1.0005) / 3));
  const scaled = value / 1000 ** power;
  const text = Number.isInteger(scaled) && size < 1000 ? String(scaled) : scaled.toPrecision(3);
  return withMinus(text).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") + ["", "k", "M", "G", "T", "P"][power];
}

/** Bytes in the largest binary unit that fits: 23.54 GiB. */
function bytesText(bytes) {
  const power = clamp(Math.floor(Math.log2(Math.max(1, bytes)) / 10), 0, 4);
  return `${plain(bytes / 1024 ** power)} ${["bytes", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

const percent = (share) =>
  isNumber(share) ? `${withMinus((100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0))} %` : "–";
const fixed3 = (value) => (isNumber(value) ? withMinus(value.toFixed(3)) : "–");
const times = (ratio) => (isNumber(ratio) ? `${ratio.toFixed(2)}×` : "–");

function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return "–";
  if (seconds < 59.95) return `${plain(Math.round(seconds * 10) / 10)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Milliseconds since 1970 from ISO text or seconds; NaN when it is neither. */
function instant(value) {
  if (isNumber(value)) return value * 1000;
  return typeof value === "string" ? Date.parse(value) : NaN;
}
function dateText(value) {
  const ms = instant(value);
  if (!isNumber(ms)) return isSet(value) ? String(value) : "–";
  return `${new Date(ms).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

// --- curves ----------------------------------------------------------------------------------------------------------

/** Value at x on the line through (xs, ys), xs ascending; NaN outside. */
function interpolate(xs, ys, x) {
  if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return NaN;
  const i = nearestBelow(xs, x);
  if (i === xs.length - 1 || xs[i] === x) return ys[i];
  return ys[i] + ((ys[i + 1] - ys[i]) * (x - xs[i])) / (xs[i + 1] - xs[i]);
}

/** Index of the last element not above x; 0 when all are above. */
function nearestBelow(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle - 1;
  }
  return low;
}

function nearest(xs, x) {
  const i = nearestBelow(xs, x);
  return i + 1 < xs.length && xs[i + 1] - x < x - xs[i] ? i + 1 : i;
}

/** The mean of about `span` values around each; the window shrinks at both ends, so that nothing lags or leans. */
function smooth(values, span) {
  const sums = [0];
  const counts = [0];
  for (const value of values) {
    sums.push(sums[sums.length - 1] + (isNumber(value) ? value : 0));
    counts.push(counts[counts.length - 1] + (isNumber(value) ? 1 : 0));
  }
  return values.map((value, i) => {
    const half = Math.min(Math.round(span / 2), i, values.length - 1 - i);
    const count = counts[i + half + 1] - counts[i - half];
    return isNumber(value) && count ? (sums[i + half + 1] - sums[i - half]) / count : NaN;
  });
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** Round numbers that cover low … high, about `count` of them and at least two. */
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    out.push(Number((i * step).toPrecision(12)));
  // A fifth of the range or less is a step of at most half of it.
  return out.length > 1 || count >= 5 ? out : ticks(low, high, count + 1);
}

function logTicks(low, high, room) {
  const decades = Math.log10(high / low);
  const factors = decades < room / 3 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / room));
  const out = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); ++power) {
    if (power % every) continue;
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) out.push(value);
    }
  }
  return out;
}

// --- what all figures share ------------------------------------------------------------------------------------------

/** The horizontal axis of every figure: "step", "tokens" or "seconds", linear or logarithmic. */
const view = { x: "step", log: false, unit: "bpb", span: () => [0, 1], cursor: null };
const redraws = [];
const cursors = [];
const redrawAll = () => redraws.forEach((redraw) => redraw());
function setCursor(x, source) {
  view.cursor = x;
  cursors.forEach((move) => move(x, source));
}

const axisNames = { step: "optimiser step", tokens: "tokens seen", seconds: "time since the start" };
const axisText = (value) => (view.x === "seconds" ? shortTime(value) : short(value));
function shortTime(seconds) {
  if (seconds < 120) return `${plain(seconds)} s`;
  return seconds < 7200 ? `${plain(seconds / 60)} min` : `${plain(seconds / 3600)} h`;
}

let printing = false;
const darkQuery = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => darkQuery.matches && !printing;
darkQuery.addEventListener("change", redrawAll);
addEventListener("beforeprint", () => {
  printing = true;
  redrawAll();
});
addEventListener("afterprint", () => {
  printing = false;
  redrawAll();
});

/** Steps to tokens and seconds for one run, by straight lines between what was recorded. */
function makeClock(metrics, timing) {
  const known = (rows, key) => rows.filter((row) => isNumber(row.step) && isNumber(row[key]));
  const tokens = known(metrics, "tokens");
  const seconds = known(timing, "seconds");
  const rising = seconds.length > 1 && seconds.every((row, i) => i === 0 || row.seconds > seconds[i - 1].seconds);
  const map = (rows, key) => {
    // Every run starts at (0, 0), and goes on at its mean pace after the last row.
    const xs = [0, ...rows.map((row) => row.step)];
    const ys = [0, ...rows.map((row) => row[key])];
    const pace = ys[ys.length - 1] / (xs[xs.length - 1] || 1);
    return (step) => (step > xs[xs.length - 1] ? step * pace : interpolate(xs, ys, step));
  };
  return {
    step: (step) => step,
    tokens: tokens.length ? map(tokens, "tokens") : null,
    seconds: rising ? map(seconds, "seconds") : null,
  };
}

/** A curve: `points(mode)` gives {xs, ys[, low, high]} on the axis in use. Remembered, since a redraw asks again. */
function curve(name, style, clock, steps, values, more) {
  const made = {};
  const points = (mode) => {
    if (!made[mode]) {
      const at = clock[mode] ?? clock.step;
      const keep = steps.map((_, i) => i).filter((i) => isNumber(at(steps[i])));
      made[mode] = { xs: keep.map((i) => at(steps[i])), ys: keep.map((i) => values[i]) };
    }
    return made[mode];
  };
  return { name, style, points, hover: true, label: true, ...more };
}

/** A noisy curve: its raw values faint, its running mean on top. Short ones stay as they are. */
function noisyCurve(name, style, clock, steps, values, more) {
  if (steps.length <= 80) return [curve(name, style, clock, steps, values, more)];
  const mean = smooth(values, steps.length / 50);
  return [
    curve(name, `${style} raw`, clock, steps, values, { ...more, label: false }),
    curve(name, style, clock, steps, mean, { ...more, hover: false }),
  ];
}

// --- colours ---------------------------------------------------------------------------------------------------------

/** OKLCH to "rgb(…)": equal steps of lightness look equal, which the palettes below rely on. */
function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const channel = (linear) => {
    const c = clamp(linear, 0, 1);
    return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
  };
  return [
    channel(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    channel(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    channel(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}
const rgb = (channels) => `rgb(${channels.join(",")})`;

/**
 * The colour of an expert. The first eight hues differ in lightness as well, so that they stay apart without red and
 * green; further ones turn by the golden angle through three lightnesses. Ink on each has a contrast above 4.5.
 */
const firstHues = [
  [0.8, 0.1, 250],
  [0.86, 0.13, 95],
  [0.68, 0.14, 40],
  [0.72, 0.11, 165],
  [0.9, 0.06, 215],
  [0.74, 0.12, 330],
  [0.88, 0.12, 130],
  [0.66, 0.11, 285],
];
function expertColour(expert) {
  let [lightness, chroma, hue] = firstHues[expert % 8];
  if (expert >= 8) {
    hue = (20 + 137.508 * expert) % 360;
    lightness = [0.86, 0.68, 0.77][expert % 3];
    chroma = 0.06 + 0.05 * (Math.floor(expert / 3) % 2);
  }
  return rgb(isDark() ? oklch(0.31 + (lightness - 0.66) * 0.62, chroma * 0.85, hue) : oklch(lightness, chroma, hue));
}

/**
 * Share relative to uniform on a scale of doublings: blue below, grey at 1, orange above; the ends are 1/4 and 4.
 * Purple is a starved expert.
 */
function loadColour(ratio) {
  if (!isNumber(ratio)) return isDark() ? [22, 24, 28] : [252, 252, 250];
  if (ratio < 1 / 16) return isDark() ? oklch(0.5, 0.2, 320) : oklch(0.3, 0.13, 320);
  const t = clamp(Math.log2(ratio) / 2, -1, 1);
  const size = Math.abs(t) ** 0.8;
  if (isDark()) return oklch(0.33 + 0.42 * size, 0.005 + 0.125 * size, t < 0 ? 245 : 60);
  return oklch(0.955 - 0.4 * size, 0.004 + 0.136 * size, t < 0 ? 250 : 52);
}
