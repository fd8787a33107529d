// The page: its sections, each made when it comes near the window.

const KINDS = { chart: Chart, dominance: Dominance, runs: RunTable, contexts: Contexts };
const made = new Map(); // section id: the object that draws it

function showRuns(places) {
  const target = document.getElementById("runs");
  make(target);
  made.get("runs").choose(places);
  target.scrollIntoView();
}

function make(box) {
  if (made.has(box.id)) return undefined;
  const section = DATA.sections.find((one) => one.id === box.id);
  const drawer = new KINDS[section.kind](section, box, showRuns);
  made.set(box.id, drawer);
  const drawn = drawer.draw?.();
  box.classList.remove("waiting");
  return drawn;
}

function sectionBox(section) {
  const box = element("section", { id: section.id }, element("h2", {}, section.title));
  if (section.missing) {
    box.append(element("p", { className: "missing" }, `Nothing recorded: ${section.missing}.`));
  } else {
    if (section.how) box.append(element("p", { className: "how" }, section.how));
    box.classList.add("waiting");
  }
  return box;
}

function missingBox(sections) {
  const lines = sections.map((section) => element("li", {}, `${section.title}: ${section.missing}`));
  return element(
    "section",
    { id: "missing" },
    element("h2", {}, "Not in these records"),
    element("ul", { className: "missing" }, ...lines),
  );
}

function build() {
  const absent = DATA.sections.filter((section) => section.missing && section.control);
  const present = DATA.sections.filter((section) => !absent.includes(section));
  document.getElementById("nav").append(...present.map(({ id, title }) => element("a", { href: `#${id}` }, title)));
  const boxes = present.map(sectionBox);
  document.getElementById("main").replaceChildren(...boxes, ...(absent.length ? [missingBox(absent)] : []));
  return boxes.filter((box) => box.classList.contains("waiting"));
}

function watch(boxes) {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        watcher.unobserve(entry.target);
        make(entry.target);
      }
    },
    { rootMargin: "300px" },
  );
  boxes.forEach((box) => watcher.observe(box));
}

const waiting = build();
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
Promise.resolve(waiting.length ? make(waiting[0]) : null).then(() => {
  performance.mark("first-figure");
  document.documentElement.dataset.drawn = "true";
});
watch(waiting.slice(1));
DARK.addEventListener("change", () => made.forEach((drawer) => drawer.draw?.()));
window.addEventListener("beforeprint", () => waiting.forEach(make));
