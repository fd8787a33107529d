// The run table and its filter.

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
      (others ? `, ${others} of them with settings unlike most: means leave them out, except data efficiency's` : "");
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

/** Return the test of a run that one word asks for: `column=value`, `column<number`, or texts separated by |. */
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
