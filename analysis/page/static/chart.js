// Lines with intervals: a chart of any table, its fields, its legend of checkboxes, its numbers.

const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"];
const SYMBOLS = [
  "circle",
  "triangle-up",
  "square",
  "diamond",
  "triangle-down",
  "cross",
  "star",
  "x",
  "hexagon",
  "diamond-tall",
];
const KINDS_OF_LINE = {
  // by the second column of a line: what its value is called
  d: (value) => `d = ${value}`,
  inference: (value) => `by ${value}`,
  bits: (value) => `${value} bits`,
};
const LEVEL_POINTS = 15; // along a level, for the pointer to meet

class Chart {
  constructor(section, box, showRuns) {
    this.section = section;
    this.showRuns = showRuns;
    this.x = section.x[0];
    this.y = section.y[0];
    this.single = false;
    this.on = new Map(); // by line: as people chose
    this.choices = new Choices(
      section.choices,
      (rows) => new Set(rows.map((row) => this.lineKey(row))).size,
      () => this.draw(),
    );
    this.legend = element("div", { className: "lines", role: "group", "aria-label": "Lines of the figure" });
    this.yTitle = element("div", { className: "axis" });
    this.xTitle = element("p", { className: "axis x" });
    this.plot = element("div", { className: "plot" });
    this.numbers = element("details", {}, element("summary", {}, "Numbers"));
    this.numbers.addEventListener("toggle", () => this.fillNumbers());
    box.append(this.fields(), this.legend, this.yTitle, this.plot, this.xTitle, this.numbers);
  }

  fields() {
    const bar = element("div", { className: "controls" });
    const axis = (name, label) => {
      const options = this.section[name];
      if (options.length < 2) return;
      bar.append(
        select(
          label,
          options.map((one) => [one.key, one.short ?? one.label]),
          options[0].key,
          (key) => {
            this[name] = options.find((one) => one.key === key);
            this.draw();
          },
        ),
      );
    };
    axis("x", "x");
    axis("y", "y");
    bar.append(this.choices.fields);
    if (this.section.points)
      bar.append(
        checkbox("single runs", false, (on) => {
          this.single = on;
          this.draw();
        }),
      );
    return bar;
  }

  lineKey(row) {
    return keyOf(row, this.section.line);
  }

  draw() {
    const rows = this.choices.narrow(rowsOf(this.x.table ?? this.section.table));
    this.lines = this.linesOf(rows.filter((row) => row[this.y.mean] !== null));
    this.drawLegend();
    this.shownLines = this.lines.filter((line) => this.isOn(line));
    this.yTitle.textContent = `↑ ${this.y.label || this.whatLabel(rows)}`;
    this.xTitle.textContent = `${this.x.label} →`;
    const graded = this.shownLines.filter((line) => !line.level);
    const points = (graded.length ? graded : this.shownLines).flatMap((line) =>
      line.rows.flatMap((row) => this.xs(row)),
    );
    this.range = rangeOf(points, this.x.log);
    const traces = this.shownLines.flatMap((line) => this.traces(line));
    if (this.single) traces.unshift(...this.runTraces());
    this.plot.setAttribute(
      "aria-label",
      `${this.section.title}: ${this.yTitle.textContent}, ${this.xTitle.textContent}`,
    );
    const drawn = Plotly.react(this.plot, traces, this.layout(points), {
      displaylogo: false,
      responsive: true,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    });
    if (!this.listening) {
      this.listening = true;
      this.plot.on("plotly_click", (event) => this.clicked(event.points[0]));
    }
    if (this.numbers.open) this.fillNumbers();
    return drawn;
  }

  clicked(point) {
    const runs = point.data.meta?.[point.pointNumber];
    if (runs?.length) this.showRuns(runs);
  }

  whatLabel(rows) {
    const spec = this.section.choices.find((choice) => choice.columns[0] === "what");
    return rows.length && spec ? valueText(spec, [rows[0].what]) : "";
  }

  /** {key, name, style, rows by x, level} for each line of `rows`, in the order of arms. */
  linesOf(rows) {
    const groups = new Map();
    for (const row of rows) {
      const key = this.lineKey(row);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    const [, second] = this.section.line;
    const kinds = [...new Set(rows.map((row) => row[second] ?? null))].sort((a, b) => (a > b ? 1 : -1));
    const bases = [...new Set(rows.map((row) => row[this.section.line[0]]))];
    return [...groups]
      .map(([key, found]) => {
        const [label, kind] = JSON.parse(key);
        const own = DATA.arms[label] ?? {
          name: label,
          symbol: "circle",
          dash: "solid",
          rank: 999,
          colour: PALETTE[bases.indexOf(label) % PALETTE.length],
        };
        const named = second === undefined || kind === null ? "" : `, ${KINDS_OF_LINE[second](kind)}`;
        const symbol = named ? SYMBOLS[kinds.indexOf(kind) % SYMBOLS.length] : own.symbol;
        const sorted = found.slice().sort((a, b) => this.xs(a)[0] - this.xs(b)[0]);
        const level = sorted.every((row) => row[this.column()] === null) || this.section.levels.includes(label);
        return { key, label, kind, name: own.name + named, style: { ...own, symbol }, rows: sorted, level };
      })
      .sort((a, b) => a.style.rank - b.style.rank || (a.kind > b.kind ? 1 : -1));
  }

  column() {
    return this.x.table ? "x" : this.x.key;
  }

  xs(row) {
    const value = row[this.column()];
    return Array.isArray(value) ? value : [value];
  }

  isOn(line) {
    return this.on.get(line.key) ?? this.isAtFirst(line);
  }

  isAtFirst(line) {
    const { shown } = this.section;
    return shown.includes(line.label) || !this.lines.some((one) => shown.includes(one.label));
  }

  drawLegend() {
    const set = (values) => {
      for (const line of this.lines) {
        if (values === null) this.on.delete(line.key);
        else this.on.set(line.key, values);
      }
      this.draw();
    };
    const button = (text, values) => {
      const made = element("button", { type: "button" }, text);
      made.addEventListener("click", () => {
        set(values);
        this.focusOn(text);
      });
      return made;
    };
    const first = this.lines.filter((line) => this.isAtFirst(line));
    const boxes = [...first, ...this.lines.filter((line) => !first.includes(line))].map((line) => {
      const field = checkbox(line.name, this.isOn(line), (on) => {
        this.on.set(line.key, on);
        this.draw();
        this.focusOn(line.key);
      });
      field.className = this.isOn(line) ? "" : "off";
      field.firstChild.name = line.key;
      field.firstChild.after(swatch(line));
      return field;
    });
    const several = boxes.length > 3 ? [button("default", null), button("all", true), button("none", false)] : [];
    const top = this.legend.scrollTop;
    this.legend.replaceChildren(...several, ...boxes);
    this.legend.scrollTop = top;
  }

  /** Give the keyboard's place back after the legend was made anew. */
  focusOn(name) {
    const all = [...this.legend.querySelectorAll("input, button")];
    all
      .find((one) => one.name === name || (one.type === "button" && one.textContent === name))
      ?.focus({ preventScroll: true });
  }

  traces(line) {
    const colour = readable(line.style.colour);
    const points = line.level ? this.levelPoints(line) : line.rows.flatMap((row) => this.pointsOf(row));
    const shape = { color: colour, width: line.level ? 1.4 : 1.8, dash: line.style.dash };
    const main = {
      x: points.map((point) => this.at(point.x)),
      y: points.map((point) => point.y),
      line: shape,
      name: "",
      mode: line.level || this.section.band ? "lines" : "lines+markers",
      hoverinfo: "text",
      cliponaxis: false,
      text: points.map((point) => this.hover(line, point)),
      meta: points.map((point) => point.row.runs ?? []),
      marker: { symbol: line.style.symbol, size: 8, color: colour, line: { color: colour, width: 1.6 } },
    };
    const spans = points.some((point) => point.half !== null && point.half > 0);
    if (!spans) return [main];
    if (line.level || this.section.band) return [band(main, points, colour), main];
    main.error_y = {
      type: "data",
      array: points.map((point) => point.half ?? 0),
      thickness: 1.1,
      width: 3,
      color: colour,
    };
    return [main];
  }

  pointsOf(row) {
    const means = [row[this.y.mean]].flat(),
      halves = this.y.half ? [row[this.y.half]].flat() : [];
    return this.xs(row).map((x, at) => ({ x, y: means[at], half: halves[at] ?? null, row }));
  }

  levelPoints(line) {
    const [low, high] = this.range;
    const row = line.rows[0];
    const y = row[this.y.mean],
      half = this.y.half ? row[this.y.half] : null;
    return Array.from({ length: LEVEL_POINTS }, (_, at) => {
      const share = at / (LEVEL_POINTS - 1);
      return { x: this.x.log ? low * (high / low) ** share : low + share * (high - low), y, half, row };
    });
  }

  /** Where an x is drawn: 0 has a place of its own left of a logarithmic axis' smallest value. */
  at(x) {
    return this.x.log && x === 0 ? this.range[2] : x;
  }

  hover(line, point) {
    const { row } = point;
    const runs = (row.runs ?? []).map((place) => rowsOf(DATA.runs)[place]?.run_id);
    const named = ["d", "k", "n_latents", "layer"].filter((name) => (row[name] ?? null) !== null);
    const sizes = named.map((name) => `${name === "n_latents" ? "n'" : name} = ${row[name]}`);
    const where = row.model === undefined ? [] : [`${row.model}${row.n === undefined ? "" : `, n = ${row.n}`}`];
    const x = row[this.column()] === null || Array.isArray(row[this.column()]) ? point.x : row[this.column()];
    const lines = [
      `${line.name}`,
      [...sizes, ...where].join(", "),
      `${plusMinus(point.y, point.half)}${seedsText(row.seeds)}`,
      ...(line.level && row[this.column()] === null
        ? []
        : [`${this.x.label.split(/[:(]/)[0].trim()}: ${inUnit(x, this.x.unit)}`]),
      ...(runs.length
        ? [`runs ${runs.slice(0, 5).join(" ")}${runs.length > 5 ? ` and ${runs.length - 5} more` : ""}`]
        : []),
    ];
    return lines
      .filter(Boolean)
      .map((text, at) => (at ? plotText(text) : `<b>${plotText(text)}</b>`))
      .join("<br>");
  }

  /** The single runs of the lines shown, faint, a trace each. */
  runTraces() {
    const runs = rowsOf(DATA.runs);
    return this.shownLines
      .filter((line) => !line.level)
      .map((line) => {
        const colour = readable(line.style.colour);
        const [first] = line.rows;
        const places = new Set(line.rows.flatMap((row) => row.runs));
        const found = rowsOf(this.section.points).filter(
          (point) => point.inference === first.inference && places.has(point.run) && point[this.y.mean] !== null,
        );
        const x = (run) =>
          run[
            {
              compression: "decoder_compression",
              decoder_values: "learned_decoder_values",
              stored_bytes: "artifact_bytes",
            }[this.x.key]
          ];
        return {
          x: found.map((point) => this.at(x(runs[point.run]))),
          y: found.map((point) => point[this.y.mean]),
          mode: "markers",
          name: "",
          hoverinfo: "text",
          meta: found.map((point) => [point.run]),
          marker: { symbol: "circle", size: 6, color: faint(colour, 0.4), line: { width: 0 } },
          text: found.map((point) => runText(runs[point.run], point[this.y.mean])),
        };
      });
  }

  layout(points) {
    const soft = themed("soft"),
      grid = themed("grid");
    const axis = {
      gridcolor: grid,
      zeroline: false,
      linecolor: themed("rule"),
      tickcolor: themed("rule"),
      automargin: true,
    };
    const narrow = this.plot.clientWidth < 520;
    return {
      autosize: true,
      margin: { l: 44, r: 10, t: 8, b: 28 },
      showlegend: false,
      hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: soft },
      hoverlabel: {
        bgcolor: themed("panel"),
        bordercolor: themed("rule"),
        align: "left",
        font: { color: themed("text"), size: 12 },
      },
      xaxis: { ...axis, showgrid: false, ...xAxis(this.x, points, this.range, narrow) },
      yaxis: {
        ...axis,
        type: this.section.log_y ? "log" : "linear",
        zeroline: true,
        zerolinecolor: themed("rule"),
        exponentformat: "none",
        rangemode: this.neverNegative() ? "nonnegative" : "normal",
      },
    };
  }

  /** Whether y is a share or an error: intervals may pass 0, the axis does not. */
  neverNegative() {
    const rows = this.shownLines.flatMap((line) => line.rows);
    return (
      this.y.key !== "gain" &&
      !String(rows[0]?.what).startsWith("difference") &&
      rows.every((row) => [row[this.y.mean]].flat().every((mean) => mean >= 0))
    );
  }

  fillNumbers() {
    if (!this.numbers.open) return;
    const table = numbersTable(this.shownLines, this);
    this.numbers.replaceChildren(this.numbers.firstChild, table);
  }
}

function seedsText(seeds) {
  return typeof seeds === "number" ? ` (${seeds} ${seeds === 1 ? "seed" : "seeds"})` : "";
}

function runText(run, y) {
  const sizes = `d = ${run.d ?? MISSING}, k = ${run.k}, n' = ${run.n_latents}, seed ${run.seed}`;
  const lines = [
    `run ${run.run_id}`,
    armName(run.arm),
    sizes,
    `${Number(y.toPrecision(5))}, stored ${inUnit(run.artifact_bytes, "bytes")}`,
  ];
  return lines.map((text, at) => (at ? plotText(text) : `<b>${plotText(text)}</b>`)).join("<br>");
}

function band(main, points, colour) {
  const low = points.map((point) => point.y - (point.half ?? 0)),
    high = points.map((point) => point.y + (point.half ?? 0));
  return {
    x: [...main.x, ...main.x.slice().reverse()],
    y: [...high, ...low.reverse()],
    fill: "toself",
    mode: "lines",
    fillcolor: faint(colour, 0.13),
    line: { width: 0 },
    hoverinfo: "skip",
    name: "",
  };
}
