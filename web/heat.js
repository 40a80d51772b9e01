// The load of each expert over training: a heat map of shares relative to uniform.

/**
 * `rows`: ascending {step, layers}; `layer`: which of them; `clock`: see makeClock. One row of cells an expert, one
 * column a pixel, each the mean of the records that fall on it. A record stands for the steps since the one before, so
 * that a pixel without a record of its own shows the next one, and the crosshair rests there. `names`: of the rows, where
 * a row is not an expert.
 */
function loadFigure({ title, rows, layer, experts, clock, summary, names }) {
  const nameOf = (row) => names?.[row] ?? String(row);
  const loads = rows.map((row) => list(row.layers[layer]?.load));
  const made = {};
  const stops = (mode) => (made[mode] ??= rows.map((row) => (clock[mode] ?? clock.step)(row.step)));
  const cell = experts <= 8 ? 15 : experts <= 16 ? 10 : experts <= 64 ? 5 : 3;
  let chosen = 0;
  return timeFigure({
    title,
    read: summary,
    unit: "expert ↓",
    label: `${title}: load of each expert. Left and right move along training, up and down among experts.`,
    height: () => 8 + experts * cell + 34,
    yTicks: (geometry) => {
      const every = Math.max(1, Math.ceil(12 / cell));
      const out = [];
      for (let expert = 0; expert < experts; expert += every)
        out.push([nameOf(expert).split("–")[0], geometry.top + (expert + 0.5) * cell]);
      return out;
    },
    draw: () => {},
    under: (geometry) => paintLoads(geometry, loads, stops(view.x), experts, cell),
    stops,
    rest: nextRecord,
    pointer: (py, geometry) => {
      chosen = clamp(Math.floor((py - geometry.top) / cell), 0, experts - 1);
    },
    move: (by) => {
      chosen = clamp(chosen + by, 0, experts - 1);
    },
    values: (x, geometry) => {
      const at = nextRecord(stops(view.x), x);
      const share = loads[at]?.[chosen];
      const ratio = number(share) * experts;
      return {
        rows: [
          [`expert ${nameOf(chosen)}`, percent(share), rgb(loadColour(ratio))],
          ["against uniform", times(ratio)],
        ],
        dots: [[geometry.x(stops(view.x)[at]), geometry.top + (chosen + 0.5) * cell, "ink"]],
      };
    },
  });
}

/** Index of the first element not below x; the last one when all are below. */
function nextRecord(xs, x) {
  const i = nearestBelow(xs, x);
  return xs[i] < x && i + 1 < xs.length ? i + 1 : i;
}

function paintLoads(geometry, loads, xs, experts, cell) {
  const columns = Math.max(1, Math.round(geometry.right - geometry.left));
  const colours = Array.from({ length: 129 }, (_, i) => loadColour(2 ** ((i - 64) / 32)));
  const starved = loadColour(0);
  const empty = loadColour(NaN);
  const colourOf = (ratio) =>
    !isNumber(ratio) ? empty : ratio < 1 / 16 ? starved : colours[Math.round(64 + 32 * clamp(Math.log2(ratio), -2, 2))];
  const image = new ImageData(columns, experts);
  let from = 0;
  for (let column = 0; column < columns; ++column) {
    const end = geometry.invert(geometry.left + column + 1);
    let to = from;
    while (to < xs.length && (xs[to] <= end || column === columns - 1)) ++to;
    const first = to > from ? from : Math.min(to, xs.length - 1);
    const last = to > from ? to : first + 1;
    from = to;
    const beyond = xs.length > 1 && end > xs[xs.length - 1] + (xs[xs.length - 1] - xs[0]) / (xs.length - 1);
    for (let expert = 0; expert < experts; ++expert) {
      let sum = 0;
      let count = 0;
      for (let i = first; i < last && !beyond; ++i) {
        const share = loads[i]?.[expert];
        if (isNumber(share)) {
          sum += share;
          ++count;
        }
      }
      const [red, green, blue] = colourOf(count ? (sum / count) * experts : NaN);
      const at = 4 * (expert * columns + column);
      image.data[at] = red;
      image.data[at + 1] = green;
      image.data[at + 2] = blue;
      image.data[at + 3] = 255;
    }
  }
  const canvas = el("canvas", { width: columns, height: experts, "aria-hidden": "true", class: "cells" });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const percentOf = (value, whole) => `${(100 * value) / whole}%`;
  canvas.style.left = percentOf(geometry.left, geometry.width);
  canvas.style.width = percentOf(geometry.right - geometry.left, geometry.width);
  canvas.style.top = percentOf(geometry.top, geometry.height);
  canvas.style.height = percentOf(experts * cell, geometry.height);
  return canvas;
}

/** The key of the heat map's colours. */
function loadKey() {
  const canvas = el("canvas", { width: 240, height: 1, "aria-hidden": "true" });
  redraws.push(() => {
    const image = new ImageData(240, 1);
    for (let i = 0; i < 240; ++i) image.data.set([...loadColour(2 ** ((i / 239) * 4 - 2)), 255], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
    dead.style.background = rgb(loadColour(0));
  });
  const dead = el("i", { class: "swatch" });
  return el(
    "p",
    { class: "load-key" },
    el("span", null, dead, "starved, under 1/16"),
    el("span", null, "¼× ", canvas, " 4×"),
    el("span", null, "grey is the uniform share 1/E"),
  );
}
