"use strict";
const FILTERS = ["suite", "task", "track", "setting", "budget", "sparsity", "recovery"];
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DASHES = ["", "6 3", "2 3"];
const DRAWN = 6, MATRIX = 12, LISTED = 200, RESAMPLES = 400;
const T = [NaN, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
  2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045];
const $ = (id) => document.getElementById(id);
let C = {}, N = 0, ROWS = [];
const view = { filters: {}, sort: "mean", down: true, drawn: null, open: null };

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const text = (value) => value === null || value === undefined ? "" : String(value);
const at = (column, row) => { const found = C[column]; return found.of ? found.of[found.at[row]] : found[row]; };
const percent = (value) => `${+(100 * value).toFixed(4)} %`;
const points = (value, digits = 1) => Number.isFinite(value) ? (100 * value).toFixed(digits) : "";
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function student(values) {
  const n = values.length;
  if (n < 2) return { mean: n ? values[0] : NaN, low: NaN, high: NaN };
  const centre = mean(values);
  const variance = values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (n - 1);
  const half = (T[n - 1] ?? 1.96 + 2.4 / (n - 1)) * Math.sqrt(variance / n);
  return { mean: centre, low: centre - half, high: centre + half };
}

function generator(seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function hierarchical(tasks) {
  if (tasks.length === 1) return student(tasks[0]);
  const random = generator(1), found = new Float64Array(RESAMPLES);
  for (let r = 0; r < RESAMPLES; r++) {
    let total = 0;
    for (let i = 0; i < tasks.length; i++) {
      const draws = tasks[Math.floor(random() * tasks.length)];
      let sum = 0;
      for (let j = 0; j < draws.length; j++) sum += draws[Math.floor(random() * draws.length)];
      total += sum / draws.length;
    }
    found[r] = total / tasks.length;
  }
  found.sort();
  return { mean: mean(tasks.map(mean)), low: found[Math.floor(0.025 * RESAMPLES)], high: found[Math.ceil(0.975 * RESAMPLES) - 1] };
}

/* rows of the records that the filters let through; `without` leaves one filter out */
function chosen(without) {
  const tests = [];
  for (const name of FILTERS) {
    const wanted = view.filters[name];
    if (wanted === undefined || name === without) continue;
    const code = C[name].of.findIndex((value) => text(value) === wanted);
    tests.push([C[name].at, code]);
  }
  return ROWS.filter((row) => tests.every(([codes, code]) => codes[row] === code));
}

function grouped(rows, key) {
  const found = new Map();
  for (const row of rows) {
    const name = key(row);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  }
  return found;
}

/* the mean of a group's cases: draws averaged over cells first, then over draws, then over tasks */
function summary(rows) {
  const good = rows.filter((row) => at("status", row) === "ok");
  if (!good.length) return { mean: NaN, low: NaN, high: NaN, cases: rows.length, failed: rows.length };
  const tasks = [...grouped(good, (row) => at("task", row)).values()];
  const draws = tasks.map((of) => [...grouped(of, (row) => C.seed[row]).values()].map((cells) => mean(cells.map((row) => C.accuracy[row]))));
  return { ...hierarchical(draws), cases: rows.length, failed: rows.length - good.length };
}

function board(rows) {
  const lines = [...grouped(rows, (row) => at("entry", row))].map(([method, of]) => {
    const seconds = of.map((row) => C.seconds[row]).filter((value) => value !== null);
    const tracks = [...new Set(of.map((row) => at("track", row)))].sort().join("/");
    const overlaps = of.map((row) => C.magnitude_overlap[row]).filter((value) => value !== null);
    return { method, track: tracks, ...summary(of), seconds: seconds.length ? mean(seconds) : NaN, overlap: overlaps.length ? mean(overlaps) : NaN };
  });
  const sign = view.down ? -1 : 1, name = view.sort;
  lines.sort((a, b) => {
    const x = a[name], y = b[name];
    if (typeof x === "number") return (Number.isFinite(x) ? 0 : 1) - (Number.isFinite(y) ? 0 : 1) || sign * (x - y) || (a.method < b.method ? -1 : 1);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
  return lines;
}

const LEFT = ["method", "track", "task", "reason"];
const COLUMNS = [["method", "method"], ["mean", "accuracy, %"], ["track", "track"], ["overlap", "shared with magnitude, %"], ["seconds", "seconds"], ["cases", "cases"], ["failed", "failed"]];

function head(table, columns, sortable) {
  const row = make("tr");
  if (sortable) row.append(make("th", { scope: "col" }, make("span", {}, "draw")));
  for (const [name, label] of columns) {
    const cell = make("th", { scope: "col", className: LEFT.includes(name) ? "left" : "" });
    if (sortable) {
      cell.append(make("button", { type: "button", onclick: () => { view.down = view.sort === name ? !view.down : !["method", "track"].includes(name); view.sort = name; save(); } }, label));
      cell.setAttribute("aria-sort", view.sort === name ? (view.down ? "descending" : "ascending") : "none");
    } else cell.append(make("bdi", {}, label));
    row.append(cell);
  }
  table.replaceChildren(make("thead", {}, row));
}

function drawBoard(lines) {
  const table = $("board"), body = make("tbody");
  const most = Math.max(...lines.map((line) => line.cases));
  head(table, COLUMNS, true);
  for (const line of lines) {
    const tick = make("input", { type: "checkbox", checked: shown(lines).includes(line.method), onchange: () => {
      const drawn = new Set(shown(lines));
      if (tick.checked) drawn.add(line.method); else drawn.delete(line.method);
      view.drawn = [...drawn];
      save();
    } });
    tick.setAttribute("aria-label", `draw ${line.method}`);
    const open = make("button", { type: "button", className: "open", onclick: () => { view.open = line.method; save(); $("cases").focus(); } }, make("bdi", {}, line.method));
    const ends = Number.isFinite(line.low) ? ` [${points(line.low)}, ${points(line.high)}]` : "";
    body.append(make("tr", {}, make("td", {}, tick), make("th", { scope: "row" }, open),
      make("td", {}, make("span", { className: "strong" }, points(line.mean)), ends), make("td", { className: "left" }, line.track),
      make("td", {}, points(line.overlap)), make("td", {}, Number.isFinite(line.seconds) ? line.seconds.toPrecision(2) : ""),
      make("td", { className: line.cases < most ? "few" : "" }, line.cases < most ? `${line.cases} of ${most}` : text(line.cases)), make("td", {}, line.failed ? text(line.failed) : "")));
  }
  table.append(body);
}

const shown = (lines) => view.drawn ?? lines.filter((line) => Number.isFinite(line.mean)).slice(0, DRAWN).map((line) => line.method);

function svg(tag, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function chart(figure, axis, label, methods, logarithmic) {
  const W = 460, H = 280, left = 38, right = 8, top = 10, bottom = 36;
  const rows = chosen(axis), values = [...new Set(rows.map((row) => at(axis, row)))].sort((a, b) => a - b);
  const place = logarithmic ? Math.log : (value) => value;
  const [first, last] = [place(values[0]), place(values[values.length - 1])];
  const x = (value) => left + 14 + (W - left - right - 28) * (values.length < 2 ? 0.5 : (place(value) - first) / (last - first));
  const y = (value) => top + (H - top - bottom) * (1 - value);
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Accuracy against ${label}; the numbers stand in the leaderboard for each ${axis}` });
  for (const level of [0, 0.25, 0.5, 0.75, 1]) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: y(level), y2: y(level) }), svg("text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, String(100 * level)));
  }
  for (const value of values) drawing.append(svg("text", { x: x(value), y: H - bottom + 16, "text-anchor": "middle" }, axis === "sparsity" ? percent(value) : text(value)));
  drawing.append(svg("text", { x: (W + left) / 2, y: H - 4, "text-anchor": "middle" }, label));
  const byMethod = grouped(rows, (row) => at("entry", row));
  methods.forEach((method, number) => {
    const of = byMethod.get(method) ?? [];
    const colour = COLOURS[number % COLOURS.length], dash = DASHES[Math.floor(number / COLOURS.length) % DASHES.length];
    const dots = [...grouped(of, (row) => at(axis, row))].sort((a, b) => a[0] - b[0]).map(([value, cell]) => [value, summary(cell)]).filter(([, found]) => Number.isFinite(found.mean));
    const shift = (number - (methods.length - 1) / 2) * 2;
    drawing.append(svg("polyline", { points: dots.map(([value, found]) => `${x(value) + shift},${y(found.mean)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
    for (const [value, found] of dots) {
      const tip = svg("title", {}, `${method}, ${axis === "sparsity" ? percent(value) : `${value} samples`}: ${points(found.mean)} [${points(found.low)}, ${points(found.high)}]`);
      if (Number.isFinite(found.low)) drawing.append(svg("line", { x1: x(value) + shift, x2: x(value) + shift, y1: y(Math.min(1, found.high)), y2: y(Math.max(0, found.low)), stroke: colour, "stroke-opacity": 0.5 }));
      drawing.append(svg("circle", { cx: x(value) + shift, cy: y(found.mean), r: 3.5, fill: colour }, tip));
    }
  });
  figure.replaceChildren(drawing);
}

function drawLegend(methods) {
  $("legend").replaceChildren(...methods.map((method, number) => {
    const line = svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: COLOURS[number % COLOURS.length], "stroke-width": 2, "stroke-dasharray": DASHES[Math.floor(number / COLOURS.length) % DASHES.length] }));
    return make("span", {}, line, make("bdi", {}, method));
  }));
}

function drawMatrix(rows, lines) {
  const methods = [...new Set([...shown(lines), ...lines.map((line) => line.method)])].slice(0, MATRIX), table = $("matrix");
  const scores = new Map(methods.map((method) => [method, new Map()]));
  for (const row of rows) {
    const of = scores.get(at("entry", row));
    if (of && C.accuracy[row] !== null) of.set([C.task.at[row], C.seed[row], C.budget.at[row], C.sparsity.at[row], C.recovery.at[row], C.setting.at[row]].join(), C.accuracy[row]);
  }
  head(table, [["", "row minus column"], ...methods.map((method) => [method, method])], false);
  const body = make("tbody");
  for (const one of methods) {
    const line = make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, one)));
    for (const other of methods) {
      const cell = make("td");
      if (one !== other) {
        const pairs = [];
        for (const [key, value] of scores.get(one)) if (scores.get(other).has(key)) pairs.push(value - scores.get(other).get(key));
        const found = student(pairs);
        cell.textContent = pairs.length ? (found.mean > 0 ? "+" : "") + points(found.mean) : "";
        cell.className = (found.low > 0 || found.high < 0 ? "strong " : "") + (found.mean > 0 ? "up" : "down");
        cell.title = `${pairs.length} pairs, [${points(found.low)}, ${points(found.high)}]`;
      }
      line.append(cell);
    }
    body.append(line);
  }
  table.append(body);
}

function drawRecoveries(lines) {
  const rows = chosen("recovery"), table = $("recoveries");
  const names = [...new Set(rows.map((row) => at("recovery", row)))].sort((a, b) => (a === "none" ? -1 : b === "none" ? 1 : a < b ? -1 : 1));
  head(table, [["method", "method"], ...names.map((name) => [name, name])], false);
  const byMethod = grouped(rows, (row) => at("entry", row)), body = make("tbody");
  for (const { method } of lines) {
    const byRecovery = grouped(byMethod.get(method) ?? [], (row) => at("recovery", row));
    const cells = names.map((name) => { const found = summary(byRecovery.get(name) ?? []); return make("td", {}, points(found.mean), found.failed ? ` (${found.failed} failed)` : ""); });
    body.append(make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, method)), ...cells));
  }
  table.append(body);
}

function drawFailures(rows) {
  const failed = rows.filter((row) => at("status", row) === "failed"), table = $("failed"), body = make("tbody");
  head(table, [["task", "task"], ["method", "method"], ["budget", "budget"], ["cases", "cases"], ["reason", "reason"]], false);
  for (const of of grouped(failed, (row) => ["task", "method", "budget", "reason"].map((name) => text(at(name, row))).join("\n")).values()) {
    const [row] = of;
    body.append(make("tr", {}, make("td", {}, make("bdi", {}, text(at("task", row)))), make("td", { className: "left" }, make("bdi", {}, text(at("entry", row)))), make("td", {}, text(at("budget", row))), make("td", {}, text(of.length)), make("td", { className: "left wrap" }, make("bdi", {}, text(at("reason", row))))));
  }
  if (!failed.length) body.append(make("tr", {}, make("td", { colSpan: 5 }, "None in this view.")));
  table.append(body);
}

function drawCases(rows) {
  const table = $("list");
  if (view.open === null) { table.replaceChildren(); $("which").textContent = "Open a method in the leaderboard to list its cases."; return; }
  const of = rows.filter((row) => at("entry", row) === view.open), body = make("tbody");
  $("which").replaceChildren(make("bdi", {}, view.open), `: ${of.length} cases in this view${of.length > LISTED ? `, the first ${LISTED} are listed; filter for the others` : ""}.`);
  head(table, [["", "case"], ...["task", "budget", "draw", "sparsity", "recovery", "accuracy, %", "status"].map((name) => [name, name])], false);
  for (const row of of.slice(0, LISTED)) {
    const open = make("button", { type: "button", className: "open", onclick: () => record(row) }, "record");
    const cells = [at("task", row), at("budget", row), C.seed[row], percent(at("sparsity", row)), at("recovery", row), C.accuracy[row] === null ? "" : points(C.accuracy[row], 2), at("status", row)];
    body.append(make("tr", {}, make("td", {}, open), ...cells.map((cell) => make("td", {}, make("bdi", {}, text(cell))))));
  }
  table.append(body);
}

function record(row) {
  const body = make("tbody");
  for (const name of Object.keys(C).filter((name) => name !== "entry")) body.append(make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, name)), make("td", { className: "left wrap" }, make("bdi", {}, text(at(name, row))))));
  $("fields").replaceChildren(body);
  $("record").showModal();
}

function draw() {
  const began = performance.now();
  for (const name of FILTERS) $(`filter-${name}`).value = view.filters[name] ?? "";
  const rows = chosen(), lines = board(rows), methods = shown(lines);
  const said = FILTERS.filter((name) => view.filters[name] !== undefined).map((name) => `${name} ${view.filters[name]}`);
  $("about").textContent = `${rows.length} cases of ${lines.length} methods${said.length ? `: ${said.join(", ")}` : ""}.`;
  drawBoard(lines);
  if (rows.length) { chart($("by-sparsity"), "sparsity", "removed", methods, false); chart($("by-budget"), "budget", "calibration samples", methods, true); }
  drawLegend(methods);
  drawMatrix(rows, lines);
  drawRecoveries(lines);
  drawFailures(rows);
  drawCases(rows);
  document.body.dataset.milliseconds = (performance.now() - began).toFixed(1);
}

function save() {
  const found = new URLSearchParams(view.filters);
  if (view.sort !== "mean" || !view.down) found.set("sort", (view.down ? "-" : "") + view.sort);
  if (view.drawn) found.set("draw", JSON.stringify(view.drawn));
  if (view.open !== null) found.set("open", view.open);
  $("permalink").href = `#${found}`;
  history.replaceState(null, "", `#${found}`);
  draw();
}

function restore() {
  const found = new URLSearchParams(location.hash.slice(1));
  view.filters = Object.fromEntries(FILTERS.filter((name) => found.has(name) && C[name].of.some((value) => text(value) === found.get(name))).map((name) => [name, found.get(name)]));
  const sort = found.get("sort") ?? "-mean", named = sort.replace(/^-/, "");
  view.sort = COLUMNS.some(([name]) => name === named) ? named : "mean";
  view.down = sort.startsWith("-");
  try { view.drawn = found.has("draw") ? JSON.parse(found.get("draw")).map(String) : null; } catch { view.drawn = null; }
  view.open = found.get("open");
  $("permalink").href = `#${found}`;
  draw();
}

async function start() {
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  };
  const packed = Uint8Array.from(atob($("data").textContent), (char) => char.charCodeAt(0));
  const stream = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  const payload = JSON.parse(await stream.text());
  [C, N] = [payload.columns, payload.count];
  ROWS = Array.from({ length: N }, (_, row) => row);
  $("provenance").textContent = payload.provenance;
  for (const name of FILTERS) {
    const select = make("select", { id: `filter-${name}`, onchange: () => { if (select.value === "") delete view.filters[name]; else view.filters[name] = select.value; save(); } }, make("option", { value: "" }, "all"));
    const values = [...C[name].of].sort((a, b) => typeof a === "number" ? a - b : text(a) < text(b) ? -1 : 1);
    for (const value of values) select.append(make("option", { value: text(value) }, name === "sparsity" ? percent(value) : text(value)));
    $("filters").append(make("label", { htmlFor: select.id }, name, select));
  }
  $("reset").onclick = () => { view.filters = {}; view.drawn = view.open = null; view.sort = "mean"; view.down = true; save(); };
  $("filters").onsubmit = (event) => event.preventDefault();
  addEventListener("hashchange", () => { if (!$(location.hash.slice(1))) restore(); }); /* a link within the page is no view */
  document.querySelector("main").hidden = false;
  $("notice").hidden = true;
  restore();
  document.body.dataset.ready = "yes";
}
start().catch((error) => { $("notice").textContent = `The records could not be read: ${error.message}. A browser from 2023 or later is needed.`; });
