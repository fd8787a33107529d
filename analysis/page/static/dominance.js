// The table of dominance: which dictionary preserves the most at each level of stored bytes.

/** The winner at each level of stored bytes, for one budget and one cell (LM, layer, n, k) at a time. */
class Dominance {
  constructor(section, box) {
    this.rows = rowsOf(section.table);
    this.choices = new Choices(
      [
        { columns: ["measure"], label: "measure", names: {}, first: "CE recovered" },
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
        { title: "most of all", value: amount("winner"), text: (row) => who(row, "winner"), wrap: true },
        {
          title: "mean",
          numeric: true,
          value: amount("winner_mean"),
          text: (row) => plusMinus(row.winner_mean, row.winner_half_interval),
        },
        { title: "floor", numeric: true, value: amount("floor"), text: floorText },
        { title: "verdict", value: amount("verdict"), text: (row) => row.verdict, wrap: true },
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

function floorText(row) {
  return plusMinus(row.floor, row.floor_half_interval);
}

function lossText(row, role) {
  return plusMinus(row[`${role}_difference`] ?? null, row[`${role}_difference_half_interval`] ?? null);
}
