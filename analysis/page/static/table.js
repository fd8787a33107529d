// Tables that a click on a head sorts.

const STEP = 100; // rows shown at first; each click on `show more` adds ten times as many

class Table {
  /** `columns`: {title, numeric, and of a row the value to sort by, the text to show, or the node to show instead}. */
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

/** Compare two values; missing ones come last in either direction. */
function compare(a, b, descending) {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) - none(b);
  const order = a < b ? -1 : a > b ? 1 : 0;
  return descending ? -order : order;
}
