// What routing does, drawn from a trace: loads, pairs, margins, token classes, and how they came to be.

/** A table whose cells are coloured by their ratio to what chance would give. */
function ratioTable(caption, corner, heads, rows, note) {
  const painted = [];
  const cell = (one) => {
    const td = el("td", { class: "ratio" }, one.text);
    painted.push([td, one.ratio]);
    return td;
  };
  const table = el(
    "table",
    { class: "ratios" },
    el("caption", null, caption),
    el("thead", null, el("tr", null, el("th", { scope: "col" }, corner), heads.map((h) => el("th", { scope: "col" }, h)))),
    el(
      "tbody",
      null,
      rows.map((row) => el("tr", null, el("th", { scope: "row" }, row.name), row.cells.map(cell))),
    ),
  );
  redraws.push(() => {
    for (const [td, ratio] of painted) {
      const channels = loadColour(ratio);
      td.style.background = rgb(channels);
      td.style.color = channels[0] * 0.3 + channels[1] * 0.6 + channels[2] * 0.1 > 128 ? "#111" : "#fff";
    }
  });
  return scrollBox(caption, table, note && el("p", { class: "small" }, note));
}

/** Up to 64 experts, or about 32 equal groups of neighbours where there are more. */
function columnsOf(experts) {
  const width = experts > 64 ? Math.ceil(experts / 32) : 1;
  return Array.from({ length: Math.ceil(experts / width) }, (_, i) => {
    const first = i * width;
    const last = Math.min(first + width, experts) - 1;
    return { first, last, size: last - first + 1, name: first === last ? String(first) : `${first}–${last}` };
  });
}

/** What a column has of shares over experts. */
const sumOver = (shares, { first, last }) =>
  list(shares).slice(first, last + 1).reduce((sum, value) => sum + number(value), 0);
const groupNote = (columns) => columns[0]?.size > 1 && `Each column is ${columns[0].size} experts together.`;

const visibleToken = (token) => tokenText(String(token)).replace(/ /g, "␣");

function inspectLayer(layer) {
  const experts = number(layer.n_experts);
  const load = list(layer.load);
  const columns = columnsOf(load.length);
  const names = columns.map((one) => one.name);
  const share = (value) => percent(value);
  const order = load.map((_, expert) => expert);
  const shareCells = (shares) =>
    columns.map((one) => {
      const sum = sumOver(shares, one);
      return { text: share(sum), ratio: (sum * experts) / one.size };
    });
  const margin = object(layer.margin);
  const facts = el(
    "dl",
    { class: "facts" },
    fact("Experts per token", plain(layer.per_token)),
    fact("Largest overload", plain(layer.max_violation), null, "busiest over mean, less 1"),
    fact("Evenness", fixed3(layer.entropy), null, "entropy over log E"),
    fact("Null experts", percent(layer.null_share), null, "of the choices, no work is done"),
    fact("Dropped", percent(layer.dropped), null, layer.moved > 0 && `${percent(layer.moved)} moved`),
    fact("Margin", plain(margin.p50), null, isSet(margin.p50) && `10 % below ${plain(margin.p10)}, ${percent(margin.close)} very close`),
    fact("As the layer before", percent(layer.same_as_before), null, "first expert of the same number"),
    fact("Class explains", fixed3(layer.class_information), null, "of the class, by the expert"),
    fact("Token explains", fixed3(layer.token_information), null, "of the token id, by the expert"),
  );
  const parts = [facts];
  parts.push(
    ratioTable("Load", "", names, [{ name: "share", cells: shareCells(load) }], groupNote(columns)),
  );
  const classes = list(layer.classes);
  if (classes.length)
    parts.push(
      ratioTable(
        "Whose tokens each expert takes first",
        "token class",
        names,
        classes.map((one) => ({
          name: `${one.name} (${short(one.tokens)})`,
          cells: shareCells(one.share),
        })),
        "Colour: share against 1/E. A row of one colour means that the class does not matter to this layer.",
      ),
    );
  if (list(layer.pairs).length) {
    // By chance, given the loads: the further choices of e's tokens, as many as they have on average, are spread as
    // the others' loads.
    const further = order.map((e) => sumOver(layer.pairs[e], { first: 0, last: experts - 1 }) - layer.pairs[e][e]);
    parts.push(
      ratioTable(
        "Which experts work together",
        "of the tokens of ↓, also by →",
        names,
        order.map((e) => ({
          name: String(e),
          cells: order.map((f) =>
            e === f
              ? { text: "", ratio: NaN }
              : { text: share(layer.pairs[e][f]), ratio: layer.pairs[e][f] / ((load[f] / (1 - load[e])) * further[e]) },
          ),
        })),
        "Colour: against what the loads alone would give.",
      ),
    );
  }
  if (list(layer.favourites).length) {
    const shown = load.length > 64 ? [...order].sort((a, b) => load[b] - load[a]).slice(0, 32) : order;
    parts.push(
      scrollBox(
        "Typical tokens",
        el(
          "table",
          { class: "favourites" },
          el("caption", null, "Tokens that an expert takes far more often than its share"),
          el(
            "tbody",
            null,
            shown.map((e) =>
              el(
                "tr",
                null,
                el("th", { scope: "row" }, String(e)),
                el("td", null, list(layer.favourites[e]).map((token) => [el("code", null, visibleToken(token)), " "])),
              ),
            ),
          ),
        ),
        shown.length < order.length &&
          el("p", { class: "small" }, `The busiest ${shown.length} of ${order.length} experts.`),
      ),
    );
  }
  return parts;
}

/** The load over training, a row of cells an expert or a group of them. */
function inspectLoads(rows, of, clock) {
  const experts = Math.max(...rows.map((row) => list(of(row).load).length));
  if (!experts) return null;
  const columns = columnsOf(experts);
  const binned = rows.map((row) => ({
    step: row.step,
    layers: [{ load: columns.map((one) => (sumOver(of(row).load, one) * experts) / one.size / columns.length) }],
  }));
  return loadFigure({
    title: "Load",
    rows: binned,
    layer: 0,
    experts: columns.length,
    clock,
    summary: columns[0].size > 1 ? `of ${experts} experts, ${columns[0].size} a row: their mean` : "of each expert",
    names: columns.map((one) => one.name),
  });
}

function inspectHistory(history, layer) {
  const of = (row) => list(row.layers).find((one) => one.layer === layer);
  const rows = history.filter(of);
  if (rows.length < 2) return null;
  const clock = makeClock([], []);
  const steps = column(rows, "step");
  const line = (key, title, read, style, more) => {
    const values = rows.map((row) => number(of(row)[key]));
    if (!hasAny(values)) return null;
    return lineChart({
      title, read, compact: true, height: 104, label: `${title}: crosshair`,
      series: [curve(title, style, clock, steps, values, { label: false })], ...more,
    });
  };
  const charts = [
    line("fluctuation", "fluctuation", "first experts that changed since the evaluation before", "b", { zero: true, format: percent }),
    line("score_entropy", "score entropy", "of a token's scores, nats", "a", { zero: true }),
    line("max_violation", "max violation", "busiest over mean, less 1", "c", { zero: true }),
    line("collapse", "collapse", "variance between experts' centroids", "d", { zero: true, format: percent }),
    line("margin", "margin", "first choice to runner-up", "a", { zero: true }),
    line("utilisation", "utilisation", "experts with over a quarter of the even load", "b", { zero: true, ceiling: 1, format: percent }),
  ];
  return [
    el("h3", null, "During training"),
    el("p", { class: "small" }, "From the run's evaluations on held-out data; what stands above is of one checkpoint."),
    inspectLoads(rows, of, clock),
    el("div", { class: "trio" }, charts),
  ];
}

function inspectPage(data) {
  const layers = list(data.layers);
  const history = list(data.history).filter((row) => isNumber(row.step));
  setSpan([{ clock: makeClock([], []), steps: history.map((row) => row.step) }]);
  const nameOf = (layer) => {
    const name = isSet(layer.name) ? String(layer.name) : `layer ${layer.layer}`;
    return name[0].toUpperCase() + name.slice(1);
  };
  const sections = layers.map((layer) =>
    section(`layer-${layer.layer}`, `${nameOf(layer)}, ${layer.n_experts} experts`, null, inspectLayer(layer),
      inspectHistory(history, layer.layer)),
  );
  return [
    el(
      "header",
      null,
      el("p", { class: "kicker" }, "Routing"),
      el("h1", null, String(data.title ?? "Routing")),
      el("p", { class: "claim" }, `${plain(data.tokens)} tokens routed${isSet(data.step) ? ` by the checkpoint of step ${plain(data.step)}` : ""}.`),
      isSet(data.remark) && el("p", { class: "small" }, `Seen ${data.remark}.`),
    ),
    el("nav", { "aria-label": "Layers" }, el("ul", null, sections.map((one, i) => el("li", null, el("a", { href: `#${one.id}` }, nameOf(layers[i])))))),
    el("main", null, loadKey(), sections, tip),
    el("footer", null, el("p", null, "Collegium")),
  ];
}
