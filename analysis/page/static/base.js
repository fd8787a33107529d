// Shared by the other files: the data, elements, numbers as text, and colours.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DARK = matchMedia("(prefers-color-scheme: dark)");

/** Return the rows of a table that came column by column (analysis/page/encode.py). */
function rowsOf(encoded) {
  if (!encoded.made) {
    const columns = Object.entries(encoded.columns).map(([name, column]) => [
      name,
      Array.isArray(column) ? column : column.at.map((place) => column.of[place]),
    ]);
    encoded.made = Array.from({ length: encoded.rows }, (_, row) =>
      Object.fromEntries(columns.map(([name, values]) => [name, values[row]])),
    );
  }
  return encoded.made;
}

/** Make an element; text always goes in as text, never as HTML. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function select(label, options, chosen, change) {
  const field = element(
    "select",
    { "aria-label": label },
    ...options.map(([value, text]) => element("option", { value }, text)),
  );
  field.value = chosen;
  field.addEventListener("change", () => change(field.value));
  return element("label", {}, label, field);
}

function checkbox(label, checked, change) {
  const field = element("input", { type: "checkbox", checked });
  field.addEventListener("change", () => change(field.checked));
  return element("label", { className: "check" }, field, label);
}

const MISSING = "–";
const UNITS = {
  number: (value) => Number(value.toPrecision(4)).toLocaleString("en"),
  count: (value) => short(value),
  bytes: (value) => binary(value),
  times: (value) => `${Number(value.toPrecision(3))}×`,
};

function inUnit(value, unit = "number") {
  return typeof value === "number" ? (UNITS[unit] ?? UNITS.number)(value) : (value ?? MISSING);
}

function short(value) {
  for (const [size, suffix] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${suffix}`;
  }
  return `${Number(value.toPrecision(3))}`;
}

function binary(value) {
  for (const [size, suffix] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ]) {
    if (value >= size) return `${Number((value / size).toPrecision(4))} ${suffix}`;
  }
  return `${value} B`;
}

/** Return a mean and half of its 95 % interval, both to the digits that the interval leaves meaningful. */
function plusMinus(mean, half) {
  if (typeof mean !== "number") return MISSING;
  if (typeof half !== "number") return `${Number(mean.toPrecision(4))}`;
  const digits = half > 0 ? Math.min(4, Math.max(3, 1 - Math.floor(Math.log10(half)))) : 4;
  return `${mean.toFixed(digits)} ± ${half.toFixed(digits)}`;
}

function armName(label) {
  return DATA.arms[label]?.name ?? label;
}

/** Escape a text for Plotly, which would read a few tags in it as HTML. */
function plotText(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Return the colour to draw with: on a dark page, a dark colour becomes a light one of the same hue. */
function readable(colour, dark = DARK.matches) {
  if (!dark) return colour;
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  const most = Math.max(red, green, blue),
    least = Math.min(red, green, blue);
  const light = (most + least) / 2,
    apart = most - least;
  const saturation = apart ? apart / (1 - Math.abs(2 * light - 1)) : 0;
  let hue = 0;
  if (apart) {
    hue = most === red ? (green - blue) / apart : most === green ? 2 + (blue - red) / apart : 4 + (red - green) / apart;
  }
  const lighter = Math.max(0.58, 0.93 - 0.75 * light);
  return hex(60 * ((hue + 6) % 6), Math.min(saturation, 0.85), lighter);
}

function hex(hue, saturation, light) {
  const wide = saturation * Math.min(light, 1 - light);
  const part = (at) => {
    const turn = (at + hue / 30) % 12;
    const value = light - wide * Math.max(-1, Math.min(turn - 3, 9 - turn, 1));
    return Math.round(255 * value)
      .toString(16)
      .padStart(2, "0");
  };
  return `#${part(0)}${part(8)}${part(4)}`;
}

/** Add an opacity to the colour #rrggbb. */
function faint(colour, opacity) {
  return (
    colour +
    Math.round(255 * opacity)
      .toString(16)
      .padStart(2, "0")
  );
}
