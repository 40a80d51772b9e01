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

const visibleToken = (token) => tokenText(String(token)).replace(/ /g, "␣");

function inspectLayer(layer, history) {
  const experts = number(layer.n_experts);
  const load = list(layer.load);
  const names = load.map((_, expert) => String(expert));
  const share = (value) => percent(value);
  const order = load.map((_, expert) => expert);
  const margin = object(layer.margin);
  const facts = el(
    "dl",
    { class: "facts" },
    fact("Experts per token", plain(layer.per_token)),
    fact("Largest overload", plain(layer.max_violation), null, "busiest over mean, less 1"),
    fact("Evenness", fixed3(layer.entropy), null, "entropy over log E"),
    fact("Dropped", percent(layer.dropped), null, layer.moved > 0 && `${percent(layer.moved)} moved`),
    fact("Margin", plain(margin.p50), null, isSet(margin.p50) && `10 % below ${plain(margin.p10)}, ${percent(margin.close)} very close`),
    fact("As the layer before", percent(layer.same_as_before), null, "first expert of the same number"),
    fact("Class explains", fixed3(layer.class_information), null, "of the class, by the expert"),
    fact("Token explains", fixed3(layer.token_information), null, "of the token id, by the expert"),
  );
  const parts = [facts];
  parts.push(
    ratioTable("Load", "", names, [{ name: "share", cells: order.map((e) => ({ text: share(load[e]), ratio: load[e] * experts })) }]),
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
          cells: order.map((e) => ({ text: share(one.share[e]), ratio: one.share[e] * experts })),
        })),
        "Colour: share against 1/E. A row of one colour means that the class does not matter to this layer.",
      ),
    );
  if (list(layer.pairs).length && experts <= 64) {
    // By chance, given the loads: a token of e has (k - 1) further choices, spread as the others' loads.
    const further = layer.per_token - 1;
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
              : { text: share(layer.pairs[e][f]), ratio: layer.pairs[e][f] / ((load[f] / (1 - load[e])) * further) },
          ),
        })),
        "Colour: against what the loads alone would give.",
      ),
    );
  }
  if (list(layer.favourites).length)
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
            order.map((e) =>
              el(
                "tr",
                null,
                el("th", { scope: "row" }, String(e)),
                el("td", null, list(layer.favourites[e]).map((token) => [el("code", null, visibleToken(token)), " "])),
              ),
            ),
          ),
        ),
      ),
    );
  return parts;
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
    el("div", { class: "trio" }, charts),
  ];
}

function inspectPage(data) {
  const layers = list(data.layers);
  const history = list(data.history).filter((row) => isNumber(row.step));
  setSpan([{ clock: makeClock([], []), steps: history.map((row) => row.step) }]);
  const sections = layers.map((layer) =>
    section(`layer-${layer.layer}`, `Layer ${layer.layer}, ${layer.n_experts} experts`, null, inspectLayer(layer, history),
      inspectHistory(history, layer.layer)),
  );
  return [
    el(
      "header",
      null,
      el("p", { class: "kicker" }, "Routing"),
      el("h1", null, String(data.title ?? "Routing")),
      el("p", { class: "claim" }, `${plain(data.tokens)} tokens routed${isSet(data.step) ? ` by the checkpoint of step ${plain(data.step)}` : ""}.`),
    ),
    el("nav", { "aria-label": "Layers" }, el("ul", null, sections.map((one, i) => el("li", null, el("a", { href: `#${one.id}` }, `Layer ${layers[i].layer}`))))),
    el("main", null, loadKey(), sections, tip),
    el("footer", null, el("p", null, "Collegium")),
  ];
}
