// A figure with a time axis: frame, crosshair, tooltip and keyboard, and the line chart drawn in it.

const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });

/** Shows the tooltip near the point (client coordinates), inside the window. `rows`: [name, value, class or colour]. */
function showTip(clientX, clientY, heading, rows) {
  tip.replaceChildren(
    el("b", null, heading),
    el(
      "table",
      null,
      el(
        "tbody",
        null,
        rows.map(([name, value, style]) =>
          el(
            "tr",
            null,
            el(
              "td",
              null,
              style &&
                el(
                  "i",
                  style.startsWith("rgb")
                    ? { class: "swatch", style: `background:${style}` }
                    : { class: `swatch ${style}` },
                ),
              name,
            ),
            el("td", null, value),
          ),
        ),
      ),
    ),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const right = clientX + 16 + box.width < innerWidth;
  tip.style.left = `${Math.max(4, right ? clientX + 16 : clientX - 16 - box.width)}px`;
  tip.style.top = `${clamp(clientY - box.height / 2, 4, Math.max(4, innerHeight - box.height - 4))}px`;
}
const hideTip = () => {
  tip.hidden = true;
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
addEventListener("scroll", hideTip, { passive: true });

/**
 * The frame of a figure over training. `part` says what stands in it:
 *   title, read (how to read it), unit (of the vertical axis, or a function that tells), label (for screen readers),
 *   height, compact
 *   yRange() -> [low, high] or null for a body with its own rows;   yTicks(geometry) -> [[value text, y]]
 *   draw(svg, geometry);   stops(mode) -> ascending x where the crosshair rests;   rest(stops, x) -> which of them, else
 *   the nearest
 *   values(x, y) -> {heading?, rows, dots: [[x, y, class]]};   up and down keys call part.move(by) when it is there
 */
function timeFigure(part) {
  const plot = el("div", {
    class: "plot",
    role: "slider",
    tabindex: 0,
    "aria-label": part.label ?? `${part.title}: crosshair`,
  });
  const unitLine = el("p", { class: "unit-y" });
  const figure = el(
    "figure",
    { class: part.compact ? "compact" : null },
    el("figcaption", null, el(part.compact ? "h4" : "h3", null, part.title), part.read && el("p", null, part.read)),
    part.unit && unitLine,
    plot,
    part.after,
  );
  let geometry = null;
  let marks = null;
  let drawnWidth = 0;

  function redraw() {
    const width = Math.max(200, Math.round(plot.clientWidth || drawnWidth || 640));
    drawnWidth = width;
    unitLine.textContent = typeof part.unit === "function" ? part.unit() : (part.unit ?? "");
    const height = typeof part.height === "function" ? part.height() : (part.height ?? 240);
    geometry = makeGeometry(width, height, part);
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      "aria-hidden": "true",
      focusable: "false",
    });
    drawAxes(root, geometry, part);
    part.draw(root, geometry);
    marks = svg("g", { class: "cursor" });
    root.append(marks);
    plot.replaceChildren(...(part.under ? [part.under(geometry)] : []), root);
    moveTo(view.cursor);
  }

  /** Draws the crosshair at the stop nearest x and returns what stands there. */
  function moveTo(x) {
    if (!marks) return null;
    marks.replaceChildren();
    const stops = part.stops(view.x);
    if (!isNumber(x) || !stops.length) return null;
    const at = stops[(part.rest ?? nearest)(stops, x)];
    const px = geometry.x(at);
    if (!isNumber(px)) return null;
    const found = part.values(at, geometry);
    marks.append(
      svg("line", { x1: px, x2: px, y1: geometry.top, y2: geometry.bottom }),
      ...(found.dots ?? []).map(([cx, cy, style]) => svg("circle", { cx, cy, r: 3.5, class: style })),
    );
    return { at, px, stops, ...found };
  }

  function announce(found) {
    const index = nearest(found.stops, found.at);
    plot.setAttribute("aria-valuemin", 0);
    plot.setAttribute("aria-valuemax", found.stops.length - 1);
    plot.setAttribute("aria-valuenow", index);
    const values = found.rows.map(([name, value]) => `${name} ${value}`).join(", ");
    plot.setAttribute("aria-valuetext", `${headingOf(found)}: ${values}`);
  }
  const headingOf = (found) =>
    found.heading ??
    `${view.x === "seconds" ? "" : `${view.x} `}${view.x === "seconds" ? duration(found.at) : plain(found.at)}`;

  function pointAt(event) {
    const box = plot.getBoundingClientRect();
    const scale = drawnWidth / box.width;
    part.pointer?.((event.clientY - box.top) * scale, geometry);
    setCursor(geometry.invert((event.clientX - box.left) * scale), plot);
    const found = moveTo(view.cursor);
    if (found) showTip(event.clientX, event.clientY, headingOf(found), found.rows);
  }
  function key(event) {
    const stops = part.stops(view.x);
    if (!stops.length) return;
    const now = isNumber(view.cursor) ? nearest(stops, view.cursor) : 0;
    const big = Math.max(1, Math.round(stops.length / 20));
    const by = { ArrowRight: 1, ArrowLeft: -1, PageUp: big, PageDown: -big, Home: -stops.length, End: stops.length }[
      event.key
    ];
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      if (!part.move) return;
      part.move(event.key === "ArrowUp" ? -1 : 1);
    } else if (by === undefined) {
      return;
    }
    event.preventDefault();
    setCursor(stops[clamp(now + (by ?? 0), 0, stops.length - 1)], plot);
    const found = moveTo(view.cursor);
    if (!found) return;
    announce(found);
    const box = plot.getBoundingClientRect();
    showTip(box.left + (found.px * box.width) / drawnWidth, box.top + box.height / 2, headingOf(found), found.rows);
  }

  plot.addEventListener("pointermove", pointAt);
  plot.addEventListener("pointerdown", pointAt);
  plot.addEventListener("pointerleave", () => {
    hideTip();
    setCursor(null, plot);
  });
  plot.addEventListener("keydown", key);
  plot.addEventListener("blur", hideTip);
  cursors.push((x, source) => {
    if (source !== plot) moveTo(x);
  });
  redraws.push(redraw);
  plot.setAttribute("aria-valuenow", 0);
  plot.setAttribute("aria-valuemin", 0);
  plot.setAttribute("aria-valuemax", Math.max(0, part.stops("step").length - 1));
  plot.setAttribute("aria-valuetext", "arrow keys move along the axis");
  new ResizeObserver(() => {
    if (plot.clientWidth && Math.abs(plot.clientWidth - drawnWidth) > 1) redraw();
  }).observe(plot);
  return figure;
}

/** Scales from values to pixels. The left margin is the same everywhere, so that figures align. */
function makeGeometry(width, height, part) {
  const compact = part.compact;
  const endLabels = part.labels && width >= 620 ? part.labels() : 0;
  const left = compact ? 40 : 46;
  const right = width - (endLabels || 10);
  const top = 8;
  const bottom = height - (compact ? 31 : 34);
  let [first, last] = view.span();
  if (!(last > first)) [first, last] = [0, Math.max(1, last)];
  const warp = view.log ? Math.log : (value) => value;
  const unwarp = view.log ? Math.exp : (value) => value;
  const [a, b] = [warp(first), warp(last)];
  const x = (value) => (view.log && value < first ? NaN : left + ((warp(value) - a) / (b - a)) * (right - left));
  const invert = (px) => unwarp(a + ((clamp(px, left, right) - left) / (right - left)) * (b - a));
  const range = part.yRange?.();
  const [low, high] = range ?? [0, 1];
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  return { width, height, left, right, top, bottom, x, invert, y, low, high, first, last, hasRange: Boolean(range) };
}

function drawAxes(root, geometry, part) {
  const { left, right, top, bottom, first, last } = geometry;
  const group = svg("g", { class: "axes" });
  const room = Math.max(2, Math.floor((right - left) / (part.compact ? 64 : 84)));
  const xTicks = view.log ? logTicks(first, last, room) : timeTicks(first, last, room);
  for (const value of xTicks) {
    const px = geometry.x(value);
    const anchor = px > right - 14 ? "end" : "middle";
    group.append(
      svg("line", { x1: px, x2: px, y1: bottom, y2: bottom + 4 }),
      svg("text", { x: anchor === "end" ? right + 8 : px, y: bottom + 15, "text-anchor": anchor }, axisText(value)),
    );
  }
  group.append(
    svg(
      "text",
      { class: "axis-name", x: (left + right) / 2, y: geometry.height - 4, "text-anchor": "middle" },
      `${axisNames[view.x]}${view.log ? " (log)" : ""} →`,
    ),
  );
  group.append(svg("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
  const count = Math.max(2, Math.round((bottom - top) / (part.compact ? 26 : 42)));
  const yTicks = part.yTicks
    ? part.yTicks(geometry)
    : geometry.hasRange
      ? ticks(geometry.low, geometry.high, count).map((value) => [
          (part.tick ?? axisNumber)(value, geometry.high),
          geometry.y(value),
          true,
        ])
      : [];
  for (const [text, py, grid] of yTicks) {
    if (grid) group.append(svg("line", { class: "grid", x1: left, x2: right, y1: py, y2: py }));
    group.append(svg("text", { x: left - 7, y: py + 3.5, "text-anchor": "end" }, text));
  }
  root.append(group);
}

/** A tick's number, in the manner that suits the highest value of its axis. */
function axisNumber(value, high) {
  if (value === 0) return "0";
  if (high < 0.01) return withMinus(value.toExponential(1).replace(".0e", "e"));
  return Math.abs(value) >= 1000 ? short(value) : withMinus(String(Number(value.toPrecision(6))));
}
const axisPercent = (share) => `${withMinus(String(Number((100 * share).toPrecision(6))))} %`;

/** Ticks at round minutes and hours when the axis is time. */
function timeTicks(first, last, room) {
  const unit = view.x !== "seconds" || last < 120 ? 1 : last < 7200 ? 60 : 3600;
  return ticks(first / unit, last / unit, room).map((value) => value * unit);
}

/**
 * Points in pixels with at most four kept for a pixel column (first, lowest, highest, last): what is drawn looks the
 * same as all of them would. Gaps stay gaps.
 */
function thinPath(xs, ys, geometry) {
  const parts = [];
  let pen = "M";
  let column = null;
  const put = (px, py) => {
    parts.push(`${pen}${px.toFixed(1)} ${py.toFixed(1)}`);
    pen = "L";
  };
  const flush = () => {
    if (!column) return;
    const seen = [column.first, column.low, column.high, column.last];
    seen
      .filter((point, i) => seen.indexOf(point) === i)
      .sort((p, q) => p.i - q.i)
      .forEach((point) => put(point.px, point.py));
    column = null;
  };
  for (let i = 0; i < xs.length; ++i) {
    const px = geometry.x(xs[i]);
    const py = geometry.y(ys[i]);
    if (!isNumber(px) || !isNumber(py)) {
      flush();
      pen = "M";
      continue;
    }
    const point = { px, py, i };
    const at = Math.floor(px);
    if (!column || column.at !== at) {
      flush();
      column = { at, first: point, low: point, high: point, last: point };
      continue;
    }
    if (py > column.low.py) column.low = point;
    if (py < column.high.py) column.high = point;
    column.last = point;
  }
  flush();
  return parts.join("");
}

/**
 * A line chart. `series` lists curves (see `curve`) or is a function that does; `zero` makes the vertical axis start at
 * 0, `format` writes values, `ceiling` keeps a known upper end. A curve with `ends: false` is labelled without its last
 * value.
 */
function lineChart({ series, zero, ceiling, format = plain, ...part }) {
  const all = () => (typeof series === "function" ? series() : series);
  const name = (one) => (!one.label ? "" : one.ends === false ? one.name : `${one.name}  ${format(lastValue(one))}`);
  const legend = el("p", { class: "legend" });
  const figure = timeFigure({
    ...part,
    after: legend,
    tick: format === percent ? axisPercent : undefined,
    labels: part.compact ? null : () => 18 + 7.6 * Math.max(0, ...all().map((one) => name(one).length)),
    yRange: () => {
      const values = all().flatMap((one) => {
        const { ys, low, high } = one.points(view.x);
        return [extent(ys), low && extent(low), high && extent(high)].filter(Boolean).flat();
      });
      const range = extent(values);
      if (!range) return null;
      const low = zero ? Math.min(0, range[0]) : range[0];
      const high = ceiling ?? range[1];
      const pad = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
      return [zero ? low : low - pad, high + (ceiling === undefined ? pad : 0)];
    },
    draw: (root, geometry) => {
      const ends = [];
      for (const one of all()) {
        const { xs, ys, low, high } = one.points(view.x);
        if (low) root.append(svg("path", { class: `band ${one.style}`, d: bandPath(xs, low, high, geometry) }));
        root.append(svg("path", { class: `line ${one.style}`, d: thinPath(xs, ys, geometry) }));
        // A line of one point cannot be seen.
        if ((one.dots && xs.length <= 80) || ys.filter(isNumber).length === 1) {
          xs.forEach((x, i) => {
            const [cx, cy] = [geometry.x(x), geometry.y(ys[i])];
            if (isNumber(cx) && isNumber(cy)) root.append(svg("circle", { class: `dot ${one.style}`, cx, cy, r: 2.4 }));
          });
        }
        if (one.label && isNumber(lastValue(one))) ends.push({ one, y: geometry.y(lastValue(one)) });
      }
      const outside = geometry.width - geometry.right > 20;
      if (outside) drawEndLabels(root, geometry, ends, name);
      const labelled = all().filter((one) => one.label);
      legend.hidden = outside || (part.compact && labelled.length < 2);
      legend.replaceChildren(
        ...labelled.map((one) => el("span", null, el("i", { class: `swatch ${one.style}` }), name(one))),
      );
    },
    stops: (mode) =>
      all().reduce((most, one) => {
        const xs = one.hover ? one.points(mode).xs : [];
        return xs.length > most.length ? xs : most;
      }, []),
    values: (x, geometry) => {
      const rows = [];
      const dots = [];
      for (const one of all()) {
        if (!one.hover) continue;
        const { xs, ys, low, high } = one.points(view.x);
        if (!xs.length) continue;
        const i = nearest(xs, x);
        const near = Math.abs(geometry.x(xs[i]) - geometry.x(x)) <= 30;
        const value = near ? ys[i] : interpolate(xs, ys, x);
        if (!isNumber(value)) continue;
        const place = near && xs[i] !== x ? ` at ${axisText(xs[i])}` : "";
        const spread = low ? `  (${format(low[i])} to ${format(high[i])})` : "";
        rows.push([`${one.name}${place}`, `${format(value)}${spread}`, one.style]);
        const px = geometry.x(near ? xs[i] : x);
        if (isNumber(px)) dots.push([px, geometry.y(value), one.style]);
      }
      return { rows, dots };
    },
  });
  return figure;
}

function lastValue(one) {
  const { ys } = one.points(view.x);
  for (let i = ys.length - 1; i >= 0; --i) if (isNumber(ys[i])) return ys[i];
  return NaN;
}

function bandPath(xs, low, high, geometry) {
  const upper = thinPath(xs, high, geometry);
  const lower = thinPath([...xs].reverse(), [...low].reverse(), geometry);
  return upper && lower ? `${upper}${lower.replace("M", "L")}Z` : "";
}

/** Names at the ends of the lines, pushed apart where they would overlap. */
function drawEndLabels(root, geometry, ends, name) {
  ends.sort((p, q) => p.y - q.y);
  ends.forEach((end, i) => {
    end.at = Math.max(end.y, i ? ends[i - 1].at + 15 : geometry.top + 4);
  });
  for (let i = ends.length - 1; i >= 0; --i) {
    ends[i].at = Math.min(ends[i].at, i === ends.length - 1 ? geometry.bottom : ends[i + 1].at - 15);
  }
  for (const { one, at } of ends) {
    root.append(svg("text", { class: `end ${one.style}`, x: geometry.right + 8, y: at + 4 }, name(one)));
  }
}

/** The controls that turn the horizontal axis of every figure on the page, and the unit of the loss: units, [key, name] each. */
function axisControls(modes, units) {
  const choice = (legend, key, options) =>
    el(
      "fieldset",
      null,
      el("legend", null, legend),
      options.map(([value, text]) =>
        el(
          "label",
          null,
          el("input", {
            type: "radio",
            name: key,
            value: String(value),
            checked: view[key] === value,
            onchange: () => {
              view[key] = value;
              view.cursor = null;
              redrawAll();
            },
          }),
          text,
        ),
      ),
    );
  const names = { step: "steps", tokens: "tokens", seconds: "time" };
  return el(
    "form",
    { class: "controls", "aria-label": "Axes of all charts", onsubmit: (event) => event.preventDefault() },
    modes.length > 1 &&
      choice(
        "Along x",
        "x",
        modes.map((mode) => [mode, names[mode]]),
      ),
    choice("Scale of x", "log", [
      [false, "linear"],
      [true, "logarithmic"],
    ]),
    units.length > 1 &&
      choice("Loss in", "unit", units),
  );
}
