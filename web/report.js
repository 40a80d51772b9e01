// The report of one run.

const statusSigns = { finished: "✓", completed: "✓", done: "✓", running: "…", interrupted: "‖", failed: "✕" };

/** A tile: name, value, unit, a line of small print. Left out when the value is not known. */
function fact(name, value, unit, small, hero) {
  if (!isSet(value) || value === "–") return null;
  const words = typeof value === "string" && value.length > 10;
  return el(
    "div",
    { class: hero ? "hero" : words ? "words" : null },
    el("dt", null, name),
    el("dd", null, String(value), unit && el("span", { class: "unit" }, ` ${unit}`)),
    small && el("dd", { class: "small" }, small),
  );
}

function section(id, title, lead, ...content) {
  return el(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title),
    lead && el("p", { class: "lead" }, lead),
    content,
  );
}
const absent = (text) => el("p", { class: "absent" }, text);

/** What may be wider than the page, with a line that says so when it is. */
function scrollBox(label, ...content) {
  const cue = el("p", { class: "cue", "aria-hidden": "true", hidden: true }, "wider than the page: scroll sideways →");
  const box = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
  new ResizeObserver(() => {
    cue.hidden = box.scrollWidth <= box.clientWidth + 1;
  }).observe(box);
  return el("div", null, cue, box);
}

/** One of a list in a table: what has a name by its name and licence. */
function entryText(one) {
  const { name, licence } = object(one);
  if (isSet(name)) return isSet(licence) ? `${name} (${licence})` : String(name);
  return one !== null && typeof one === "object" ? JSON.stringify(one) : String(one);
}

/** Nested objects as rows "a.b.c", value. */
function flatRows(value, path = "") {
  return Object.entries(object(value)).flatMap(([key, inner]) => {
    const name = path ? `${path}.${key}` : key;
    if (inner !== null && typeof inner === "object" && !Array.isArray(inner)) return flatRows(inner, name);
    if (Array.isArray(inner)) return [[name, inner.map(entryText).join(", ")]];
    return [[name, key.endsWith("_bytes") && isNumber(inner) ? bytesText(inner) : String(inner)]];
  });
}
const keyTable = (caption, value) =>
  el(
    "table",
    { class: "keys" },
    el("caption", null, caption),
    el(
      "tbody",
      null,
      flatRows(value).map(([key, text]) => el("tr", null, el("th", { scope: "row" }, key), el("td", null, text))),
    ),
  );

/** What is marked in TOML, in the order in which it is tried. */
const tomlKinds = {
  string: /"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'[^'\n]*'/,
  comment: /#[^\n]*/,
  head: /^[ \t]*\[\[?[\w."' -]+\]\]?/,
  key: /^[ \t]*[\w."'-]+(?=[ \t]*=)/,
  number: /\b(?:true|false|inf|nan)\b|[+-]?\b\d[\d_.eE+:TZ-]*/,
};
const tomlPattern = Object.entries(tomlKinds).map(([name, kind]) => `(?<${name}>${kind.source})`);

function highlightToml(text) {
  const out = [];
  let last = 0;
  for (const match of text.matchAll(new RegExp(tomlPattern.join("|"), "gm"))) {
    const [kind] = Object.entries(match.groups).find(([, found]) => found !== undefined);
    out.push(text.slice(last, match.index), el("span", { class: kind }, match[0]));
    last = match.index + match[0].length;
  }
  out.push(text.slice(last));
  return out;
}

function reportHeader(data, run, timing) {
  const trained = timing.at(-1)?.training_seconds;
  const active = run.parameters_active / run.parameters_total;
  const sparse = isNumber(active) && active < 0.9995;
  return el(
    "header",
    null,
    el(
      "p",
      { class: "kicker" },
      "Training run",
      run.status && el("span", { class: `status ${run.status}` }, `${statusSigns[run.status] ?? "·"} ${run.status}`),
    ),
    el("h1", null, run.name || run.id || "Training run"),
    run.claim &&
      el(
        "p",
        { class: "claim" },
        run.claim,
        isSet(run.paper) && el("span", { class: "paper" }, ` (paper ${run.paper})`),
      ),
    el(
      "dl",
      { class: "facts" },
      fact(
        "Held-out loss",
        fixed3(run.valid_bpb),
        "bits/byte",
        isNumber(run.train_bpb) && `train ${fixed3(run.train_bpb)}`,
        true,
      ),
      fact("Held-out accuracy", fixed3(run.valid_accuracy), "of the images"),
      isNumber(run.valid_bpb) ? null : fact("Training loss", fixed3(run.train_bpb), "bits/byte", null, true),
      fact(
        "Parameters",
        short(run.parameters_total),
        null,
        sparse ? `${short(run.parameters_active)} active (${percent(active)})` : isNumber(active) && "all active",
      ),
      fact("Trained on", short(run.tokens), "tokens", isNumber(run.steps) && `${plain(run.steps)} steps`),
      fact(
        "Compute",
        short(run.flops_per_token),
        "FLOP/token",
        isNumber(run.flops_per_token * run.tokens) &&
          `${short(run.flops_per_token * run.tokens).replace(/([kMGTP]?)$/, " $1")}FLOP over all tokens`,
      ),
      fact("Speed", short(run.tokens_per_second), "tokens/s", isNumber(trained) && `${duration(trained)} in training steps`),
      fact("Device", run.device, null, run.precision),
      fact("Seed", run.seed, null, isSet(run.commit) && `commit ${String(run.commit).slice(0, 10)}`),
      fact("Recipe", run.recipe, null, isSet(run.started) && dateText(run.started)),
    ),
    list(data.notes).length > 0 &&
      el(
        "ul",
        { class: "notes", "aria-label": "Notes" },
        list(data.notes).map((note) => el("li", null, String(note))),
      ),
  );
}

const ofKind = (metrics, kind) => metrics.filter((row) => row.kind === kind);
const column = (rows, key) => rows.map((row) => number(row[key]));
const hasAny = (values) => values.some(isNumber);

/** Rows that are objects with a step, in the order of their steps. */
const sortedRows = (rows) =>
  list(rows)
    .filter((row) => isNumber(row?.step))
    .sort((p, q) => p.step - q.step);

/** The span of the shared horizontal axis over all clocks. */
function setSpan(groups) {
  view.span = () => {
    const at = groups.flatMap(({ clock, steps }) => steps.map(clock[view.x] ?? clock.step));
    const range = extent(view.log ? at.filter((x) => x > 0) : at);
    if (!range) return [view.log ? 1 : 0, 10];
    return [view.log ? range[0] : Math.min(0, range[0]), range[1]];
  };
}

const unitNames = { bpb: "bits per byte", loss: "nats per token", accuracy: "share of images right" };
function unitsOf(runs) {
  const units = Object.keys(unitNames).filter((unit) => runs.some((rows) => hasAny(column(rows, unit))));
  if (units.includes("accuracy")) unitNames.loss = "nats per image";
  return units;
}
const unitChoices = (units) => units.map((unit) => [unit, unitNames[unit]]);
// Bits and nats should fall, accuracy should rise.
const unitArrow = () => (view.unit === "accuracy" ? "↑" : "↓");

function lossFigure(train, valid, clock) {
  const made = {};
  return lineChart({
    title: "Loss on training and held-out data",
    read:
      "Lower is better (of accuracy, higher); a growing gap means that the model fits its training data better than new " +
      "data. Faint: each record; strong: their running mean.",
    unit: () => `${unitNames[view.unit]} ${unitArrow()}`,
    height: 320,
    format: fixed3,
    series: () =>
      (made[view.unit] ??= [
        ...(hasAny(column(train, view.unit))
          ? noisyCurve("train", "a", clock, column(train, "step"), column(train, view.unit))
          : []),
        ...(hasAny(column(valid, view.unit))
          ? [curve("held-out", "b", clock, column(valid, "step"), column(valid, view.unit), { dots: true })]
          : []),
      ]),
  });
}

/** What the last row says of a layer's balance, in a sentence. */
function loadSummary(row, layer, experts) {
  const load = list(row.layers[layer]?.load);
  const range = extent(load);
  if (!range) return "Colour is the expert's share of the tokens against the uniform share.";
  const name = (share) => `expert ${load.indexOf(share)} (${times(share * experts)})`;
  const dropped = row.layers[layer].dropped;
  return (
    `At step ${plain(row.step)} the busiest is ${name(range[1])}, the idlest ${name(range[0])}` +
    `${isNumber(dropped) ? `; ${percent(dropped)} of the choices dropped` : ""}.`
  );
}

function expertSection(data, train, valid, clock) {
  const withLayers = (rows) => rows.filter((row) => list(row.layers).length > 0);
  const rows = withLayers(train).length ? withLayers(train) : withLayers(valid);
  const title = "How the experts share the work";
  if (!rows.length)
    return section(
      "experts",
      title,
      null,
      absent("No expert layers were recorded: the model is dense, or the run kept no routing figures."),
    );
  const n = Math.max(...rows.map((row) => row.layers.length), 0);
  const small = (layer, key, name, read, style, more) => {
    const values = rows.map((row) => number(row.layers[layer]?.[key]));
    if (!hasAny(values)) return null;
    return lineChart({
      title: name,
      read,
      compact: true,
      height: 104,
      label: `${layerName(data, layer)}, ${name}: crosshair`,
      series: noisyCurve(name, style, clock, column(rows, "step"), values),
      ...more,
    });
  };
  return section(
    "experts",
    title,
    "One row of cells an expert; a cell is the mean of the steps up to its record. A calm grey field is even work; a " +
      "lasting orange row is an expert that takes too much, a blue one that gets too little.",
    loadKey(),
    el(
      "div",
      { class: "layers" },
      Array.from({ length: n }, (_, layer) => {
        const experts =
          list(data.n_experts)[layer] ??
          Math.max(0, ...rows.slice(-1).map((row) => list(row.layers[layer]?.load).length));
        return el(
          "article",
          null,
          experts > 0 &&
            loadFigure({
              title: `${layerName(data, layer)}, ${experts} experts`,
              rows,
              layer,
              experts,
              clock,
              summary: loadSummary(rows[rows.length - 1], layer, experts),
            }),
          el(
            "div",
            { class: "trio" },
            small(layer, "dropped", "dropped", "share of choices without room", "c", { zero: true, format: percent }),
            small(layer, "entropy", "entropy", "1 = even over experts", "a", { ceiling: 1, format: fixed3 }),
            small(layer, "max_violation", "max violation", "busiest over mean, less 1", "b", {
              zero: true,
              format: plain,
            }),
          ),
        );
      }),
    ),
  );
}
const layerName = (data, layer) => String(list(data.layer_names)[layer] ?? `layer ${layer + 1}`);

const auxName = (name) => name.replace(/_/g, " ");

function reportPage(data) {
  const run = object(data.run);
  const metrics = sortedRows(data.metrics);
  const timing = sortedRows(data.timing);
  const [train, valid] = [ofKind(metrics, "train"), ofKind(metrics, "valid")];
  const clock = makeClock(metrics, timing);
  setSpan([{ clock, steps: [...metrics, ...timing].map((row) => row.step) }]);
  const modes = ["step", "tokens", "seconds"].filter((mode) => clock[mode]);
  const units = unitsOf([metrics]);
  view.unit = units[0] ?? "bpb";

  const line = (title, read, unit, rows, key, style, more) => {
    if (!hasAny(column(rows, key))) return null;
    const make = key === "lr" ? (...from) => [curve(...from)] : noisyCurve;
    const series = make(title.toLowerCase(), style, clock, column(rows, "step"), column(rows, key), { label: false });
    return lineChart({ title, read, unit, height: 190, series, ...more });
  };
  const auxNames = [...new Set(train.flatMap((row) => Object.keys(object(row.aux))))].sort();
  const aux = auxNames.map((name) =>
    lineChart({
      title: auxName(name),
      unit: "loss",
      height: 170,
      label: `${auxName(name)}: crosshair`,
      read: "An extra term of the training loss, as the run recorded it.",
      series: noisyCurve(
        auxName(name),
        "d",
        clock,
        column(train, "step"),
        train.map((row) => number(row.aux?.[name])),
        { label: false },
      ),
    }),
  );
  const progress = [
    line(
      "Speed",
      "Tokens a second between two records; a dip is an evaluation, a checkpoint or a busy machine.",
      "tokens/s ↑",
      timing,
      "tokens_per_second",
      "c",
      { zero: true, format: short },
    ),
    line("Learning rate", "The schedule as it was applied.", "learning rate", train, "lr", "a", { zero: true }),
    line("Gradient norm", "Before clipping; spikes point at unstable steps.", "L2 norm", train, "grad_norm", "b", {
      zero: true,
    }),
  ].filter(Boolean);
  const sample = object(data.sample);
  const routed = list(sample.tokens).length > 0 && list(sample.routing).some((layer) => list(layer).length > 0);

  const names = {
    loss: "Loss",
    progress: "Speed and optimiser",
    aux: "Auxiliary losses",
    experts: "Experts",
    sample: "Sample",
    setup: "Setup",
  };
  const sections = [
    section(
      "loss",
      names.loss,
      null,
      units.length ? lossFigure(train, valid, clock) : absent("No loss was recorded yet."),
    ),
    progress.length > 0 && section("progress", names.progress, null, el("div", { class: "pair" }, progress)),
    aux.length > 0 && section("aux", names.aux, null, el("div", { class: "pair" }, aux)),
    expertSection(data, train, valid, clock),
    sampleSection(data, sample, routed),
    section(
      "setup",
      "Resolved configuration and environment",
      null,
      isSet(data.config_toml) &&
        el(
          "details",
          { open: true },
          el("summary", null, "Configuration (TOML)"),
          el(
            "pre",
            { tabindex: 0, role: "region", "aria-label": "Configuration text" },
            el("code", null, highlightToml(String(data.config_toml))),
          ),
        ),
      el(
        "div",
        { class: "pair" },
        [
          ["Environment", data.environment],
          ["Data", data.data],
        ]
          .filter(([, value]) => flatRows(value).length)
          .map(([name, value]) => keyTable(name, value)),
      ),
    ),
  ].filter(Boolean);
  return [
    reportHeader(data, run, timing),
    el(
      "nav",
      { "aria-label": "Sections" },
      el(
        "ul",
        null,
        sections.map((one) => el("li", null, el("a", { href: `#${one.id}` }, names[one.id]))),
      ),
      metrics.length + timing.length > 0 && axisControls(modes, unitChoices(units)),
    ),
    el("main", null, sections, tip),
    el(
      "footer",
      null,
      el(
        "p",
        null,
        "Collegium",
        isSet(run.id) && ` · run ${run.id}`,
        isSet(run.finished) && ` · finished ${dateText(run.finished)}`,
      ),
    ),
  ];
}

function sampleSection(data, sample, routed) {
  const title = "A sample and its experts";
  if (routed) {
    const names = list(sample.routing).map((_, layer) => layerName(data, layer));
    return section("sample", title, null, sampleFigures(sample, names, list(data.n_experts)));
  }
  if (!list(sample.tokens).length) return null;
  const nPrompt = number(sample.n_prompt) || 0;
  const tokens = list(sample.tokens).map(String);
  return section(
    "sample",
    title,
    "No routing belongs to this sample; the prompt is in bold.",
    el("pre", { class: "prose" }, el("b", null, tokens.slice(0, nPrompt).join("")), tokens.slice(nPrompt).join("")),
  );
}

/** Builds the page with `build` from the embedded data and draws every figure. */
function show(build) {
  const data = JSON.parse(document.getElementById("data").textContent);
  page.replaceChildren(...build(object(data)));
  redrawAll();
}
