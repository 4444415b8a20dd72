/* the choices, the permalink, and the start */
const DERIVED = ["entry", "pattern_kind", "draw_kind"];
const EVERYTHING = "everything";

/* passes rows that the set filters and the search let through, the named filters left out */
function within(...without) {
  const tests = asked().filter(([name]) => !without.includes(name));
  return (row) => tests.every(([, codes, passing]) => passing.has(codes[row]));
}

/* each option with the number of cases it gives; those that give none cannot be chosen and say what is against them */
function drawFilters() {
  const counts = counted(), sizes = C.suite.of.map(() => 0);
  for (const code of C.suite.at) sizes[code]++;
  for (const name of FILTERS) {
    for (const option of $(`filter-${name}`).options) {
      if (option.value === "") continue;
      const code = Number(option.dataset.code), { cases, against } = counts[name][code];
      option.textContent = `${told(name, C[name].of[code])} (${name === "suite" ? sizes[code] : cases || inTheWay(against)})`;
      option.disabled = name !== "suite" && !cases && view.filters[name] !== option.value; /* a suite brings its own view */
    }
    $(`filter-${name}`).value = view.filters[name] ?? "";
  }
  if ($("search").value !== view.find) $("search").value = view.find;
  $("cost").value = view.cost;
}

function draw() {
  const began = performance.now();
  drawFilters();
  const rows = chosen(), lines = board(rows);
  if (!SORTABLE.includes(view.sort)) view.sort = "mean";
  const methods = shown(lines);
  const said = FILTERS.filter((name) => view.filters[name] !== undefined).map((name) => `${known(name)} ${told(name, view.filters[name])}`);
  $("about").textContent = `${rows.length} cases of ${lines.length} methods${said.length ? `: ${said.join(", ")}` : ""}.`;
  drawBoard(lines, rows, drawAnswer(rows));
  $("curves").parentElement.hidden = !rows.length;
  if (rows.length) drawCharts(methods);
  drawLegend(methods);
  drawMatrix(rows, lines);
  drawRecoveries(lines);
  drawReported();
  drawFailures(rows);
  drawCases(rows);
  document.body.dataset.milliseconds = (performance.now() - began).toFixed(1);
}

function save() {
  const found = new URLSearchParams(view.filters);
  if (!Object.keys(view.filters).length) found.set("all", EVERYTHING);
  if (view.find) found.set("find", view.find);
  if (view.sort !== "mean" || !view.down) found.set("sort", (view.down ? "-" : "") + view.sort);
  if (view.drawn) found.set("draw", JSON.stringify(view.drawn));
  if (view.open !== null) found.set("open", view.open);
  if (view.cost !== COSTS[0].name) found.set("cost", view.cost);
  $("permalink").href = `#${found}`;
  history.replaceState(null, "", `#${found}`);
  draw();
}

function restore() {
  const found = new URLSearchParams(location.hash.slice(1)), sort = found.get("sort") ?? "-mean";
  const names = FILTERS.filter((name) => found.has(name) && C[name].of.some((value) => text(value) === found.get(name)));
  view.filters = Object.fromEntries(names.map((name) => [name, found.get(name)]));
  if (!names.length && !found.has("all")) view.filters = opened(OPENINGS[0]);
  view.find = found.get("find") ?? "";
  view.sort = SORTABLE.includes(sort.replace(/^-/, "")) ? sort.replace(/^-/, "") : "mean";
  view.down = sort.startsWith("-");
  try { view.drawn = found.has("draw") ? JSON.parse(found.get("draw")).map(String) : null; } catch { view.drawn = null; }
  view.open = found.get("open");
  view.cost = COSTS.some(({ name }) => name === found.get("cost")) ? found.get("cost") : COSTS[0].name;
  $("permalink").href = `#${found}`;
  draw();
}

const opened = (opening) => Object.fromEntries(Object.entries(opening).map(([name, value]) => [name, text(value)]));

function choose(name, value) {
  if (value === "") delete view.filters[name];
  else if (name === "suite") { view.filters = opened(OPENINGS.find((opening) => opening.suite === value)); view.find = ""; view.drawn = view.open = null; }
  else view.filters[name] = value;
  save();
}

function makeFilters() {
  for (const name of FILTERS) {
    const select = make("select", { id: `filter-${name}`, onchange: () => choose(name, select.value) }, make("option", { value: "" }, "all"));
    const order = C[name].of.map((value, code) => [value, code]).sort(([a], [b]) => typeof a === "number" ? a - b : text(a) < text(b) ? -1 : 1);
    for (const [value, code] of order) {
      const option = make("option", { value: text(value) });
      option.dataset.code = code;
      select.append(option);
    }
    $("filters").append(make("label", { htmlFor: select.id }, known(name), select));
  }
  const search = make("input", { id: "search", type: "search", placeholder: "part of a name", oninput: () => { view.find = search.value; save(); } });
  $("filters").append(make("label", { htmlFor: "search" }, "method search", search));
  $("filters").onsubmit = (event) => event.preventDefault();
  for (const { name, label } of COSTS) $("cost").append(make("option", { value: name }, label));
  $("cost").onchange = () => { view.cost = $("cost").value; save(); };
  $("reset").onclick = () => { Object.assign(view, { filters: {}, find: "", drawn: null, open: null, sort: "mean", down: true }); save(); };
  $("opening").onclick = () => { history.replaceState(null, "", "#"); restore(); };
}

async function start() {
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  };
  const packed = Uint8Array.from(atob($("data").textContent), (char) => char.charCodeAt(0));
  const stream = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  const payload = JSON.parse(await stream.text());
  [C, OPENINGS, REPORTED] = [payload.columns, payload.openings, payload.reported.figures];
  ROWS = Array.from({ length: payload.count }, (_, row) => row);
  $("provenance").textContent = payload.provenance;
  $("source").textContent = payload.reported.source;
  makeFilters();
  addEventListener("hashchange", () => { if (!$(location.hash.slice(1))) restore(); }); /* a link within the page is no view */
  document.querySelector("main").hidden = false;
  $("notice").hidden = true;
  restore();
  document.body.dataset.ready = "yes";
}
start().catch((error) => { $("notice").textContent = `The records could not be read: ${error.message}. A browser from 2023 or later is needed.`; });
