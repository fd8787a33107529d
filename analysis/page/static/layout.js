// A chart's layout: its colours, and where x axes begin, end and have ticks.

const TOUCH = matchMedia("(pointer: coarse)");
const SETTINGS = {
  displaylogo: false,
  displayModeBar: TOUCH.matches ? false : "hover",
  // Listed one by one, because one of the default buttons uploads the figure.
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  plotlyServerURL: "",
  responsive: true,
};

function layout(chart, points) {
  const soft = themed("soft"),
    grid = themed("grid");
  const axis = {
    gridcolor: grid,
    zeroline: false,
    linecolor: themed("rule"),
    tickcolor: themed("rule"),
    automargin: true,
  };
  const narrow = chart.plot.clientWidth < 520;
  return {
    autosize: true,
    margin: { l: 44, r: 10, t: 8, b: 28 },
    showlegend: false,
    hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: TOUCH.matches ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: soft },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: themed("text") },
    hoverlabel: {
      bgcolor: themed("panel"),
      bordercolor: themed("rule"),
      align: "left",
      font: { color: themed("text"), size: 12 },
    },
    xaxis: { ...axis, showgrid: false, ...xAxis(chart.x, points, chart.range, narrow) },
    yaxis: {
      ...axis,
      type: chart.section.log_y ? "log" : "linear",
      zeroline: true,
      zerolinecolor: themed("rule"),
      exponentformat: "none",
      rangemode: neverNegative(chart) ? "nonnegative" : "normal",
    },
  };
}

/** Return whether y is a share or an error: its intervals may pass 0, its axis does not. */
function neverNegative(chart) {
  const rows = chart.shownLines.flatMap((line) => line.rows);
  return (
    chart.y.key !== "gain" &&
    !String(rows[0]?.what).startsWith("difference") &&
    rows.every((row) => [row[chart.y.mean]].flat().every((mean) => mean >= 0))
  );
}

/** Return Plotly's layout of the axis `x` over the values `points`; the third argument is their `rangeOf`. */
function xAxis(x, points, [low, high, zero], narrow) {
  const unit = x.unit === "number" ? "count" : x.unit;
  const whole = [...new Set(points)];
  if (!x.log && whole.length < 13 && whole.every(Number.isInteger)) return { type: "linear", tickvals: whole };
  if (!x.log) return { type: "linear", tickformat: high >= 1e4 ? "~s" : "", nticks: narrow ? 5 : 9 };
  const left = points.includes(0) ? zero : low;
  const pad = Math.max(0.04 * Math.log10(high / left), 0.02);
  const range = [Math.log10(left) - pad, Math.log10(high) + pad];
  const ticks = x.unit === "bytes" ? powersOfTwo(low, high, narrow) : logTicks(points, low, high, narrow);
  const texts = ticks.map((tick) => inUnit(tick, unit));
  if (points.includes(0)) {
    ticks.unshift(zero);
    texts.unshift("0");
  }
  return { type: "log", range, tickmode: "array", tickvals: ticks, ticktext: texts, ticks: "outside" };
}

/** Return [smallest value (of a logarithmic axis: above 0), largest value, where 0 is drawn]. */
function rangeOf(values, log) {
  const known = values.filter((value) => value !== null && (!log || value > 0));
  let low = Math.min(...known),
    high = Math.max(...known);
  if (!known.length) [low, high] = [1, 2];
  if (low === high) [low, high] = log ? [low / 1.5, high * 1.5] : [low - 0.5, high + 0.5];
  return [low, high, low / 3];
}

/** Return a tick at each value where they have room, else at 1, 2 and 5 times powers of ten. */
function logTicks(points, low, high, narrow) {
  const values = [...new Set(points.filter((value) => value > 0))].sort((a, b) => a - b);
  const room = (narrow ? 0.13 : 0.075) * Math.log(high / low);
  const apart = values.every((value, at) => !at || Math.log(value / values[at - 1]) > room);
  if (values.length && values.length <= 9 && apart) return values;
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    all.push(...[1, 2, 5].map((one) => one * 10 ** power));
  }
  const inside = all.filter((tick) => tick >= low * 0.98 && tick <= high * 1.02);
  const most = narrow ? 6 : 10;
  return inside.length <= most
    ? inside
    : inside.filter((tick) => Number.isInteger(Number(Math.log10(tick).toFixed(9))));
}

function powersOfTwo(low, high, narrow) {
  const first = Math.ceil(Math.log2(low)),
    last = Math.floor(Math.log2(high));
  const step = Math.ceil((last - first + 1) / (narrow ? 5 : 9));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => first + at)
    .filter((power) => (power - first) % step === 0)
    .map((power) => 2 ** power);
}
