/* the answer in one sentence, and the leaderboard */
const DRAWN = 6, NAMED = 4, WHISKER = 100;
const $ = (id) => document.getElementById(id);
const ASCENDING = ["method", "track", "macs", "params", "latency", "seconds"];
const shown = (lines) => view.drawn ?? lines.filter((line) => Number.isFinite(line.mean)).slice(0, DRAWN).map((line) => line.method);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/* in what rows differ besides method and draw: only where in nothing, one of them leads */
const pooled = (rows) => ["task", "budget", "sparsity", "recovery", "pattern_kind", "draw_kind"].filter((name) => new Set(rows.map((row) => C[name].at[row])).size > 1);

function levelWords({ level, draws, methods }) {
  if (methods < 2) return "no other method is in view";
  if (draws < 2) return "one draw: no telling who is level";
  const more = level.length - NAMED;
  return level.length ? `level with it: ${level.slice(0, NAMED).join(", ")}${more > 0 ? ` and ${more} more` : ""}` : "nobody is level with it";
}

function drawAnswer(rows) {
  const over = pooled(rows), found = rows.length && !over.length ? leader(rows) : null, [row] = rows;
  $("where").textContent = "";
  if (!rows.length) $("said").textContent = nothing();
  else if (!found) $("said").textContent = `To see who leads, choose one each of: ${over.map(known).join(", ")}. Here they are pooled.`;
  else {
    const dense = averaged(rows, (one) => at("dense_accuracy", one)), level = averaged(rows, (one) => at("reference", one));
    $("said").replaceChildren(`With ${at("budget", row)} samples: `, make("strong", {}, make("bdi", {}, found.best), ` ${points(found.mean)} %`), "; ", make("bdi", {}, levelWords(found)), ".");
    $("where").replaceChildren(make("bdi", {}, text(at("task", row))), Number.isFinite(dense) ? `, dense ${points(dense)} %` : "", at("recovery", row) !== "none" && Number.isFinite(level) ? ` (${points(level)} % with ${at("recovery", row)})` : "", `; ${percent(at("sparsity", row))} removed; recovery ${at("recovery", row)}; `,
      text(at("setting", row)) && `${at("setting", row)}; `, `${found.methods} methods, ${found.draws} draws${view.find ? "; of the names searched for" : ""}.`);
  }
  drawLeaders(rows.length && over.every((name) => ["budget", "recovery"].includes(name)) ? ROWS.filter(within("budget", "recovery")) : []);
  return found;
}

/* the best method of every number of samples and recovery */
function drawLeaders(rows) {
  const table = $("leaders"), body = make("tbody"), byBudget = grouped(rows, (row) => at("budget", row));
  const names = [...new Set(rows.map((row) => at("recovery", row)))].sort((a, b) => (a === "none" ? -1 : b === "none" ? 1 : a < b ? -1 : 1));
  $("by-samples").hidden = !rows.length;
  head(table, [["", "samples"], ...names.map((name) => ["level", name === "none" ? "no recovery" : name])]);
  for (const [budget, of] of [...byBudget].sort((a, b) => a[0] - b[0])) {
    const byRecovery = grouped(of, (row) => at("recovery", row)), line = make("tr", {}, make("th", { scope: "row" }, text(budget)));
    for (const name of names) {
      const found = byRecovery.has(name) ? leader(byRecovery.get(name)) : null, here = view.filters.budget === text(budget) && view.filters.recovery === name;
      if (!found) { line.append(make("td", { className: "left" }, "–")); continue; }
      const words = make("bdi", {}, found.best), level = found.methods < 2 ? " (no other)" : found.level.length ? ` (${found.level.length} level)` : "";
      line.append(make("td", { className: here ? "left here" : "left", title: levelWords(found) }, words, " ", make("span", { className: "strong" }, points(found.mean)), make("span", { className: "soft" }, level)));
    }
    body.append(line);
  }
  table.append(body);
}

function board(rows) {
  const costs = costly(rows);
  const lines = [...grouped(rows, (row) => at("entry", row))].map(([method, of]) => ({
    method, track: [...new Set(of.map((row) => at("track", row)))].sort().join("/"), ...summary(of),
    seconds: averaged(of, (row) => C.seconds[row]), overlap: averaged(of, (row) => C.magnitude_overlap[row]),
    ...(costs ? Object.fromEntries(COSTS.map((cost) => [cost.name, averaged(of, cost.of)])) : {}),
  }));
  const sign = view.down ? -1 : 1, name = view.sort;
  const compare = (a, b) => {
    const x = a[name], y = b[name];
    if (typeof x !== "number") return sign * (x < y ? -1 : x > y ? 1 : 0);
    return (Number.isFinite(x) ? 0 : 1) - (Number.isFinite(y) ? 0 : 1) || (Number.isFinite(x) ? sign * (x - y) : 0);
  };
  return lines.sort((a, b) => compare(a, b) || (a.method < b.method ? -1 : 1));
}

const columns = (costs) => [["method", "method"], ["mean", "accuracy, %"], ["", "interval"], ...(costs ? COSTS.map(({ name, label }) => [name, label]) : []),
  ["track", "sees"], ["overlap", "shared\u00a0with magnitude, %"], ["seconds", "seconds"], ["cases", "cases"], ["failed", "failed"]];
const SORTABLE = columns(true).map(([name]) => name).filter(Boolean);

function sortBy(name) {
  view.down = view.sort === name ? !view.down : !ASCENDING.includes(name);
  view.sort = name;
  save();
}

function boardHead(costs, low, high) {
  const row = make("tr", {}, make("th", { scope: "col" }, "draw"));
  for (const [name, words] of columns(costs)) {
    const label = words.replace(", ", ",\u00a0"); /* a unit stays with its word */
    const cell = make("th", { scope: "col", className: LEFT.includes(name) ? "left" : "" });
    if (name) {
      cell.append(make("button", { type: "button", onclick: () => sortBy(name) }, label));
      cell.setAttribute("aria-sort", view.sort === name ? (view.down ? "descending" : "ascending") : "none");
    } else { cell.append(Number.isFinite(low) ? `${label}, ${points(low, 0)} to ${points(high, 0)} %` : label); cell.className = "whisker"; }
    row.append(cell);
  }
  return make("thead", {}, row);
}

/* from where to where intervals are drawn: the better half of the methods, so that the leaders can be told apart */
function scale(lines) {
  const better = lines.filter((line) => Number.isFinite(line.mean)).sort((a, b) => b.mean - a.mean), half = better.slice(0, Math.ceil(better.length / 2));
  const ends = half.flatMap((line) => [line.mean, line.low, line.high]).filter(Number.isFinite).map((value) => Math.min(1, Math.max(0, value)));
  return [Math.floor(100 * Math.min(...ends)) / 100, Math.ceil(100 * Math.max(...ends)) / 100];
}

/* mean and interval as a dot with a line, on one scale for all rows; an arrow where the mean is below it */
function whisker(line, low, high) {
  const drawing = svg("svg", { viewBox: `0 0 ${WHISKER} 14`, width: WHISKER, height: 14, "aria-hidden": "true" });
  if (!Number.isFinite(line.mean)) return drawing;
  const x = (value) => 5 + (WHISKER - 10) * (high > low ? (Math.min(high, Math.max(low, value)) - low) / (high - low) : 0.5);
  drawing.append(svg("line", { class: "grid", x1: 5, x2: WHISKER - 5, y1: 7, y2: 7 }));
  if (Number.isFinite(line.low) && line.high > low) drawing.append(svg("line", { class: "range", x1: x(line.low), x2: x(line.high), y1: 7, y2: 7 }));
  drawing.append(line.mean < low ? svg("path", { class: "dot", d: "M7 3 L2 7 L7 11 Z" }) : svg("circle", { class: "dot", cx: x(line.mean), cy: 7, r: 3.5 }));
  return drawing;
}

function drawBoard(lines, rows, found) {
  const table = $("board"), body = make("tbody"), costs = costly(rows), most = Math.max(...lines.map((line) => line.cases)), drawn = shown(lines);
  const [low, high] = scale(lines);
  for (const line of lines) {
    const tick = make("input", { type: "checkbox", checked: drawn.includes(line.method), onchange: () => {
      view.drawn = tick.checked ? [...drawn, line.method] : drawn.filter((method) => method !== line.method);
      save();
    } });
    tick.setAttribute("aria-label", `draw ${line.method}`);
    const open = make("button", { type: "button", className: "open", onclick: () => { view.open = line.method; save(); $("cases").focus(); } }, make("bdi", {}, line.method));
    const place = found === null ? "" : line.method === found.best ? "best" : found.level.includes(line.method) ? "level" : "";
    body.append(make("tr", { className: place }, make("td", {}, tick), make("th", { scope: "row" }, open, place ? make("span", { className: "tag" }, place) : ""),
      make("td", {}, make("span", { className: "strong" }, points(line.mean) || "–"), " ", make("span", { className: "ends" }, interval(line))), make("td", { className: "whisker" }, whisker(line, low, high)),
      ...(costs ? COSTS.map((cost) => make("td", {}, Number.isFinite(line[cost.name]) ? cost.show(line[cost.name]) : "–")) : []), make("td", { className: "left" }, line.track),
      make("td", {}, points(line.overlap)), make("td", {}, Number.isFinite(line.seconds) ? String(+line.seconds.toPrecision(2)) : ""),
      make("td", { className: line.cases < most ? "few" : "" }, line.cases < most ? `${line.cases} of ${most}` : text(line.cases)), make("td", {}, line.failed ? text(line.failed) : "")));
  }
  if (!lines.length) body.append(make("tr", {}, make("td", { colSpan: columns(costs).length + 1, className: "left" }, nothing())));
  table.replaceChildren(boardHead(costs, low, high), body);
}
