// Two small charts as SVG: lines over versions, and stacked bars over rounds. Each comes in a figure with a legend and its
// numbers as a table, so that nothing is told by colour or shape alone.

import { h, svg, table } from "./dom.js";

const WIDTH = 560, HEIGHT = 230, LEFT = 46, RIGHT = 52, TOP = 12, BOTTOM = 26;
const DASHES = ["", "6 4", "2 4", "9 3 2 3", "4 2", "1 3"]; // told apart without colour, too

export function ticks(low, high, n = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

const scale = (low, high, from, to) => (value) => (high === low ? (from + to) / 2 : from + ((value - low) / (high - low)) * (to - from));

function frame(title, x, y, xs, ys, format, xName) {
  const rules = ys.map((value) => svg("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
  const marks = ys.map((value) => svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  const feet = xs.map((value) => svg("text", { x: x(value), y: HEIGHT - 8, "text-anchor": "middle" }, String(value)));
  const name = svg("text", { x: WIDTH - RIGHT + 12, y: HEIGHT - 8 }, xName);
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title }, rules, marks, feet, name);
}

function figure(key, title, chart, legend, tableOf) {
  const item = ({ name, index, isBar }) => h(
    "li", {},
    svg("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" }, isBar
      ? svg("rect", { class: `s${index}`, x: 1, y: 1, width: 16, height: 8, rx: 2 })
      : svg("line", { class: `s${index}`, x1: 0, x2: 18, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": DASHES[index] })),
    name,
  );
  return h(
    "figure", { class: "card" },
    h("figcaption", {}, h("h3", {}, title)),
    chart ?? h("p", { class: "empty" }, "Nothing was measured yet."),
    chart ? h("ul", { class: "legend" }, legend.map(item)) : null,
    chart ? h("details", { "data-key": key }, h("summary", {}, "The numbers"), tableOf()) : null,
  );
}

// series: [{name, points: [[x, y], ...]}]; the first is drawn strongest.
export function lineChart({ key, title, series, format, xName, floor = null }) {
  const drawn = series.slice(0, DASHES.length).filter((one) => one.points.length > 0);
  const all = drawn.flatMap((one) => one.points);
  const columns = [[xName, (row) => String(row), "number"], ...series.map((one) => [
    one.name, (row) => { const hit = one.points.find((point) => point[0] === row); return hit ? format(hit[1]) : "–"; }, "number",
  ])];
  const rows = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => b - a);
  const tableOf = () => table(title, columns, rows);
  if (all.length === 0) return figure(key, title, null, [], tableOf);
  const xs = all.map((point) => point[0]), values = all.map((point) => point[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  [low, high] = [floor === null ? low - room : Math.max(floor, low - room), high + room];
  const x = scale(x0, x1, LEFT + 8, WIDTH - RIGHT - 8), y = scale(low, high, HEIGHT - BOTTOM, TOP);
  const whole = [...new Set(ticks(x0, x1, 8).map(Math.round))];
  const chart = frame(`${title}: ${describe(drawn[0], format)}`, x, y, whole, ticks(low, high), format, xName);
  drawn.map((one, index) => ({ one, index })).reverse().forEach(({ one, index }) => {
    const path = one.points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    chart.append(svg("path", { class: `line s${index} ${index ? "" : "main"}`, fill: "none", d: path, "stroke-dasharray": DASHES[index] }));
    if (one.points.length <= 40) {
      for (const [a, b] of one.points) {
        const dot = svg("circle", { class: `dot fill s${index}`, cx: x(a), cy: y(b), r: index ? 2.6 : 4 });
        dot.append(svg("title", {}, `${one.name}, ${xName} ${a}: ${format(b)}`));
        chart.append(dot);
      }
    }
  });
  const [lastX, last] = drawn[0].points.at(-1);
  chart.append(svg("text", { class: "value", x: x(lastX) + 10, y: y(last) + 4 }, format(last)));
  return figure(key, title, chart, drawn.map((one, index) => ({ name: one.name, index })), tableOf);
}

// bars: [{x, values: [first, second]}]; names of the two parts.
export function barChart({ key, title, names, bars, format, xName }) {
  const columns = [[xName, (row) => String(row.x), "number"], ...names.map((name, i) => [name, (row) => format(row.values[i]), "number"])];
  const tableOf = () => table(title, columns, [...bars].reverse());
  if (bars.length === 0) return figure(key, title, null, [], tableOf);
  const high = Math.max(1, ...bars.map((bar) => bar.values.reduce((a, b) => a + b, 0)));
  const x = scale(bars[0].x, bars.at(-1).x, LEFT + 22, WIDTH - RIGHT - 22), y = scale(0, high, HEIGHT - BOTTOM, TOP);
  const width = Math.max(2, Math.min(34, (0.7 * (WIDTH - LEFT - RIGHT - 30)) / bars.length));
  const whole = [...new Set(ticks(bars[0].x, bars.at(-1).x, 8).map(Math.round))];
  const total = bars.reduce((sum, bar) => sum + bar.values.reduce((a, b) => a + b, 0), 0);
  const chart = frame(`${title}: ${format(total)} in ${bars.length}`, x, y, whole, ticks(0, high), format, xName);
  for (const bar of bars) {
    let from = 0;
    bar.values.forEach((value, index) => {
      const part = svg("rect", { class: `s${index}`, x: x(bar.x) - width / 2, y: y(from + value), width, height: Math.max(0, y(from) - y(from + value) - (index ? 1 : 0)), rx: 2 });
      part.append(svg("title", {}, `${xName} ${bar.x}, ${names[index]}: ${format(value)}`));
      chart.append(part);
      from += value;
    });
  }
  return figure(key, title, chart, names.map((name, index) => ({ name, index, isBar: true })), tableOf);
}

function describe(one, format) {
  const [first, last] = [one.points[0], one.points.at(-1)];
  return `${one.name} goes from ${format(first[1])} to ${format(last[1])}`;
}
