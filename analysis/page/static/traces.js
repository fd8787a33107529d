// Plotly's traces of a chart, and the texts that the pointer shows.

const WIDE = 40; // characters in a line of such a text
const LEVEL_POINTS = 15; // so many along a level, for the pointer to meet one

/** Return Plotly's traces of one line, with its interval as a band in charts of many points, else as bars. */
function lineTraces(chart, line) {
  const colour = readable(line.style.colour);
  const points = line.level ? levelPoints(chart, line) : line.rows.flatMap((row) => pointsOf(chart, row));
  const shape = { color: colour, width: line.level ? 1.4 : 1.8, dash: line.style.dash };
  const main = {
    x: points.map((point) => placeOf(chart, point.x)),
    y: points.map((point) => point.y),
    line: shape,
    name: "",
    mode: line.level || chart.section.band ? "lines" : "lines+markers",
    hoverinfo: "text",
    cliponaxis: false,
    text: points.map((point) => hover(chart, line, point)),
    meta: points.map((point) => point.row.runs ?? []),
    marker: { symbol: line.style.symbol, size: 8, color: colour, line: { color: colour, width: 1.6 } },
  };
  const spans = points.some((point) => point.half !== null && point.half > 0);
  if (!spans) return [main];
  if (line.level || chart.section.band) return [band(main, points, colour), main];
  main.error_y = {
    type: "data",
    array: points.map((point) => point.half ?? 0),
    thickness: 1.1,
    width: 3,
    color: colour,
  };
  return [main];
}

/** Return a row's points: one, or as many as its lists have. */
function pointsOf(chart, row) {
  const means = [row[chart.y.mean]].flat(),
    halves = chart.y.half ? [row[chart.y.half]].flat() : [];
  return chart.xs(row).map((x, at) => ({ x, y: means[at], half: halves[at] ?? null, row }));
}

/** Return a level's points, along the range of the axis. */
function levelPoints(chart, line) {
  const [low, high] = chart.range;
  const row = line.rows[0];
  const y = row[chart.y.mean],
    half = chart.y.half ? row[chart.y.half] : null;
  return Array.from({ length: LEVEL_POINTS }, (_, at) => {
    const share = at / (LEVEL_POINTS - 1);
    return { x: chart.x.log ? low * (high / low) ** share : low + share * (high - low), y, half, row };
  });
}

/** Return where an x is drawn: 0 has a place of its own, left of a logarithmic axis' smallest value. */
function placeOf(chart, x) {
  return chart.x.log && x === 0 ? chart.range[2] : x;
}

function hover(chart, line, point) {
  const { row } = point;
  const runs = (row.runs ?? []).map((place) => rowsOf(DATA.runs)[place]?.run_id);
  const named = ["d", "k", "n_latents", "layer"].filter((name) => (row[name] ?? null) !== null);
  const sizes = named.map((name) => `${name === "n_latents" ? "n'" : name} = ${row[name]}`);
  const where = row.model === undefined ? [] : [`${row.model}${row.n === undefined ? "" : `, n = ${row.n}`}`];
  const x = row[chart.column()] === null || Array.isArray(row[chart.column()]) ? point.x : row[chart.column()];
  const lines = [
    `${line.name}`,
    [...sizes, ...where].join(", "),
    `${plusMinus(point.y, point.half)}${seedsText(row.seeds)}`,
    ...(line.level && row[chart.column()] === null
      ? []
      : [`${chart.x.label.split(/[:(]/)[0].trim()}: ${inUnit(x, chart.x.unit)}`]),
    ...(runs.length
      ? [`runs ${runs.slice(0, 5).join(" ")}${runs.length > 5 ? ` and ${runs.length - 5} more` : ""}`]
      : []),
  ];
  return hoverText(lines.filter(Boolean));
}

/** Return the single runs behind the lines shown, faint, a trace for each line. */
function runTraces(chart) {
  const runs = rowsOf(DATA.runs);
  return chart.shownLines
    .filter((line) => !line.level)
    .map((line) => {
      const colour = readable(line.style.colour);
      const [first] = line.rows;
      const places = new Set(line.rows.flatMap((row) => row.runs));
      const found = rowsOf(chart.section.points).filter(
        (point) => point.inference === first.inference && places.has(point.run) && point[chart.y.mean] !== null,
      );
      const x = (run) => run[chart.x.column];
      return {
        x: found.map((point) => placeOf(chart, x(runs[point.run]))),
        y: found.map((point) => point[chart.y.mean]),
        mode: "markers",
        name: "",
        hoverinfo: "text",
        meta: found.map((point) => [point.run]),
        marker: { symbol: "circle", size: 6, color: faint(colour, 0.4), line: { width: 0 } },
        text: found.map((point) => runText(runs[point.run], point[chart.y.mean])),
      };
    });
}

/** Join lines into one text, the first bold, long ones folded: a phone is as wide as WIDE characters. */
function hoverText(lines) {
  const folded = lines.flatMap((text, at) =>
    fold(text).map((part) => (at ? plotText(part) : `<b>${plotText(part)}</b>`)),
  );
  return folded.join("<br>");
}

function fold(text) {
  const parts = [""];
  for (const word of text.split(" ")) {
    const last = parts.at(-1);
    if (last && last.length + word.length >= WIDE) parts.push(word);
    else parts[parts.length - 1] = last ? `${last} ${word}` : word;
  }
  return parts;
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
  return hoverText(lines);
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
