/* the tables below the leaderboard */
const MATRIX = 12, LISTED = 200;
const LEFT = ["method", "track", "task", "reason", "level", "schedule"];

function head(table, columns) {
  const cells = columns.map(([name, label]) => make("th", { scope: "col", className: LEFT.includes(name) ? "left" : "" }, make("bdi", {}, label)));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...cells)));
}

function drawMatrix(rows, lines) {
  const methods = [...new Set([...shown(lines), ...lines.map((line) => line.method)])].slice(0, MATRIX), table = $("matrix");
  const scores = new Map(methods.map((method) => [method, new Map()]));
  for (const row of rows) {
    const of = scores.get(at("entry", row));
    if (of && C.accuracy[row] !== null) of.set([C.task.at[row], C.seed[row], C.budget.at[row], C.sparsity.at[row], C.recovery.at[row], C.setting.at[row]].join(), C.accuracy[row]);
  }
  head(table, [["", "row minus column"], ...methods.map((method) => ["", method])]);
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
        cell.title = `${pairs.length} pairs, ${interval(found)}`;
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
  head(table, [["method", "method"], ...names.map((name) => ["", name])]);
  const byMethod = grouped(rows, (row) => at("entry", row)), body = make("tbody");
  for (const { method } of lines) {
    const byRecovery = grouped(byMethod.get(method) ?? [], (row) => at("recovery", row));
    const cells = names.map((name) => { const found = summary(byRecovery.get(name) ?? []); return make("td", {}, points(found.mean), found.failed ? ` (${found.failed} failed)` : ""); });
    body.append(make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, method)), ...cells));
  }
  table.append(body);
}

/* figures of the literature: those of the task in view where it has any, else all */
function drawReported() {
  const task = text(view.filters.task).split("[")[0], theirs = REPORTED.filter((one) => one.task === task), table = $("reported"), body = make("tbody");
  const shares = [...new Set((theirs.length ? theirs : REPORTED).map((one) => one.sparsity))].sort((a, b) => a - b);
  const lines = new Map();
  for (const one of theirs.length ? theirs : REPORTED) {
    const key = [one.task, one.metric, one.method, one.schedule].join("\n");
    if (!lines.has(key)) lines.set(key, { ...one, at: new Map() });
    lines.get(key).at.set(one.sparsity, one.accuracy);
  }
  head(table, [["method", "method"], ["task", "task"], ["", "metric"], ["", "dense"], ...shares.map((share) => ["", `${+(100 * share).toFixed(1)} %`]), ["schedule", "how"]]);
  for (const one of lines.values()) {
    const cells = shares.map((share) => make("td", {}, one.at.has(share) ? one.at.get(share).toFixed(1) : ""));
    body.append(make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, one.method)), make("td", { className: "left" }, make("bdi", {}, one.task)), make("td", {}, one.metric), make("td", {}, one.dense.toFixed(1)), ...cells, make("td", { className: "left" }, one.schedule)));
  }
  table.append(body);
  $("of-view").textContent = theirs.length ? `These are of ${task}, the task in view.` : "They are of no task in view: other networks and data, so none of them can be held against a row above.";
}

function drawFailures(rows) {
  const failed = rows.filter((row) => at("status", row) === "failed"), table = $("failed"), body = make("tbody");
  head(table, [["task", "task"], ["method", "method"], ["budget", "samples"], ["cases", "cases"], ["reason", "reason"]]);
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
  head(table, [["", "case"], ...["task", "samples", "draw", "removed", "recovery", "accuracy, %", "status"].map((name) => ["", name])]);
  for (const row of of.slice(0, LISTED)) {
    const open = make("button", { type: "button", className: "open", onclick: () => record(row) }, "record");
    const cells = [at("task", row), at("budget", row), C.seed[row], percent(at("sparsity", row)), at("recovery", row), C.accuracy[row] === null ? "" : points(C.accuracy[row], 2), at("status", row)];
    body.append(make("tr", {}, make("td", {}, open), ...cells.map((cell) => make("td", {}, make("bdi", {}, text(cell))))));
  }
  table.append(body);
}

function record(row) {
  const body = make("tbody");
  for (const name of Object.keys(C).filter((name) => !DERIVED.includes(name))) body.append(make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, name)), make("td", { className: "left wrap" }, make("bdi", {}, text(at(name, row))))));
  $("fields").replaceChildren(body);
  $("record").showModal();
}
