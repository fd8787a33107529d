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
  // a line's second column: how the legend names a value of it
  d: (value) => `d = ${value}`,
  inference: (value) => `by ${value}`,
  rounding: (value) => value,
};

class Chart {
  constructor(section, box, showRuns) {
    this.section = section;
    this.showRuns = showRuns;
    this.x = section.x[0];
    this.y = section.y[0];
    this.single = false;
    this.on = new Map(); // key of a line: whether the reader switched it on or off
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
    const figure = element("div", { className: "figure" }, this.legend, this.yTitle, this.plot, this.xTitle);
    box.append(this.fields(), figure, this.numbers);
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
    const traces = this.shownLines.flatMap((line) => lineTraces(this, line));
    if (this.single) traces.unshift(...runTraces(this));
    this.plot.setAttribute(
      "aria-label",
      `${this.section.title}: ${this.yTitle.textContent}, ${this.xTitle.textContent}`,
    );
    const drawn = Plotly.react(this.plot, traces, layout(this, points), SETTINGS);
    if (!this.listening) {
      this.listening = true;
      this.plot.on("plotly_click", (event) => this.clicked(event.points[0]));
    }
    if (this.numbers.open) this.fillNumbers();
    return drawn;
  }

  /** Go to the runs behind a point; not on a touch screen, where a touch is the way to read the point's text. */
  clicked(point) {
    if (TOUCH.matches) return;
    const runs = point.data.meta?.[point.pointNumber];
    if (runs?.length) this.showRuns(runs);
  }

  whatLabel(rows) {
    const spec = this.section.choices.find((choice) => choice.columns[0] === "what");
    return rows.length && spec ? valueText(spec, [rows[0].what]) : "";
  }

  /** Return {key, name, style, rows sorted by x, level} for each line of `rows`, in the order of arms. */
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

  /** Give the focus back to the field of this name, after the legend was built anew. */
  focusOn(name) {
    const all = [...this.legend.querySelectorAll("input, button")];
    all
      .find((one) => one.name === name || (one.type === "button" && one.textContent === name))
      ?.focus({ preventScroll: true });
  }

  fillNumbers() {
    if (!this.numbers.open) return;
    const table = numbersTable(this.shownLines, this);
    this.numbers.replaceChildren(this.numbers.firstChild, table);
  }
}

/** Return the table of the numbers behind the lines that a chart shows. */
function numbersTable(lines, chart) {
  const points = lines.flatMap((line) =>
    line.rows.flatMap((row) => pointsOf(chart, row).map((point) => ({ ...point, line }))),
  );
  const value = (name) => (point) => point.row[name] ?? null;
  const sizes = ["d", "k", "n_latents"].filter((name) => points.some((point) => (point.row[name] ?? null) !== null));
  const table = new Table(
    [
      { title: "line", value: (point) => point.line.name, text: (point) => point.line.name },
      ...sizes.map((name) => ({
        title: name === "n_latents" ? "n'" : name,
        numeric: true,
        value: value(name),
        text: (point) => inUnit(value(name)(point)),
      })),
      { title: "x", numeric: true, value: (point) => point.x, text: (point) => inUnit(point.x, chart.x.unit) },
      { title: "y", numeric: true, value: (point) => point.y, text: (point) => plusMinus(point.y, point.half) },
      { title: "seeds", numeric: true, value: value("seeds"), text: (point) => inUnit(value("seeds")(point)) },
    ],
    "Numbers of the figure",
  );
  table.show(points);
  return table.element;
}
