// The comparison of groups of runs: one colour a group, a thin line a seed, a thick mean with a band.

const groupStyle = (i) => `g${i % 8}`;

/** Mean, lowest and highest of several seeds' curves where all of them have values. */
function meanCurve(name, style, seeds, more) {
  const made = {};
  const points = (mode) =>
    (made[mode] ??= meanPoints(seeds.map((one) => one.points(mode)).filter(({ ys }) => hasAny(ys))));
  return { name, style: `${style} mean`, points, hover: true, label: true, ...more };
}
function meanPoints(curves) {
  const known = curves.map(({ xs, ys }) => {
    const keep = xs.map((_, i) => i).filter((i) => isNumber(ys[i]));
    return { xs: keep.map((i) => xs[i]), ys: keep.map((i) => ys[i]) };
  });
  if (!known.length) return { xs: [], ys: [] };
  const first = Math.max(...known.map(({ xs }) => xs[0]));
  const last = Math.min(...known.map(({ xs }) => xs[xs.length - 1]));
  let grid = [...new Set(known.flatMap(({ xs }) => xs))].filter((x) => x >= first && x <= last).sort((p, q) => p - q);
  if (grid.length > 600) grid = Array.from({ length: 600 }, (_, i) => first + ((last - first) * i) / 599);
  const out = { xs: grid, ys: [], low: [], high: [] };
  for (const x of grid) {
    const values = known.map(({ xs, ys }) => interpolate(xs, ys, x));
    out.ys.push(values.reduce((sum, value) => sum + value, 0) / values.length);
    out.low.push(Math.min(...values));
    out.high.push(Math.max(...values));
  }
  return known.length > 1 ? out : { xs: out.xs, ys: out.ys };
}

/** Curves of groups as differences from the mean of the first group at the same place. */
function againstFirst(curves) {
  const means = curves.filter((one) => one.style.endsWith("mean"));
  return means.map((one) => {
    const made = {};
    const points = (mode) => {
      if (made[mode]) return made[mode];
      const base = means[0].points(mode);
      const { xs, ys, low, high } = one.points(mode);
      const less = (values) => values && values.map((value, i) => value - interpolate(base.xs, base.ys, xs[i]));
      return (made[mode] = { xs, ys: less(ys), low: less(low), high: less(high) });
    };
    return { ...one, points };
  });
}

/** Curves of one measure for every group; noisy ones are smoothed seed by seed before the mean is taken. */
function groupCurves(groups, rowsOf, valueOf, noisy, ends) {
  return groups.flatMap((group, i) => {
    const style = groupStyle(i);
    const seeds = group.runs
      .map((run) => {
        const rows = rowsOf(run);
        const values = rows.map(valueOf);
        return curve(
          `${group.name}, seed ${run.seed}`,
          `${style} seed`,
          run.clock,
          column(rows, "step"),
          noisy && rows.length > 80 ? smooth(values, rows.length / 50) : values,
          { hover: false, label: false },
        );
      })
      .filter((one) => hasAny(one.points("step").ys));
    if (!seeds.length) return [];
    return [...(seeds.length > 1 ? seeds : []), meanCurve(group.name, style, seeds, { ends })];
  });
}

const cleanGroups = (data) =>
  list(data.groups).map((group, i) => ({
    name: String(group?.name ?? `group ${i + 1}`),
    runs: list(group?.runs).map((run) => {
      const metrics = sortedRows(run?.metrics);
      const timing = sortedRows(run?.timing);
      return {
        ...object(run),
        seed: run?.seed ?? "–",
        metrics,
        timing,
        clock: makeClock(metrics, timing),
        train: ofKind(metrics, "train"),
        valid: ofKind(metrics, "valid"),
      };
    }),
  }));

const verdictNames = { held: "✓ Held", not_shown: "○ Not shown at this scale", failed: "✕ Failed" };

/** A row's groups on one scale: the line is lowest to highest seed, the dot the mean. */
function rangePlot(values) {
  const range = extent(values.flatMap((value) => [value?.min, value?.max, value?.mean]));
  if (!range) return null;
  const [low, high] = range;
  const height = 6 + values.length * 11;
  const x = (value) => 8 + ((value - low) / (high - low || 1)) * 164;
  return svg(
    "svg",
    { class: "range", viewBox: `0 0 180 ${height}`, width: 180, height, "aria-hidden": "true" },
    values.map((value, i) => {
      if (!isNumber(value?.mean)) return null;
      const y = 8.5 + i * 11;
      const ends = isNumber(value.min) && isNumber(value.max);
      return [
        ends && svg("line", { class: `line ${groupStyle(i)}`, x1: x(value.min), x2: x(value.max), y1: y, y2: y }),
        svg("circle", { class: `dot ${groupStyle(i)}`, cx: x(value.mean), cy: y, r: 4 }),
      ];
    }),
  );
}

/**
 * The groups with the best mean, and whether their seeds lie apart from every other group's; none when nothing is
 * better.
 */
function bestOf(row, values) {
  const sign = row.better === "higher" ? -1 : row.better === "lower" ? 1 : 0;
  const known = values.map((_, i) => i).filter((i) => isNumber(values[i]?.mean));
  const lead = Math.min(...known.map((i) => sign * values[i].mean));
  // Means of equal values can differ in their last digits.
  const isBest = (i) => sign * values[i].mean - lead <= 1e-12 * Math.abs(lead);
  const best = known.filter(isBest);
  const others = known.filter((i) => !isBest(i));
  if (!sign || !others.length) return { best: [], apart: false };
  const edge = (i, near) => number(near ? values[i].max : values[i].min);
  const apart = best.every((i) =>
    others.every((j) => (sign > 0 ? edge(i, true) < edge(j, false) : edge(i, false) > edge(j, true))),
  );
  return { best, apart };
}

/** Whether a measure is the same for every seed: by the configuration, or in all that were run. */
function isFixed(row, values) {
  const known = values.filter((value) => isNumber(value?.mean));
  return row.fixed === true || (known.some((value) => value.n > 1) && known.every((value) => value.min === value.max));
}

function advantage(row, values, apart) {
  if (isFixed(row, values)) return "better; the same for every seed";
  if (!values.every((value) => !isNumber(value?.mean) || value.n > 1))
    return "better; too few seeds to tell from chance";
  return apart ? "better on every seed" : "better on average; seeds overlap";
}

/** What a row of measures says: which groups lead it, and how far that can be trusted. */
function readingOf(row, values, groups, { best, apart }) {
  if (!best.length)
    return row.better && values.filter((value) => isNumber(value?.mean)).length > 1 ? "no difference" : "";
  const names = best.map((i) => groups[i]?.name ?? i).join(" and ");
  return `${names}${best.length > 1 ? " (tied)" : ""} ${advantage(row, values, apart)}`;
}

/** "1.693 ± 0.002": the spread with two digits, the mean with as many places as the spread. */
function meanText({ mean, std, n }) {
  if (!isNumber(mean)) return "–";
  if (!(std > 0) || !(n > 1)) return plain(mean);
  const places = clamp(1 - Math.floor(Math.log10(std)), 0, 6);
  const write = (value) => (places ? withMinus(value.toFixed(places)) : plain(Math.round(value)));
  return `${write(mean)} ± ${write(std)}`;
}
const signed = (value) =>
  isNumber(value) ? `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}` : "–";

function measureTable(rows, groups) {
  return scrollBox(
    "Table of measures",
    el(
      "table",
      { class: "measures" },
      el(
        "thead",
        null,
        el(
          "tr",
          null,
          el("th", { scope: "col" }, "Measure"),
          groups.map((group, i) =>
            el("th", { scope: "col" }, el("i", { class: `swatch ${groupStyle(i)}` }), group.name),
          ),
          el("th", { scope: "col" }, "Range over seeds"),
          el("th", { scope: "col" }, "Reading"),
        ),
      ),
      el(
        "tbody",
        null,
        rows.map((row) => {
          const values = list(row?.values);
          const found = bestOf(row, values);
          return el(
            "tr",
            null,
            el(
              "th",
              { scope: "row" },
              String(row.measure ?? ""),
              el(
                "span",
                { class: "small" },
                [row.unit, row.better && `${row.better} is better`].filter(Boolean).join(", "),
              ),
            ),
            groups.map((_, i) => {
              const value = object(values[i]);
              return el(
                "td",
                { class: found.apart && found.best.includes(i) ? "best" : null },
                meanText(value),
                isNumber(value.n) && el("span", { class: "small" }, `${value.n} seed${value.n === 1 ? "" : "s"}`),
              );
            }),
            el("td", null, rangePlot(groups.map((_, i) => values[i]))),
            el("td", { class: "reading" }, readingOf(row, values, groups, found)),
          );
        }),
      ),
    ),
  );
}

/** A warning when groups were trained for different numbers of steps: their measures are ranked all the same. */
function stepsWarning(differences, groups) {
  const steps = list(differences.find((row) => row?.path === "train.steps")?.values);
  if (!steps.length) return null;
  const each = groups.map((group, i) => `${group.name} ${isSet(steps[i]) ? steps[i] : "not set"}`).join(", ");
  return el("p", { class: "notes" }, `The groups differ in their number of training steps (${each}): no fair ranking.`);
}

function differenceTable(rows, groups) {
  const write = (value) =>
    value === null || value === undefined ? "not set" : typeof value === "string" ? value : JSON.stringify(value);
  return scrollBox(
    "Table of differences",
    el(
      "table",
      null,
      el(
        "thead",
        null,
        el(
          "tr",
          null,
          el("th", { scope: "col" }, "Setting"),
          groups.map((group, i) =>
            el("th", { scope: "col" }, el("i", { class: `swatch ${groupStyle(i)}` }), group.name),
          ),
        ),
      ),
      el(
        "tbody",
        null,
        rows.map((row) =>
          el(
            "tr",
            null,
            el("th", { scope: "row" }, el("code", null, String(row?.path ?? ""))),
            groups.map((_, i) => el("td", null, el("code", null, write(list(row?.values)[i])))),
          ),
        ),
      ),
    ),
  );
}

function runTable(groups) {
  const rows = groups.flatMap((group, i) => group.runs.map((run) => [i, group, run]));
  const last = (run) => run.run?.valid_bpb ?? [...run.valid].reverse().find((row) => isNumber(row.bpb))?.bpb;
  return scrollBox(
    "Table of runs",
    el(
      "table",
      null,
      el(
        "thead",
        null,
        el(
          "tr",
          null,
          ["Group", "Seed", "Run", "Status", "Held-out (bits/byte)", "Speed (tokens/s)", "Parameters (active)"].map(
            (name) => el("th", { scope: "col" }, name),
          ),
        ),
      ),
      el(
        "tbody",
        null,
        rows.map(([i, group, run]) => {
          const facts = object(run.run);
          return el(
            "tr",
            null,
            el("th", { scope: "row" }, el("i", { class: `swatch ${groupStyle(i)}` }), group.name),
            el("td", null, String(run.seed)),
            el("td", null, el("code", null, String(run.name ?? run.id ?? "–"))),
            el("td", null, String(facts.status ?? "–")),
            el("td", null, fixed3(last(run))),
            el("td", null, short(facts.tokens_per_second)),
            el("td", null, `${short(facts.parameters_total)} (${short(facts.parameters_active)})`),
          );
        }),
      ),
    ),
  );
}

function comparePage(data) {
  const groups = cleanGroups(data);
  const runs = groups.flatMap((group) => group.runs);
  setSpan(runs.map((run) => ({ clock: run.clock, steps: [...run.metrics, ...run.timing].map((row) => row.step) })));
  const modes = ["step", "tokens", "seconds"].filter((mode) => runs.length && runs.every((run) => run.clock[mode]));
  const units = unitsOf(runs.map((run) => run.metrics));
  view.unit = units[0] ?? "bpb";

  const chart = (title, read, unit, height, rowsOf, valueOf, noisy, more) => {
    const series = groupCurves(groups, rowsOf, valueOf, noisy, false);
    return series.length ? lineChart({ title, read, unit, height, series, ...more }) : null;
  };
  const lossChart = (title, read, kind, height, turn) => {
    if (!runs.some((run) => units.some((unit) => hasAny(column(run[kind], unit))))) return null;
    const made = {};
    const curvesNow = () =>
      groupCurves(
        groups,
        (run) => run[kind],
        (row) => number(row[view.unit]),
        kind === "train",
      );
    const series = () => (made[view.unit] ??= turn ? turn(curvesNow()) : curvesNow());
    const unit = () => `${unitNames[view.unit]}${turn ? ", difference" : ""} ${unitArrow()}`;
    return lineChart({ title, read, unit, height, format: turn ? signed : fixed3, series });
  };
  const worst = (row) => extent(list(row.layers).map((layer) => number(layer?.max_violation)))?.[1] ?? NaN;
  const dropped = (row) => {
    const shares = list(row.layers)
      .map((layer) => number(layer?.dropped))
      .filter(isNumber);
    return shares.length ? shares.reduce((a, b) => a + b, 0) / shares.length : NaN;
  };
  const curves = [
    lossChart(
      "Held-out loss",
      "Thick: mean of a group's seeds; band: its lowest to highest seed; thin: each seed. Bands apart " +
        "mean a difference that seeds do not explain.",
      "valid",
      300,
    ),
    groups.length > 1 &&
      lossChart(
        `Held-out loss against ${groups[0].name}`,
        "The same curves less the first group's mean: below 0 " +
          "is better than it, and the first group's own band shows what seeds alone do.",
        "valid",
        220,
        againstFirst,
      ),
    lossChart("Training loss", "Running means, so that the lines can be told apart.", "train", 190),
    chart(
      "Speed",
      "Tokens a second; switch the x axis to time for loss per second instead of per step.",
      "tokens/s ↑",
      190,
      (run) => run.timing,
      (row) => number(row.tokens_per_second),
      true,
      { zero: true, format: short },
    ),
    chart(
      "Gradient norm",
      "Running means, before clipping.",
      "L2 norm",
      190,
      (run) => run.train,
      (row) => number(row.grad_norm),
      true,
      { zero: true },
    ),
    chart(
      "Worst load violation",
      "The busiest expert of the least balanced layer over the mean, less 1; 0 is even work.",
      "max violation ↓",
      190,
      (run) => run.train,
      worst,
      true,
      { zero: true },
    ),
    chart(
      "Dropped choices",
      "Share of routing choices without room, mean over layers.",
      "share ↓",
      190,
      (run) => run.train,
      dropped,
      true,
      { zero: true, format: percent },
    ),
  ].filter(Boolean);

  const wide = curves.length > 2 ? 2 : 1;
  const names = { measures: "Measures", curves: "Curves", differences: "Differences", runs: "Runs" };
  const verdict = object(data.verdict);
  const measures = list(data.table);
  const sections = [
    measures.length > 0 &&
      section(
        "measures",
        names.measures,
        "Mean ± standard deviation over seeds. The bar in a row runs from the lowest to the highest seed, the dot is " +
          "the mean; rows have their own scale.",
        stepsWarning(list(data.differences), groups),
        measureTable(measures, groups),
      ),
    section(
      "curves",
      names.curves,
      null,
      curves.length
        ? [curves.slice(0, wide), el("div", { class: "pair" }, curves.slice(wide))]
        : absent("No metrics were recorded yet."),
    ),
    section(
      "differences",
      "What differs between the groups",
      null,
      list(data.differences).length
        ? differenceTable(list(data.differences), groups)
        : absent("The configurations do not differ, apart from the seed."),
    ),
    runs.length > 0 && section("runs", "The runs", null, runTable(groups)),
  ].filter(Boolean);
  return [
    el(
      "header",
      null,
      el("p", { class: "kicker" }, "Comparison"),
      el("h1", null, data.title || "Comparison of runs"),
      el(
        "p",
        { class: "legend" },
        groups.map((group, i) =>
          el(
            "span",
            null,
            el("i", { class: `swatch ${groupStyle(i)}` }),
            `${group.name}: ${group.runs.length} run${group.runs.length === 1 ? "" : "s"}`,
          ),
        ),
      ),
      isSet(verdict.text) &&
        el(
          "p",
          { class: `verdict ${verdict.state ?? ""}` },
          verdictNames[verdict.state] && el("b", null, verdictNames[verdict.state]),
          ` ${verdict.text}`,
        ),
    ),
    el(
      "nav",
      { "aria-label": "Sections" },
      el(
        "ul",
        null,
        sections.map((one) => el("li", null, el("a", { href: `#${one.id}` }, names[one.id]))),
      ),
      curves.length > 0 && axisControls(modes, unitChoices(units)),
    ),
    el("main", null, sections, tip),
    el("footer", null, el("p", null, "Collegium")),
  ];
}
