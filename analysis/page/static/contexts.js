// The text that latents fire at, with each token marked by how strongly they fire.

class Contexts {
  constructor(section, box) {
    this.of = section.of;
    this.chosen = 0;
    this.order = "rate";
    this.list = element("div", { className: "box latents", tabIndex: 0, role: "region", "aria-label": "Latents" });
    this.said = element("p", { className: "count" });
    const runs = this.of.map((one, at) => [String(at), contextRun(one)]);
    const orders = [
      ["rate", "most frequent first"],
      ["rare", "rarest first"],
      ["number", "by number"],
    ];
    box.append(
      element(
        "div",
        { className: "controls" },
        select("run", runs, "0", (at) => {
          this.chosen = Number(at);
          this.draw();
        }),
        select("latents", orders, "rate", (order) => {
          this.order = order;
          this.draw();
        }),
      ),
      this.said,
      this.list,
    );
  }

  draw() {
    const { latents, live, texts } = this.of[this.chosen];
    const by = { rate: (a, b) => b[1] - a[1], rare: (a, b) => a[1] - b[1], number: (a, b) => a[0] - b[0] }[this.order];
    this.said.textContent = `${latents.length} of the ${live.toLocaleString("en")} latents that fired`;
    this.list.replaceChildren(
      ...latents
        .slice()
        .sort(by)
        .map((latent) => latentBlock(latent, texts)),
    );
  }
}

function contextRun(one) {
  const run = rowsOf(DATA.runs)[one.run];
  const d = run.d === null ? "" : `, d = ${run.d}`;
  return `${armName(run.arm)}${d}, k = ${run.k}, layer ${run.layer}, CE recovered ${inUnit(run.ce_recovered)} (${run.run_id})`;
}

function latentBlock([latent, rate, contexts], texts) {
  const strongest = Math.max(...contexts.flatMap(([, codes]) => codes.map(Math.abs)));
  const items = contexts.map(([tokens, codes]) => {
    const marked = tokens.map((place, at) => tokenNode(texts[place], codes[at], strongest));
    const peak = Math.max(...codes.filter((code) => code));
    return element(
      "li",
      {},
      element("span", { className: "peak" }, Number(peak.toPrecision(3))),
      element("span", { className: "context" }, ...marked),
    );
  });
  const head = element("h3", {}, `latent ${latent} `, element("span", {}, `fires at ${percent(rate)} of tokens`));
  return element("div", { className: "latent" }, head, element("ol", {}, ...items));
}

function tokenNode(text, code, strongest) {
  const line = text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  if (!code) return line;
  const strength = (0.15 + (0.65 * Math.abs(code)) / strongest).toFixed(2);
  return element("mark", { style: `background: rgba(var(--mark), ${strength})`, title: `code ${code}` }, line || "∅");
}

function percent(share) {
  return `${Number((100 * share).toPrecision(2))} %`;
}
