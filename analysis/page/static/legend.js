// The swatches beside a chart's checkboxes.

/** Draw a line's dash, marker and colour, as in the figure. */
function swatch(line) {
  const dash = { solid: "", dash: "5 3", dot: "1.5 3" }[line.style.dash];
  const colour = readable(line.style.colour);
  const open = line.style.symbol.endsWith("-open");
  const shape = SHAPES[line.style.symbol.replace("-open", "")] ?? SHAPES.circle;
  const svg = (tag, properties) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    return made;
  };
  const box = svg("svg", { width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": "true" });
  box.append(svg("path", { d: "M0 6H26", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dash }));
  if (!line.level) {
    box.append(
      svg("path", {
        d: shape,
        fill: open ? themed("page") : colour,
        stroke: colour,
        "stroke-width": 1.4,
        transform: "translate(13 6)",
      }),
    );
  }
  return box;
}

const SHAPES = {
  circle: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
  square: "M-3.2-3.2h6.4v6.4h-6.4z",
  diamond: "M0-4.5L4.5 0 0 4.5-4.5 0z",
  "diamond-tall": "M0-5L3 0 0 5-3 0z",
  "triangle-up": "M0-4L4 3H-4z",
  "triangle-down": "M0 4L4-3H-4z",
  "triangle-left": "M-4 0L3-4V4z",
  cross: "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
  x: "M-3-3L3 3M3-3L-3 3",
  pentagon: "M0-4L4-1 2.4 3.6H-2.4L-4-1z",
  hexagon: "M-2-3.6H2L4 0 2 3.6H-2L-4 0z",
  hexagon2: "M0-4L3.6-2V2L0 4-3.6 2V-2z",
  star: "M0-4.6L1.3-1.4 4.6-1.2 2 .9 2.9 4.2 0 2.4-2.9 4.2-2 .9-4.6-1.2-1.3-1.4z",
  "line-ew": "M-4 0H4",
};
