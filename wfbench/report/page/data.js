"use strict";
/* the records by column, which of them are in view, and the statistics on them */
const FILTERS = ["suite", "task", "budget", "sparsity", "recovery", "track", "pattern_kind", "draw_kind"];
const SEARCH = "search";
const LABELS = { budget: "samples", sparsity: "removed", track: "method sees", pattern_kind: "pattern", draw_kind: "draw kind" };
const RESAMPLES = 400;
const DRAWS = 3; /* the least that have an interval */
const WIDE = 0.25; /* a speed-up whose range is wider than this share of it says nothing */
const T = [NaN, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
  2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045];
let C = {}, ROWS = [], OPENINGS = {}, REPORTED = [];
const view = { filters: {}, find: "", sort: "mean", down: true, drawn: null, open: null, cost: "macs" };

const text = (value) => value === null || value === undefined ? "" : String(value);
const at = (column, row) => { const found = C[column]; return found === undefined ? null : found.of ? found.of[found.at[row]] : found[row]; };
const percent = (value) => `${+(100 * value).toFixed(4)} %`;
const points = (value, digits = 1) => Number.isFinite(value) ? (100 * value).toFixed(digits) : "";
const interval = (found) => Number.isFinite(found.low) ? `[${points(found.low)}, ${points(found.high)}]` : "";
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const told = (name, value) => name === "sparsity" ? percent(value) : text(value);

/* what a shrunk network costs: the only place that reads it; null where a record does not tell */
const share = (name) => (row) => at(name, row) === null ? null : at(name, row) / at(`dense_${name}`, row);
const steady = (row) => {
  const [first] = JSON.parse(at("latencies", row) ?? "[]");
  return first && first.high - first.low <= WIDE * first.median ? first : null;
};
const COSTS = [
  { name: "macs", label: "MACs, %", of: share("macs"), show: (value) => points(value) },
  { name: "params", label: "parameters, %", of: share("params"), show: (value) => points(value) },
  { name: "latency", label: "latency, ms", of: (row) => steady(row)?.latency ?? null, show: (value) => (1000 * value).toPrecision(3) },
  { name: "speed", label: "speed-up", of: (row) => steady(row)?.median ?? null, show: (value) => value.toFixed(2) },
];
const costly = (rows) => rows.some((row) => at("macs", row) !== null);
const averaged = (rows, of) => { const found = rows.map(of).filter((value) => value !== null); return found.length ? mean(found) : NaN; };

function student(values) {
  const n = values.length;
  const centre = n ? mean(values) : NaN;
  if (n < DRAWS) return { mean: centre, low: NaN, high: NaN };
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
  if (tasks.some((draws) => draws.length < DRAWS)) return { mean: mean(tasks.map(mean)), low: NaN, high: NaN };
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

/* what is asked of a row: [name, codes, the codes that pass] for every filter that is set, and for the search */
function asked() {
  const found = [];
  for (const name of FILTERS) {
    if (view.filters[name] === undefined) continue;
    found.push([name, C[name].at, new Set([C[name].of.findIndex((value) => text(value) === view.filters[name])])]);
  }
  const wanted = view.find.trim().toLowerCase();
  const codes = C.entry.of.map((entry, code) => entry.toLowerCase().includes(wanted) ? code : -1);
  if (wanted) found.push([SEARCH, C.entry.at, new Set(codes)]);
  return found;
}

/* rows of the records that are let through; `without` leaves one filter out */
function chosen(without) {
  const tests = asked().filter(([name]) => name !== without);
  return ROWS.filter((row) => tests.every(([, codes, passing]) => passing.has(codes[row])));
}

/* for every filter: how many cases each option would give beside the others, and what stands in the way of none */
function counted() {
  const tests = asked();
  const found = Object.fromEntries(FILTERS.map((name) => [name, C[name].of.map(() => ({ cases: 0, against: new Set() }))]));
  for (const row of ROWS) {
    const failing = tests.filter(([, codes, passing]) => !passing.has(codes[row])).map(([name]) => name);
    if (failing.length > 2) continue;
    for (const name of FILTERS) {
      const others = failing.filter((other) => other !== name), option = found[name][C[name].at[row]];
      if (!others.length) option.cases++;
      else if (others.length === 1) option.against.add(others[0]);
    }
  }
  return found;
}

const known = (name) => LABELS[name] ?? name;
const inTheWay = (against) => against.size ? `none with this ${[...against].map(known).join(" or ")}` : "none with these choices";

/* why nothing is in view: what to let go of */
function nothing() {
  const tests = asked();
  const alone = tests.map(([name]) => name).filter((name) => chosen(name).length);
  const said = tests.map(([name]) => name === SEARCH ? `a name with “${view.find.trim()}”` : `${known(name)} ${told(name, view.filters[name])}`);
  return `No case has ${said.join(", ")} together. ${alone.length ? `Let go of ${alone.map(known).join(" or ")}` : "Let go of several, or show everything"}.`;
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

/* the best of a cell, and who is level with it: the 95 % interval of the difference, paired by draw, reaches zero.
   A failed draw scores chance. The same rule as the tables of leaders. */
function leader(rows) {
  const scores = new Map();
  for (const [entry, of] of grouped(rows, (row) => at("entry", row))) {
    const draws = grouped(of, (row) => C.seed[row]);
    scores.set(entry, new Map([...draws].map(([seed, cells]) => [seed, mean(cells.map((row) => at("status", row) === "ok" ? C.accuracy[row] : at("chance", row) ?? 0))])));
  }
  const order = [...scores].map(([entry, draws]) => [entry, mean([...draws.values()])]).sort((a, b) => +(b[1] - a[1]).toFixed(9) || (a[0] < b[0] ? -1 : 1));
  if (!order.length) return null;
  const best = scores.get(order[0][0]);
  const level = order.slice(1).map(([entry]) => entry).filter((entry) => {
    const against = [...scores.get(entry)].filter(([seed]) => best.has(seed)).map(([seed, value]) => value - best.get(seed));
    return student(against).high >= -1e-9;
  });
  return { best: order[0][0], mean: order[0][1], level, draws: best.size, methods: order.length };
}
