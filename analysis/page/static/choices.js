// Fields that choose which rows of a table are drawn.

const SAID = ["model,layer,n", "model,n", "k"]; // choices that are shown as text where they have one value only

class Choices {
  /** `specs` come from analysis/page/charts.py; `linesIn(rows)` counts lines; `change` is called after each choice. */
  constructor(specs, linesIn, change) {
    this.specs = specs;
    this.linesIn = linesIn;
    this.change = change;
    this.chosen = new Map();
    this.fields = element("div", { className: "controls", style: "margin: 0" });
  }

  /** Return the rows that the choices leave, and build the fields anew: each offers what the ones before it leave. */
  narrow(rows) {
    const focus = document.activeElement?.name;
    this.fields.replaceChildren();
    for (const spec of this.specs) rows = this.narrowBy(spec, rows);
    if (focus) this.fields.querySelector(`[name="${CSS.escape(focus)}"]`)?.focus();
    return rows;
  }

  narrowBy(spec, rows) {
    const groups = new Map();
    for (const row of rows) {
      if (spec.orNone && row[spec.columns[0]] === null) continue;
      const key = keyOf(row, spec.columns);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    if (!groups.size) return rows;
    const keys = [...groups.keys()].sort(byValue);
    const name = spec.columns.join();
    if (!groups.has(this.chosen.get(name))) this.chosen.set(name, this.first(spec, keys, groups));
    const chosen = this.chosen.get(name);
    if (keys.length > 1) this.fields.append(this.field(spec, name, keys, chosen));
    else if (SAID.includes(name)) this.fields.append(element("span", { className: "fact" }, onlyText(spec, keys[0])));
    return rows.filter((row) => keyOf(row, spec.columns) === chosen || (spec.orNone && row[spec.columns[0]] === null));
  }

  /** Return the key chosen at first: the one asked for, else that with the most lines; of several, the middle one. */
  first(spec, keys, groups) {
    const asked = JSON.stringify([spec.first]);
    if (groups.has(asked)) return asked;
    const counts = new Map(keys.map((key) => [key, this.linesIn(groups.get(key))]));
    const most = Math.max(...counts.values());
    const best = keys.filter((key) => counts.get(key) === most);
    return best[Math.floor(best.length / 2)];
  }

  field(spec, name, keys, chosen) {
    const options = keys.map((key) => [key, valueText(spec, JSON.parse(key))]);
    const field = select(spec.label, options, chosen, (key) => {
      this.chosen.set(name, key);
      this.change();
    });
    field.querySelector("select").name = name;
    return field;
  }
}

function keyOf(row, columns) {
  return JSON.stringify(columns.map((name) => row[name] ?? null));
}

/** Compare two keys value by value, numbers by size. */
function byValue(a, b) {
  const left = JSON.parse(a),
    right = JSON.parse(b);
  for (let at = 0; at < left.length; at += 1) {
    const one = left[at],
      other = right[at];
    if (one === other) continue;
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one) < String(other) ? -1 : 1;
  }
  return 0;
}

function onlyText(spec, key) {
  const text = valueText(spec, JSON.parse(key));
  return spec.columns.length === 1 ? `${spec.label} = ${text}` : text;
}

function valueText(spec, values) {
  if (spec.columns.join() === "model,layer,n") {
    const [model, layer, n] = values; // a synthetic model has no layers
    return layer === "" ? `${model}, n = ${n}` : `${model}, after block ${layer}, n = ${n}`;
  }
  if (values.length === 1) return String(spec.names[values[0]] ?? values[0]);
  return spec.columns.map((name, at) => `${name} ${values[at]}`).join(", ");
}
