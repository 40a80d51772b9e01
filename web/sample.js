// Which expert took which token of a sample: as running text for one layer, as a map of all layers.

/** A token as it can be shown: white space gets a sign, other control characters their number. */
const tokenText = (token) =>
  token === ""
    ? "∅"
    : token
        .replace(/\n/g, "⏎")
        .replace(/\t/g, "⇥")
        .replace(/[\x00-\x1f\x7f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)
        .replace(/^ +$/, (s) => "␣".repeat(s.length));

/**
 * `sample`: {prompt, tokens, n_prompt, routing[layer][token][choice]}; `layerNames` and `nExperts` one a layer.
 * Both views share the layer, the choice shown and the token under the cursor.
 */
function sampleFigures(sample, layerNames, nExperts) {
  const tokens = list(sample.tokens).map(String);
  const routing = list(sample.routing).map(list);
  const choices = (layer, token) => list(routing[layer]?.[token]).filter((choice) => isNumber(choice?.expert));
  const state = { layer: 0, all: false, only: null, token: null };
  const shared = { sample, tokens, routing, choices, state, layerNames, nExperts, repaint: () => {} };
  const text = sampleText(shared);
  const map = sampleMap(shared);
  shared.repaint = () => {
    text.paint();
    map.paint();
  };
  redraws.push(shared.repaint);
  return [text.figure, map.figure];
}

/** Shares of a token's colours: its choices' gates, or equal parts when gates are missing. */
function gateShares(taken) {
  const gates = taken.map((choice) => Math.max(0, number(choice.gate) || 0));
  const sum = gates.reduce((a, b) => a + b, 0);
  return gates.map((gate) => (sum > 0 ? gate / sum : 1 / gates.length));
}

function tokenTip(shared, layer, token) {
  const rows = shared
    .choices(layer, token)
    .flatMap((choice, rank) =>
      [
        [
          `${["first", "second", "third"][rank] ?? `${rank + 1}th`} choice`,
          `expert ${choice.expert}`,
          expertColour(choice.expert),
        ],
        ["gate", plain(choice.gate)],
        isNumber(choice.score) && ["score", plain(choice.score)],
        isNumber(choice.margin) && ["margin to the runner-up", plain(choice.margin)],
      ].filter(Boolean),
    );
  const where = token < number(shared.sample.n_prompt) ? "prompt" : "generated";
  const known = token < list(shared.routing[layer]).length;
  const layerName = shared.layerNames[layer] ?? `layer ${layer + 1}`;
  return {
    heading: `“${tokenText(shared.tokens[token])}”  token ${token} (${where}), ${layerName}`,
    rows: rows.length
      ? rows
      : [[known ? "no expert took it (dropped)" : "not routed: nothing follows the last token", ""]],
  };
}
const spoken = (found) => `${found.heading}: ${found.rows.map(([name, value]) => `${name} ${value}`).join(", ")}`;

function sampleText(shared) {
  const { tokens, state, choices, layerNames } = shared;
  const nPrompt = number(shared.sample.n_prompt);
  const box = el("div", {
    class: "tokens",
    role: "listbox",
    tabindex: 0,
    "aria-label": "Sample tokens; arrow keys move from token to token",
  });
  const chips = tokens.map((token, i) =>
    el(
      "span",
      { class: "token", role: "option", id: `token-${i}`, "aria-selected": "false" },
      el("span", null, tokenText(token)),
      el("sub"),
    ),
  );
  chips.forEach((chip, i) => {
    if (i === nPrompt && i > 0) box.append(el("span", { class: "turn", role: "presentation" }, "generated ▸"));
    box.append(chip);
    if (tokens[i].includes("\n")) box.append(el("span", { class: "break", role: "presentation" }));
  });

  const experts = el("div", {
    class: "experts",
    role: "group",
    "aria-label": "Experts; press one to see only its tokens",
  });
  const layers = el(
    "select",
    {
      onchange: (event) => {
        state.layer = Number(event.target.value);
        state.only = null;
        shared.repaint();
      },
    },
    shared.routing.map((_, i) => el("option", { value: i }, layerNames[i] ?? `layer ${i + 1}`)),
  );
  const choice = (text, value) =>
    el(
      "label",
      null,
      el("input", {
        type: "radio",
        name: "choices",
        checked: state.all === value,
        onchange: () => {
          state.all = value;
          shared.repaint();
        },
      }),
      text,
    );
  const several = shared.routing.some((layer) => layer.some((taken) => list(taken).length > 1));

  function select(token, x, y) {
    if (state.token !== null) chips[state.token]?.setAttribute("aria-selected", "false");
    state.token = token;
    chips[token].setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", `token-${token}`);
    const found = tokenTip(shared, state.layer, token);
    showTip(x, y, found.heading, found.rows);
  }
  box.addEventListener("pointerover", (event) => {
    const at = chips.indexOf(event.target.closest(".token"));
    if (at >= 0) select(at, event.clientX, event.clientY);
  });
  box.addEventListener("pointerleave", hideTip);
  box.addEventListener("blur", hideTip);
  box.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -tokens.length, End: tokens.length }[
      event.key
    ];
    if (by === undefined) return;
    event.preventDefault();
    const token = clamp((state.token ?? -Math.sign(by)) + by, 0, tokens.length - 1);
    chips[token].scrollIntoView({ block: "nearest" });
    const at = chips[token].getBoundingClientRect();
    select(token, at.right, at.top);
  });

  function paint() {
    const counts = new Map();
    chips.forEach((chip, token) => {
      const taken = choices(state.layer, token);
      const shown = state.all ? taken : taken.slice(0, 1);
      const names = shown.map((one) => one.expert);
      names.forEach((name) => counts.set(name, (counts.get(name) ?? 0) + 1));
      const shares = gateShares(shown);
      let edge = 0;
      const stops = shown.map((one, i) => {
        const from = edge;
        edge += 100 * shares[i];
        return `${expertColour(one.expert)} ${from.toFixed(1)}% ${edge.toFixed(1)}%`;
      });
      chip.style.background =
        stops.length > 1 ? `linear-gradient(90deg,${stops.join(",")})` : shown.length ? expertColour(names[0]) : "";
      chip.classList.toggle("none", !shown.length);
      chip.classList.toggle("faded", state.only !== null && !names.includes(state.only));
      chip.classList.toggle("prompt", token < nPrompt);
      chip.lastChild.textContent = shown.length ? names.join("·") : "–";
      chip.setAttribute("aria-description", spoken(tokenTip(shared, state.layer, token)));
    });
    const number = shared.nExperts[state.layer] ?? Math.max(0, ...counts.keys()) + 1;
    const most = Math.max(1, ...counts.values());
    experts.replaceChildren(
      ...Array.from({ length: number }, (_, expert) =>
        el(
          "button",
          {
            type: "button",
            "aria-pressed": String(state.only === expert),
            style: `background:${expertColour(expert)}`,
            "aria-description": `expert ${expert}: ${counts.get(expert) ?? 0} tokens`,
            onclick: () => {
              state.only = state.only === expert ? null : expert;
              shared.repaint();
              experts.children[expert].focus();
            },
          },
          el("b", null, String(expert)),
          el("span", null, String(counts.get(expert) ?? 0)),
          el("i", { style: `width:${(100 * (counts.get(expert) ?? 0)) / most}%` }),
        ),
      ),
    );
  }

  const figure = el(
    "figure",
    null,
    el(
      "figcaption",
      null,
      el("h3", null, "The sample, token by token"),
      el(
        "p",
        null,
        "The text in reading order; the colour and the small number say which expert took the token in the chosen " +
          "layer. A token without colour was taken by none.",
      ),
    ),
    el(
      "form",
      { class: "controls", "aria-label": "What the sample shows", onsubmit: (event) => event.preventDefault() },
      el("label", null, "Layer", layers),
      several &&
        el(
          "fieldset",
          null,
          el("legend", null, "Show"),
          choice("first choice", false),
          choice("all choices, by gate", true),
        ),
    ),
    experts,
    box,
  );
  return { figure, paint };
}

/** The map: a row of cells a layer, a column a token, wrapped like text. */
function sampleMap(shared) {
  const { tokens, routing, choices, state, layerNames } = shared;
  const canvas = el("canvas", {
    class: "map",
    role: "img",
    tabindex: 0,
    "aria-label": `Map of ${tokens.length} tokens by ${routing.length} layers, coloured by expert; arrow keys move`,
  });
  const live = el("p", { class: "unseen", role: "status" });
  const more = el(
    "button",
    {
      type: "button",
      class: "plain",
      onclick: () => {
        whole = true;
        paint();
      },
    },
    "Show all tokens",
  );
  const figure = el(
    "figure",
    null,
    el(
      "figcaption",
      null,
      el("h3", null, "Every layer at once"),
      el(
        "p",
        null,
        "Columns are tokens, rows are layers from first to last: read down a column to follow one token through the " +
          "model. The same number in two layers has no meaning by itself; look for rows in which like tokens share a " +
          "colour.",
      ),
    ),
    canvas,
    more,
    live,
  );
  let whole = false;
  let at = { layer: 0, token: 0 };
  let grid = null;
  let drawnWidth = 0;

  function layout() {
    const width = Math.max(220, Math.round(figure.clientWidth || drawnWidth || 640));
    drawnWidth = width;
    const longest = Math.max(0, ...layerNames.map((name) => String(name).length));
    const left = Math.min(width * 0.25, 12 + 6.4 * longest);
    const cell = width < 560 ? 18 : 22;
    const rowHeight = routing.length <= 12 ? 18 : routing.length <= 24 ? 13 : 9;
    const columns = Math.max(1, Math.floor((width - left) / cell));
    const head = 58;
    const bandHeight = head + routing.length * rowHeight + 12;
    const bands = Math.ceil(tokens.length / columns);
    // Canvases have a largest size, and readers have patience: the rest waits for the button.
    const limit = whole ? Math.max(1, Math.floor(12000 / bandHeight)) : Math.max(1, Math.floor(1400 / bandHeight));
    const shown = Math.min(bands, limit);
    more.hidden = shown >= bands || whole;
    return { width, left, cell, rowHeight, columns, head, bandHeight, shown, height: shown * bandHeight };
  }

  function paint() {
    grid = layout();
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = grid.width * ratio;
    canvas.height = grid.height * ratio;
    canvas.style.aspectRatio = `${grid.width} / ${grid.height}`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(figure);
    const ink = printing ? "#1d1f23" : style.color;
    const family = style.fontFamily;
    for (let token = 0; token < Math.min(tokens.length, grid.shown * grid.columns); ++token) {
      const band = Math.floor(token / grid.columns);
      const x = grid.left + (token % grid.columns) * grid.cell;
      const y = band * grid.bandHeight + grid.head;
      if (token % grid.columns === 0) drawLayerNames(pen, y, ink, family);
      drawTokenName(pen, token, x, y, ink, family);
      for (let layer = 0; layer < routing.length; ++layer)
        drawCell(pen, layer, token, x, y + layer * grid.rowHeight, ink, family);
      if (token === number(shared.sample.n_prompt) && token > 0) {
        pen.fillStyle = ink;
        pen.fillRect(x - 1, y - 6, 1.5, routing.length * grid.rowHeight + 10);
      }
    }
  }
  function drawLayerNames(pen, y, ink, family) {
    pen.fillStyle = ink;
    pen.font = `11px ${family}`;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const every = Math.ceil(11 / grid.rowHeight);
    for (let layer = 0; layer < routing.length; layer += every) {
      pen.fillText(
        layerNames[layer] ?? `layer ${layer + 1}`,
        grid.left - 7,
        y + (layer + 0.5) * grid.rowHeight,
        grid.left - 8,
      );
    }
  }
  function drawTokenName(pen, token, x, y, ink, family) {
    pen.save();
    pen.translate(x + grid.cell / 2 + 1, y - 5);
    pen.rotate(-Math.PI / 2);
    pen.fillStyle = ink;
    pen.font = `11px ${family}`;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    const name = [...tokenText(tokens[token]).trimStart()];
    pen.fillText(name.length > 7 ? `${name.slice(0, 6).join("")}…` : name.join(""), 0, 0, grid.head - 10);
    pen.restore();
  }
  function drawCell(pen, layer, token, x, y, ink, family) {
    const taken = choices(layer, token);
    const shown = state.all ? taken : taken.slice(0, 1);
    const shares = gateShares(shown);
    const faded = layer === state.layer && state.only !== null && !shown.some((one) => one.expert === state.only);
    pen.globalAlpha = faded ? 0.2 : 1;
    let edge = x;
    const [wide, high] = [grid.cell - 1, grid.rowHeight - 1];
    shown.forEach((one, i) => {
      pen.fillStyle = expertColour(one.expert);
      pen.fillRect(edge, y, wide * shares[i], high);
      edge += wide * shares[i];
    });
    if (shown.length && grid.rowHeight >= 13 && (shown.length === 1 || grid.cell >= 22)) {
      pen.fillStyle = ink;
      pen.font = `${shown.length > 1 ? 8.5 : 10}px ${family}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(
        shown
          .slice(0, 2)
          .map((one) => one.expert)
          .join("·"),
        x + wide / 2,
        y + high / 2 + 0.5,
        wide,
      );
    }
    if (!shown.length) {
      pen.strokeStyle = ink;
      pen.globalAlpha = 0.35;
      pen.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
    }
    pen.globalAlpha = 1;
  }
  function reveal(x, y) {
    paint();
    const pen = canvas.getContext("2d");
    pen.strokeStyle = printing ? "#1d1f23" : getComputedStyle(figure).color;
    pen.lineWidth = 1.5;
    const [cx, cy] = place();
    pen.strokeRect(cx - 0.5, cy - 0.5, grid.cell, grid.rowHeight);
    const found = tokenTip(shared, at.layer, at.token);
    showTip(x, y, found.heading, found.rows);
    return found;
  }
  const place = () => [
    grid.left + (at.token % grid.columns) * grid.cell,
    Math.floor(at.token / grid.columns) * grid.bandHeight + grid.head + at.layer * grid.rowHeight,
  ];

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * grid.width) / box.width;
    const y = ((event.clientY - box.top) * grid.height) / box.height;
    const band = Math.floor(y / grid.bandHeight);
    const column = Math.floor((x - grid.left) / grid.cell);
    const layer = Math.floor((y - band * grid.bandHeight - grid.head) / grid.rowHeight);
    const token = band * grid.columns + column;
    if (column < 0 || column >= grid.columns || layer < 0 || layer >= routing.length || token >= tokens.length)
      return hideTip();
    if (at.layer !== layer || at.token !== token || tip.hidden) {
      at = { layer, token };
      reveal(event.clientX, event.clientY);
    }
  });
  canvas.addEventListener("pointerleave", () => {
    hideTip();
    paint();
  });
  canvas.addEventListener("blur", () => {
    hideTip();
    paint();
  });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const last = Math.min(tokens.length, grid.shown * grid.columns) - 1;
    at = { token: clamp(at.token + by[0], 0, last), layer: clamp(at.layer + by[1], 0, routing.length - 1) };
    const [cx, cy] = place();
    const box = canvas.getBoundingClientRect();
    const scale = box.width / grid.width;
    live.textContent = spoken(reveal(box.left + (cx + grid.cell) * scale, box.top + cy * scale));
  });
  new ResizeObserver(() => {
    if (figure.clientWidth && Math.abs(figure.clientWidth - drawnWidth) > 1) paint();
  }).observe(figure);
  return { figure, paint };
}
