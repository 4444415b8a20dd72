/* accuracy against what was removed, against samples, against what the shrunk network costs */
const COLOURS = 6, DASHES = ["", "6 3", "2 3"];
const look = (number) => ({ stroke: `var(--c${number % COLOURS})`, "stroke-width": 2, "stroke-dasharray": DASHES[Math.floor(number / COLOURS) % DASHES.length] });
const W = 460, H = 270, LEFT_EDGE = 38, RIGHT_EDGE = 8, TOP = 10, BOTTOM = 36;

function svg(tag, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/* about four round values from low to high, and the step between them */
function ticks(low, high) {
  const rough = (high - low || 1) / 4, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => unit * factor >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, place) => +((first + place) * step).toPrecision(12));
}

/* one line a method through its dots {x, tip, mean, low, high}; `labels` are the axis's [value, words] */
function chart(figure, label, lines, labels, place) {
  const dots = lines.flatMap((line) => line.dots);
  const ends = dots.flatMap((dot) => [dot.mean, dot.low, dot.high]).filter(Number.isFinite).map((value) => Math.min(1, Math.max(0, value)));
  const bottom = Math.min(...ends), top = Math.max(...ends), room = 0.04 * (top - bottom || 0.1);
  const [low, high] = [Math.max(0, bottom - room), Math.min(1, top + room)];
  const places = [...labels.map(([value]) => value), ...dots.map((dot) => dot.x)].map(place), first = Math.min(...places), last = Math.max(...places);
  const x = (value) => LEFT_EDGE + 20 + (W - LEFT_EDGE - RIGHT_EDGE - 40) * (last > first ? (place(value) - first) / (last - first) : 0.5);
  const y = (value) => TOP + (H - TOP - BOTTOM) * (1 - (Math.min(high, Math.max(low, value)) - low) / (high - low));
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Accuracy against ${label}; the numbers stand in the leaderboard` });
  for (const level of ticks(100 * low, 100 * high)) {
    drawing.append(svg("line", { class: "grid", x1: LEFT_EDGE, x2: W - RIGHT_EDGE, y1: y(level / 100), y2: y(level / 100) }), svg("text", { x: LEFT_EDGE - 6, y: y(level / 100) + 4, "text-anchor": "end" }, String(level)));
  }
  for (const [value, words] of labels) drawing.append(svg("text", { x: x(value), y: H - BOTTOM + 16, "text-anchor": "middle" }, words));
  drawing.append(svg("text", { x: (W + LEFT_EDGE) / 2, y: H - 4, "text-anchor": "middle" }, `accuracy, %, against ${label}`));
  lines.forEach(({ method, dots: of }, number) => {
    const style = look(number), shift = (number - (lines.length - 1) / 2) * 2;
    drawing.append(svg("polyline", { points: of.map((dot) => `${x(dot.x) + shift},${y(dot.mean)}`).join(" "), fill: "none", ...style }));
    for (const dot of of) {
      if (Number.isFinite(dot.low)) drawing.append(svg("line", { x1: x(dot.x) + shift, x2: x(dot.x) + shift, y1: y(dot.high), y2: y(dot.low), stroke: style.stroke, "stroke-opacity": 0.6 }));
      drawing.append(svg("circle", { cx: x(dot.x) + shift, cy: y(dot.mean), r: 3.5, fill: style.stroke }, svg("title", {}, `${method}, ${dot.tip}: ${points(dot.mean)} ${interval(dot)}`)));
    }
  });
  figure.replaceChildren(drawing);
}

/* the dots of each method among rows, one for each value of a field; `x` places a dot */
function dotted(rows, methods, axis, x, tip) {
  const byMethod = grouped(rows, (row) => at("entry", row));
  return methods.map((method) => {
    const cells = [...grouped(byMethod.get(method) ?? [], (row) => at(axis, row))].sort((a, b) => a[0] - b[0]);
    const dots = cells.map(([value, of]) => ({ x: x(value, of), tip: tip(value, of), ...summary(of) }));
    return { method, dots: dots.filter((dot) => Number.isFinite(dot.mean) && Number.isFinite(dot.x)) };
  });
}

function along(figure, axis, label, methods, place, words) {
  const rows = chosen(axis), lines = dotted(rows, methods, axis, (value) => value, words);
  const values = [...new Set(rows.map((row) => at(axis, row)))].sort((a, b) => a - b);
  chart(figure, label, lines, values.map((value) => [value, told(axis, value)]), place);
}

function drawCharts(methods) {
  along($("by-sparsity"), "sparsity", "share removed", methods, (value) => value, percent);
  along($("by-budget"), "budget", "calibration samples", methods, (value) => Math.log(Math.max(1, value)), (value) => `${value} samples`);
  const rows = chosen("sparsity");
  $("costs").hidden = !costly(rows);
  if (!costly(rows)) return;
  const cost = COSTS.find(({ name }) => name === view.cost), { label } = cost, scale = label.endsWith("%") ? 100 : label.endsWith("ms") ? 1000 : 1;
  const lines = dotted(rows, methods, "sparsity", (_, of) => scale * averaged(of, cost.of), (value, of) => `${percent(value)} removed, ${label} ${cost.show(averaged(of, cost.of))}`);
  const values = lines.flatMap((line) => line.dots.map((dot) => dot.x));
  if (values.length) chart($("by-cost"), label, lines, ticks(Math.min(...values), Math.max(...values)).map((value) => [value, text(value)]), (value) => value);
  else $("by-cost").replaceChildren(make("p", { className: "small" }, "No record in view tells it."));
}

function drawLegend(methods) {
  $("legend").replaceChildren(...methods.map((method, number) => {
    const line = svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, ...look(number) }));
    return make("span", {}, line, make("bdi", {}, method));
  }));
}
