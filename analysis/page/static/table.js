// Tables: sorted by their heads, filtered by words; the run table and the dominance table.

const STEP = 100; // rows shown at first, and more at each asking

class Table {
  /** `columns`: {title, value(row), text(row), numeric, node(row)}: what is sorted by, shown, or put in as an element. */
  constructor(columns, caption) {
    this.columns = columns;
    this.limit = STEP;
    this.sorted = null;
    this.heads = columns.map((column, at) => this.head(column, at));
    this.body = element("tbody");
    this.more = element("button", { type: "button" });
    this.more.addEventListener("click", () => {
      this.limit += 10 * STEP;
      this.fill();
    });
    const table = element(
      "table",
      { "aria-label": caption },
      element("thead", {}, element("tr", {}, ...this.heads)),
      this.body,
    );
    this.box = element("div", { className: "box", tabIndex: 0, role: "region", "aria-label": caption }, table);
    this.element = element("div", {}, this.box, this.more);
  }

  head(column, at) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => this.sortBy(at));
    return element("th", { scope: "col", className: column.numeric ? "number" : "" }, button);
  }

  sortBy(at) {
    const descending = this.sorted?.at === at ? !this.sorted.descending : Boolean(this.columns[at].numeric);
    this.sorted = { at, descending };
    this.heads.forEach(
      (head, one) =>
        head.removeAttribute("aria-sort") ??
        (one === at && head.setAttribute("aria-sort", descending ? "descending" : "ascending")),
    );
    this.fill();
  }

  show(rows) {
    this.rows = rows;
    this.limit = STEP;
    this.fill();
  }

  fill() {
    const rows = this.rows.slice();
    if (this.sorted) {
      const { value } = this.columns[this.sorted.at];
      rows.sort((a, b) => compare(value(a), value(b), this.sorted.descending));
    }
    const shown = rows.slice(0, this.limit);
    this.body.replaceChildren(
      ...shown.map((row) => element("tr", {}, ...this.columns.map((column) => this.cell(column, row)))),
    );
    this.more.hidden = rows.length <= this.limit;
    this.more.textContent = `show more (${rows.length - shown.length} left)`;
  }

  cell(column, row) {
    const content = column.node?.(row) ?? column.text(row);
    return element("td", { className: column.numeric ? "number" : column.wrap ? "wrap" : "" }, content);
  }
}

/** Nothing is last, whichever way. */
function compare(a, b, descending) {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) - none(b);
  const order = a < b ? -1 : a > b ? 1 : 0;
  return descending ? -order : order;
}

/** The numbers of the lines that a chart shows. */
function numbersTable(lines, chart) {
  const points = lines.flatMap((line) =>
    line.rows.flatMap((row) => chart.pointsOf(row).map((point) => ({ ...point, line }))),
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

const RUN_UNITS = {
  learned_decoder_values: "count",
  artifact_bytes: "bytes",
  decoder_compression: "times",
  train_tokens: "count",
};
const RUN_TEXTS = ["run_id", "arm", "model", "finished"];

class RunTable {
  constructor(section, box) {
    this.rows = rowsOf(DATA.runs);
    const names = Object.keys(section.heads).filter((name) => name in DATA.runs.columns);
    this.table = new Table(
      names.map((name) => this.column(name, section.heads[name])),
      "Runs",
    );
    this.table.sorted = null;
    this.field = element("input", { type: "search", placeholder: "expander k=32 ce_recovered>0.9", spellcheck: false });
    this.field.addEventListener("input", () => this.filter());
    this.said = element("p", { className: "count", role: "status" });
    const label = element("label", { className: "search" }, "filter: words, or column=value, column>value", this.field);
    box.append(element("div", { className: "controls" }, label), this.said, this.table.element);
    this.filter();
  }

  column(name, title) {
    const text = RUN_TEXTS.includes(name);
    const column = {
      title,
      numeric: !text,
      value: (run) => run[name],
      text: (run) => (text ? shownText(name, run) : inUnit(run[name], RUN_UNITS[name])),
    };
    if (name === "run_id") column.node = runLink;
    return column;
  }

  filter() {
    const tests = this.field.value.trim().toLowerCase().split(/\s+/).filter(Boolean).map(testOf);
    const found = this.rows.filter((run) => tests.every((test) => test(run)));
    const others = found.filter((run) => !run.compared).length;
    this.said.textContent =
      `${found.length} of ${this.rows.length} runs` +
      (others ? `, ${others} of them with other settings than most and in no mean but data efficiency's` : "");
    this.table.show(found);
  }

  /** Show only the runs at `places`. */
  choose(places) {
    this.field.value = places.map((place) => this.rows[place].run_id).join("|");
    this.filter();
  }
}

function shownText(name, run) {
  if (name === "finished")
    return String(run.finished ?? MISSING)
      .slice(0, 16)
      .replace("T", " ");
  return name === "arm" ? armName(run.arm) : (run[name] ?? MISSING);
}

function runLink(run) {
  const name = element("code", {}, run.run_id);
  return run.link ? element("a", { href: run.link }, name) : name;
}

/** A test of a run: `column=value`, `column<number`, or a word of which | separates alternatives. */
function testOf(word) {
  const [, name, sign, asked] = word.match(/^(\w+)(<=|>=|=|<|>)(.+)$/) ?? [];
  if (name && name in DATA.runs.columns) return columnTest(name, sign, asked);
  const words = word.split("|").filter(Boolean);
  return (run) => {
    run.words ??= [...RUN_TEXTS.map((text) => run[text]), armName(run.arm)].join(" ").toLowerCase();
    return words.some((one) => run.words.includes(one));
  };
}

function columnTest(name, sign, asked) {
  if (sign === "=") return (run) => String(run[name]).toLowerCase() === asked;
  const limit = Number(asked);
  const tests = {
    "<": (value) => value < limit,
    "<=": (value) => value <= limit,
    ">": (value) => value > limit,
    ">=": (value) => value >= limit,
  };
  return (run) => typeof run[name] === "number" && tests[sign](run[name]);
}

/** Who wins at each level of stored bytes and budget, a cell (LM, layer, n, k) at a time. */
class Dominance {
  constructor(section, box) {
    this.rows = rowsOf(section.table);
    this.choices = new Choices(
      [
        { columns: ["model", "layer", "n"], label: "LM, layer, n", names: {} },
        { columns: ["k"], label: "k", names: {} },
        { columns: ["budget"], label: "budget of multiply-adds", names: {}, first: "one-shot dense" },
      ],
      (rows) => rows.length,
      () => this.draw(),
    );
    const loss = (role) => (row) => lossText(row, role);
    const amount = (name) => (row) => row[name];
    this.table = new Table(
      [
        { title: "stored up to", numeric: true, value: amount("level"), text: (row) => binary(row.level) },
        { title: "most preserved by", value: amount("winner"), text: (row) => who(row, "winner"), wrap: true },
        {
          title: "CE recovered",
          numeric: true,
          value: amount("winner_mean"),
          text: (row) => plusMinus(row.winner_mean, row.winner_half_interval),
        },
        { title: "runner-up", value: amount("runner_up"), text: (row) => who(row, "runner_up"), wrap: true },
        { title: "loses by", numeric: true, value: amount("runner_up_difference"), text: loss("runner_up") },
        { title: "other kind", value: amount("other_kind"), text: (row) => who(row, "other_kind"), wrap: true },
        { title: "loses by", numeric: true, value: amount("other_kind_difference"), text: loss("other_kind") },
        { title: "PCA", numeric: true, value: amount("pca_mean"), text: (row) => plusMinus(row.pca_mean, null) },
      ],
      "Dominance",
    );
    box.append(element("div", { className: "controls" }, this.choices.fields), this.table.element);
  }

  draw() {
    this.table.show(this.choices.narrow(this.rows));
  }
}

function who(row, role) {
  if (!row[role]) return MISSING;
  const d = row[`${role}_d`],
    latents = row[`${role}_n_latents`],
    by = row[`${role}_inference`];
  const size = d !== null && latents === row.n ? `d = ${d}` : `n' = ${latents}`;
  return `${armName(row[role])}, ${size}${by === "encoder" ? "" : `, by ${by}`}`;
}

function lossText(row, role) {
  return plusMinus(row[`${role}_difference`] ?? null, row[`${role}_difference_half_interval`] ?? null);
}
