"use strict";
const runs = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const view = { smooth: 0, axis: "step", log: false, hidden: new Set() };
const redraws = [];

// Every text is set as text, never as HTML: names of runs are the user's.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const colour = (n) => `var(--c${n % 8})`;
const dash = (n) => ["", "7 4", "2 3"][Math.floor(n / 8) % 3];

function key(n) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "key");
  shape(svg, "line", { x1: 0, y1: 2, x2: 22, y2: 2, stroke: colour(n), "stroke-width": 3, "stroke-dasharray": dash(n) });
  return svg;
}

// ---- numbers -----------------------------------------------------------------------------------

const plain = (v) => {
  if (v === null || v === undefined) return "–";
  const size = Math.abs(v);
  if (size >= 1e15 || (size < 1e-4 && size > 0)) return v.toExponential(3);
  if (size >= 1000) return v.toLocaleString("en", { maximumFractionDigits: size >= 1e5 ? 0 : 1 });
  return String(Number(v.toPrecision(5)));
};
const short = (v) => {
  const size = Math.abs(v);
  for (const [unit, factor] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]])
    if (size >= factor) return `${Number((v / factor).toPrecision(3))}${unit}`;
  return size < 1e-3 && size > 0 ? v.toExponential(0) : String(Number(v.toPrecision(3)));
};
// Of values that differ in their last digits.
const digits = (v) => String(Number(v.toPrecision(7))).replace(/^0\./, ".");
const percent = (v) => (v === null ? "–" : `${Number((100 * v).toPrecision(3))}%`);
const bytes = (v) => (v === null ? "–" : `${short(v)}B`);
const seconds = (v) => (v === null ? "–" : v < 1 ? `${Number((1000 * v).toPrecision(3))} ms` : `${Number(v.toPrecision(3))} s`);

// The first index whose value is not below x.
function search(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function tokensAt(run, step) {
  const curve = run.series.tokens;
  if (!curve) return step;
  const n = Math.min(search(curve.x, step), curve.x.length - 1);
  if (n === 0 || curve.x[n] === step) return curve.y[n] * (n === 0 ? step / curve.x[0] : 1);
  const share = (step - curve.x[n - 1]) / (curve.x[n] - curve.x[n - 1]);
  return curve.y[n - 1] + share * (curve.y[n] - curve.y[n - 1]);
}
const place = (run, step) => (view.axis === "tokens" ? tokensAt(run, step) : step);

// The mean of each value's neighbours, fewer of them near both ends.
function smoothed(values) {
  const half = Math.round((values.length * view.smooth) / 100 / 6);
  if (!half) return values;
  const sums = [0], counts = [0];
  values.forEach((v, n) => {
    sums.push(sums[n] + (v === null ? 0 : v));
    counts.push(counts[n] + (v === null ? 0 : 1));
  });
  return values.map((v, n) => {
    const reach = Math.min(half, n, values.length - 1 - n);
    const count = counts[n + reach + 1] - counts[n - reach];
    return count ? (sums[n + reach + 1] - sums[n - reach]) / count : null;
  });
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
  if (found.length < 2) return ticks(low, high, 4);
  return found.length > 9 ? found.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-6) : found;
}

// ---- charts ------------------------------------------------------------------------------------

// The lines of one key: a line a run.
const over = (name, options) => () =>
  runs.flatMap((run, n) =>
    run.series[name] && !view.hidden.has(n) ? [{ run, label: run.name, mark: n, curve: run.series[name], ...options }] : []);

// A table of the log, such as norms by part: one entry over all runs, or all entries of a run.
function table(prefix, whole, wholeLabel, name) {
  const entries = [...new Set(runs.flatMap((r) => Object.keys(r.series).filter((k) => k.startsWith(`${prefix}/`))))];
  entries.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const label = (k) => name + k.slice(prefix.length + 1).replaceAll("_", " ");
  const choices = runs.flatMap((run, n) => entries.some((k) => run.series[k]) ? [[`all of ${run.name}`, () =>
    view.hidden.has(n) ? [] : entries.flatMap((k, e) => (run.series[k] ? [{ run, label: label(k), mark: e, curve: run.series[k] }] : []))]] : []);
  if (whole) choices.unshift([wholeLabel, over(whole)]);
  for (const k of entries) choices.push([label(k), over(k)]);
  return entries.length ? choices : [];
}

const SECTIONS = [
  ["Loss", [
    { title: "Loss (nats per token)", lines: [over("loss"), over("valid_loss", { dots: true, suffix: ", held out" })], note: "points: held-out text", events: true },
    { title: "MTP loss", lines: [over("mtp_loss"), over("valid_mtp_loss", { dots: true, suffix: ", held out" })], note: "the token after next; points: held-out text" },
    { title: "MTP loss by layer", choices: table("mtp_loss_by_layer", null, "", "layer ") },
    { title: "MTP agrees with the main head", lines: [over("valid_mtp_agreement")], format: percent, note: "share of held-out tokens" },
    { title: "Router z-loss", lines: [over("z_loss")], note: "before its coefficient" },
  ]],
  ["Preferences", [
    { title: "Reward margin", lines: [over("reward_margin"), over("valid_reward_margin", { dots: true, suffix: ", held out" })], note: "chosen less rejected; points: held-out pairs" },
    { title: "Reward accuracy", lines: [over("reward_accuracy"), over("valid_reward_accuracy", { dots: true, suffix: ", held out" })], format: percent, note: "pairs with a margin above 0; points: held-out pairs" },
    { title: "Reward of chosen answers", lines: [over("chosen_reward"), over("valid_chosen_reward", { dots: true, suffix: ", held out" })] },
    { title: "Reward of rejected answers", lines: [over("rejected_reward"), over("valid_rejected_reward", { dots: true, suffix: ", held out" })] },
  ]],
  ["Optimisation", [
    { title: "Gradient norm", lines: [over("grad_norm")], note: "before clipping; crosses: skipped steps", events: true },
    { title: "Gradient norm by part", choices: table("grad_norms", null, "", "") },
    { title: "Learning rate", lines: [over("lr")], exact: true },
  ]],
  ["Speed", [
    { title: "Tokens per second", lines: [over("tokens_per_s")], zero: true },
    { title: "Trained tokens per second", lines: [over("trained_tokens_per_s")], zero: true, note: "of a fine-tuning, in which only answers are trained" },
    { title: "MFU", lines: [over("mfu")], zero: true, format: percent, note: "share of the peak of matrix products, measured on the same machine" },
    { title: "Time in communication", lines: [over("communication_share")], zero: true, format: percent, note: "share of a step, mean over ranks" },
    { title: "Time waiting for data", lines: [over("data_share")], zero: true, format: percent, note: "share of a step, mean over ranks" },
    { title: "Own work of a rank in a step", lines: [over("own_s")], zero: true, format: seconds, note: "without communication; line: mean, band: fastest to slowest rank" },
  ]],
  ["Memory", [
    { title: "Resident memory by rank", lines: [over("memory")], zero: true, format: bytes, note: "line: mean, band: least to most" },
    { title: "GPU memory by rank", lines: [over("gpu_memory")], zero: true, format: bytes, note: "peak of what was allocated; line: mean, band: least to most" },
  ]],
  ["Experts", [
    { title: "Expert load, max / mean", lines: [over("load_max_mean")], note: "mean over layers; 1 is even" },
    { title: "Router bias, largest", choices: table("router_bias", "router_bias", "largest of all layers", "layer "), note: "largest |bias| of an expert" },
    { title: "Router bias, change", choices: table("router_bias_change", "router_bias_change", "largest of all layers", "layer "), note: "mean |change| of an expert between two measurements" },
  ]],
  ["FP8", [
    { title: "Underflow", choices: table("fp8_underflow", "fp8_underflow", "largest of all parts", ""), zero: true, format: percent, note: "share of values that become 0" },
    { title: "Cosine with what is quantised", choices: table("fp8_cosine", null, "", ""), exact: true, note: "1: nothing is lost" },
  ]],
];

function present(chart) {
  if (chart.choices) return chart.choices.length > 0;
  return chart.lines.some((lines) => lines().length);
}

function addChart(parent, chart) {
  const figure = element("figure");
  const caption = element("figcaption", {}, element("h3", {}, chart.title));
  const select = element("select", { "aria-label": `${chart.title}: which` });
  if (chart.choices) {
    chart.choices.forEach(([label], n) => select.append(element("option", { value: n }, label)));
    caption.append(select);
  }
  if (chart.note) caption.append(element("span", { class: "quiet" }, chart.note));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", chart.title);
  const names = element("div", { class: "lines" });
  const tip = element("div", { class: "tip" });
  tip.hidden = true;
  figure.append(caption, svg, names, tip);
  parent.append(figure);
  const lines = () => (chart.choices ? chart.choices[select.value || 0][1]() : chart.lines.flatMap((each) => each()));
  let drawn = null;
  const redraw = () => {
    const found = lines();
    drawn = draw(svg, found, chart);
    const ofRun = chart.choices && found.some((line) => line.label !== line.run.name);
    names.replaceChildren(...(ofRun ? found.map((line) => element("span", {}, key(line.mark), line.label)) : []));
  };
  select.addEventListener("change", redraw);
  redraws.push(redraw);
  svg.addEventListener("pointermove", (event) => hover(event, svg, drawn, tip, chart.format || plain));
  svg.addEventListener("pointerleave", () => { tip.hidden = true; drawn?.cross.setAttribute("visibility", "hidden"); });
}

const EDGE = { left: 52, right: 12, top: 8, bottom: 22 };

function draw(svg, lines, chart) {
  svg.replaceChildren();
  const width = svg.clientWidth || 400, height = svg.clientHeight || 230;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const curves = lines.map((line) => {
    const xs = line.curve.x.map((step) => place(line.run, step));
    return { ...line, xs, ys: line.dots || chart.exact ? line.curve.y : smoothed(line.curve.y) };
  });
  const isGood = (v) => v !== null && (!view.log || v > 0);
  const all = curves.flatMap((c) => [...c.ys, ...c.curve.y, ...(c.curve.lo || []), ...(c.curve.hi || [])].filter(isGood));
  if (!all.length) {
    shape(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, lines.length ? "nothing above 0 to show on a log axis" : "no run is shown");
    return null;
  }
  // A share or a speed is read against 0.
  if (chart.zero && !view.log) all.push(0);
  const x = domain(curves.flatMap((c) => c.xs), false), y = domain(all, view.log);
  const bend = view.log ? Math.log : (v) => v;
  const px = (v) => EDGE.left + ((v - x[0]) / (x[1] - x[0])) * (width - EDGE.left - EDGE.right);
  const py = (v) => height - EDGE.bottom - ((bend(v) - bend(y[0])) / (bend(y[1]) - bend(y[0]))) * (height - EDGE.top - EDGE.bottom);
  const format = chart.format || short;
  const marks = view.log ? logTicks(...y) : ticks(...y, 4);
  const told = marks.map(format), isTold = new Set(told).size === marks.length;
  marks.forEach((v, n) => {
    shape(svg, "line", { class: "gridline", x1: EDGE.left, x2: width - EDGE.right, y1: py(v), y2: py(v) });
    shape(svg, "text", { x: EDGE.left - 6, y: py(v) + 4, "text-anchor": "end" }, isTold ? told[n] : digits(v));
  });
  for (const v of ticks(...x, Math.max(Math.floor(width / 110), 2)))
    shape(svg, "text", { x: Math.min(px(v), width - 16), y: height - 6, "text-anchor": "middle" }, short(v));
  if (chart.events) events(svg, px, height);
  for (const curve of curves) paint(svg, curve, px, py, isGood);
  const cross = shape(svg, "line", { class: "cross", y1: EDGE.top, y2: height - EDGE.bottom, visibility: "hidden" });
  return { curves, px, x, width, cross };
}

function domain(values, isLog) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
  if (low === high) return isLog ? [low / 1.1, high * 1.1] : [low - (Math.abs(low) * 0.05 || 0.5), high + (Math.abs(high) * 0.05 || 0.5)];
  return isLog ? [low / 1.03, high * 1.03] : [low, high];
}

function paint(svg, curve, px, py, isGood) {
  const { xs, ys, mark, curve: raw } = curve;
  if (curve.dots) {
    ys.forEach((v, n) => isGood(v) && shape(svg, "circle", { cx: px(xs[n]), cy: py(v), r: 3.5, fill: colour(mark), stroke: "var(--card)", "stroke-width": 1.5 }));
    return;
  }
  if (raw.lo) {
    const good = xs.map((v, n) => n).filter((n) => isGood(raw.lo[n]) && isGood(raw.hi[n]));
    const there = good.map((n) => `${px(xs[n])},${py(raw.hi[n])}`), back = good.map((n) => `${px(xs[n])},${py(raw.lo[n])}`).reverse();
    shape(svg, "polygon", { points: [...there, ...back].join(" "), fill: colour(mark), opacity: 0.18 });
  }
  const line = (values, attributes) => {
    let path = "", pen = "M";
    values.forEach((v, n) => {
      if (!isGood(v)) { pen = "M"; return; }
      path += `${pen}${px(xs[n]).toFixed(1)} ${py(v).toFixed(1)}`;
      pen = "L";
    });
    shape(svg, "path", { d: path, fill: "none", stroke: colour(mark), "stroke-dasharray": dash(mark), "stroke-linejoin": "round", "stroke-linecap": "round", ...attributes });
  };
  if (ys !== raw.y) line(raw.y, { "stroke-width": 1, opacity: 0.3 });
  line(ys, { "stroke-width": 1.8 });
  // A path of one point shows nothing.
  if (ys.length === 1 && isGood(ys[0])) shape(svg, "circle", { cx: px(xs[0]), cy: py(ys[0]), r: 3, fill: colour(mark) });
}

function events(svg, px, height) {
  runs.forEach((run, n) => {
    if (view.hidden.has(n)) return;
    for (const step of run.restarts) {
      const at = px(place(run, step));
      const line = shape(svg, "line", { x1: at, x2: at, y1: EDGE.top, y2: height - EDGE.bottom, stroke: colour(n), "stroke-dasharray": "3 4", opacity: 0.8 });
      shape(line, "title", {}, `${run.name}: continued after step ${step}`);
    }
    for (const step of run.skipped) {
      const cross = shape(svg, "text", { x: px(place(run, step)), y: height - EDGE.bottom - 3, "text-anchor": "middle" }, "×");
      cross.style.fill = colour(n);
      shape(cross, "title", {}, `${run.name}: step ${step} was skipped`);
    }
  });
}

function hover(event, svg, drawn, tip, format) {
  if (!drawn) return;
  const box = svg.getBoundingClientRect();
  const at = ((event.clientX - box.left - EDGE.left) / (drawn.width - EDGE.left - EDGE.right)) * (drawn.x[1] - drawn.x[0]) + drawn.x[0];
  const found = drawn.curves.map((curve) => {
    const n = search(curve.xs, at);
    const before = n > 0 && (n === curve.xs.length || at - curve.xs[n - 1] < curve.xs[n] - at);
    return { curve, n: before ? n - 1 : n };
  });
  const nearest = found.reduce((a, b) => (Math.abs(b.curve.xs[b.n] - at) < Math.abs(a.curve.xs[a.n] - at) ? b : a));
  const x = drawn.px(nearest.curve.xs[nearest.n]);
  drawn.cross.setAttribute("x1", x);
  drawn.cross.setAttribute("x2", x);
  drawn.cross.setAttribute("visibility", "visible");
  const head = `step ${plain(nearest.curve.curve.x[nearest.n])}` + (nearest.curve.run.series.tokens ? ` · ${short(tokensAt(nearest.curve.run, nearest.curve.curve.x[nearest.n]))} tokens` : "");
  const rows = found.filter(({ curve, n }) => !curve.dots || curve.xs[n] === nearest.curve.xs[nearest.n]).map(({ curve, n }) => {
    const { lo, hi, y } = curve.curve;
    const band = lo && lo[n] !== hi[n] ? ` (${format(lo[n])} to ${format(hi[n])})` : "";
    return element("div", {}, key(curve.mark), element("span", {}, curve.label + (curve.suffix || "")), element("b", {}, format(y[n]) + band));
  });
  tip.replaceChildren(element("div", { class: "quiet" }, head), ...rows);
  tip.hidden = false;
  const figure = tip.parentElement, own = figure.getBoundingClientRect();
  const left = x + box.left - own.left, room = figure.clientWidth - tip.offsetWidth - 8;
  // Beside the line: to its right, or to its left where there is no room.
  tip.style.left = `${Math.max(8, left + 14 > room ? Math.min(left - 14 - tip.offsetWidth, room) : left + 14)}px`;
  tip.style.top = `${box.top - own.top + 8}px`;
}

// ---- expert load -------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
// A byte of the data to a colour: amber for no token, blue below the mean, red above it.
function heat(code) {
  if (code === 0) return [233, 177, 10];
  const amount = Math.max(-1, Math.min(1, (code - 128) / 24 / 2.5));
  const middle = dark.matches ? [40, 48, 58] : [240, 242, 245];
  const end = amount < 0 ? (dark.matches ? [80, 150, 255] : [25, 95, 200]) : dark.matches ? [255, 100, 80] : [205, 45, 30];
  return middle.map((v, n) => Math.round(v + (end[n] - v) * Math.abs(amount)));
}
const ratio = (code) => (code === 0 ? "no token" : `${(2 ** ((code - 128) / 24)).toPrecision(2)} × the mean`);

function addLoads(parent) {
  const found = runs.filter((run) => run.loads);
  if (!found.length) return;
  for (const run of found) run.loads.bytes = Uint8Array.from(atob(run.loads.codes), (c) => c.charCodeAt(0));
  const which = element("select", { "aria-label": "Run" }, ...found.map((run, n) => element("option", { value: n }, run.name)));
  const layer = element("select", { "aria-label": "Layer" });
  const time = element("input", { type: "range", min: 0, "aria-label": "Steps" });
  const says = element("span", { class: "quiet" }), tip = element("div", { class: "tip" });
  tip.hidden = true;
  const [layers, history] = [element("canvas"), element("canvas")];
  const about = element("p"), aboutHistory = element("p");
  const scale = element("div", { class: "scale" }, "0.2 ×");
  const figure = element("figure", { class: "wide" },
    element("figcaption", {}, element("h3", {}, "Expert load by layer")),
    element("div", { class: "controls" }, which, element("label", {}, "steps ", time), says, element("label", {}, "layer ", layer)),
    element("div", { class: "maps" }, element("div", {}, about, layers), element("div", {}, aboutHistory, history)), scale, tip);
  parent.append(figure);
  const load = () => found[which.value || 0].loads;
  const at = (t, l, e) => load().bytes[(t * load().layers.length + l) * load().experts + e];
  const span = (t) => { const [a, b] = load().spans[t]; return a === b ? `step ${a}` : `steps ${a} to ${b}`; };
  const fill = (canvas, columns, rows, code, height) => {
    canvas.width = columns;
    canvas.height = rows;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d"), image = pen.createImageData(columns, rows);
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) image.data.set([...heat(code(c, r)), 255], 4 * (r * columns + c));
    pen.putImageData(image, 0, 0);
  };
  const redraw = () => {
    const { layers: names, experts, spans, peak, dead } = load(), t = Number(time.value), l = Number(layer.value);
    const height = Math.max(90, Math.min(360, names.length * 18));
    fill(layers, experts, names.length, (e, row) => at(t, row, e), height);
    fill(history, spans.length, experts, (column, e) => at(column, l, e), Math.max(height, 120));
    const worst = peak[t].indexOf(Math.max(...peak[t])), none = dead[t].reduce((a, b) => a + b, 0);
    says.textContent = `${span(t)}: most loaded ${peak[t][worst]} × the mean (layer ${names[worst]}), ${none} of ${names.length * experts} experts without a token`;
    about.textContent = `rows: layers ${names[0]} to ${names.at(-1)}; columns: ${experts} experts`;
    aboutHistory.textContent = `layer ${names[l]} over the run; rows: experts. Now max / mean ${peak[t][l]}, ${dead[t][l]} dead`;
    scale.replaceChildren("0.2 ×", ...[72, 86, 100, 114, 128, 142, 156, 170, 184].map((code) => { const box = element("i"); box.style.background = `rgb(${heat(code)})`; return box; }), "5 × the mean");
    const box = element("i");
    box.style.background = `rgb(${heat(0)})`;
    scale.append(box, "no token");
  };
  const choose = () => {
    time.max = load().spans.length - 1;
    time.value = time.max;
    layer.replaceChildren(...load().layers.map((name, n) => element("option", { value: n }, name)));
    redraw();
  };
  const point = (canvas, text) => {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), own = figure.getBoundingClientRect();
      const inside = (v, n) => Math.max(0, Math.min(n - 1, Math.floor(v * n)));
      tip.textContent = text(inside((event.clientX - box.left) / box.width, canvas.width), inside((event.clientY - box.top) / box.height, canvas.height));
      tip.hidden = false;
      tip.style.left = `${Math.max(8, Math.min(event.clientX - own.left + 14, figure.clientWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${event.clientY - own.top + 16}px`;
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  };
  point(layers, (e, l) => `layer ${load().layers[l]}, expert ${e}: ${ratio(at(Number(time.value), l, e))}`);
  point(history, (t, e) => `expert ${e}, ${span(t)}: ${ratio(at(t, Number(layer.value), e))}`);
  which.addEventListener("change", choose);
  layer.addEventListener("change", redraw);
  time.addEventListener("input", redraw);
  dark.addEventListener("change", redraw);
  choose();
}

// ---- the page ----------------------------------------------------------------------------------

// One row of the log has a key for each MTP layer; the charts take them as a table.
for (const run of runs)
  for (const name of Object.keys(run.series)) {
    const found = /^mtp_loss_(\d+)$/.exec(name);
    if (found) run.series[`mtp_loss_by_layer/${found[1]}`] = run.series[name];
  }

const redrawAll = () => redraws.forEach((redraw) => redraw());
const byId = (id) => document.getElementById(id);
runs.forEach((run, n) => {
  const button = element("button", { type: "button", "aria-pressed": "true", title: run.name }, key(n), element("span", {}, run.name));
  button.addEventListener("click", () => {
    const hide = !view.hidden.has(n);
    view.hidden[hide ? "add" : "delete"](n);
    button.setAttribute("aria-pressed", String(!hide));
    redrawAll();
  });
  byId("runs").append(button);
});
byId("smooth").addEventListener("input", (event) => {
  view.smooth = Number(event.target.value);
  byId("smoothed").textContent = view.smooth ? `${view.smooth}%` : "off";
  redrawAll();
});
byId("axis").addEventListener("change", (event) => { view.axis = event.target.value; redrawAll(); });
byId("log").addEventListener("change", (event) => { view.log = event.target.checked; redrawAll(); });

for (const [title, charts] of SECTIONS) {
  const shown = charts.filter(present), isExperts = title === "Experts";
  if (!shown.length && !(isExperts && runs.some((run) => run.loads))) continue;
  const grid = element("div", { class: "grid" });
  byId("charts").append(element("section", {}, element("h2", {}, title), grid));
  if (isExperts) addLoads(grid);
  for (const chart of shown) addChart(grid, chart);
}
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redrawAll(); } });
redrawAll();
