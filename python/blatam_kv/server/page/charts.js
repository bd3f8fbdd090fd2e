// Small line charts over time, drawn by hand: a path for each series, an axis that is there from the start.
import { number, t } from "./words.js";

export const SPAN = 300;
const NAMESPACE = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 6, TOP = 8, BOTTOM = 16;

function make(name, attributes, parent) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

export function key(index) {
  const span = document.createElement("span");
  span.className = "key";
  const svg = make("svg", { "aria-hidden": "true", viewBox: "0 0 18 8" }, span);
  make("line", { x1: 0, x2: 18, y1: 4, y2: 4, class: `s${index + 1}` }, svg);
  return span;
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  for (const times of [1, 2, 4, 6, 10]) if (value <= times * step) return times * step;
  return 10 * step;
}

// A second is not a point wide: once there are some, one in three is enough.
const FEW = 20, EVERY = 2.9;

export class Chart {
  // options: name (a word), series (how many), format(value), top (fixed), low (makes the scale logarithmic)
  constructor(id, options) {
    this.svg = document.getElementById(id);
    this.options = options;
    this.points = [];
    this.drawn = 0;
    this.seen = true;
    this.width = 260;
    this.height = 122;
    this.svg.setAttribute("role", "img");
  }

  // Sizes are read before anything is drawn, and told from then on: reading one after drawing makes the
  // browser lay out the page anew. What nobody sees is drawn when it comes into view.
  static begin(charts) {
    const of = new Map(charts.map((chart) => [chart.svg, chart]));
    for (const chart of charts) {
      chart.width = chart.svg.clientWidth || chart.width;
      chart.height = chart.svg.clientHeight || chart.height;
    }
    for (const chart of charts) chart.draw();
    const sizes = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) {
        const chart = of.get(target), width = Math.round(contentRect.width + contentRect.left), height = Math.round(contentRect.height + contentRect.top);
        if (!width || (width === chart.width && height === chart.height)) continue;
        chart.width = width;
        chart.height = height;
        chart.draw();
      }
    });
    const views = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = of.get(target);
        chart.seen = isIntersecting;
        if (isIntersecting && chart.stale) chart.draw();
      }
    });
    for (const chart of charts) { sizes.observe(chart.svg); views.observe(chart.svg); }
  }

  push(at, values) {
    this.points.push([at, values]);
    while (this.points.length && this.points[0][0] < at - SPAN - 2) this.points.shift();
    this.describe();
    this.stale = true;
    if (this.seen && (this.points.length <= FEW || at - this.drawn >= EVERY)) this.draw();
  }

  shown(top) {
    const { low } = this.options;
    if (!low) return (value) => value / top;
    const least = Math.log10(low), most = Math.log10(top);
    return (value) => (Math.log10(Math.max(value, low)) - least) / (most - least);
  }

  top() {
    const { options } = this;
    if (options.top) return options.top;
    let most = 0;
    for (const [, values] of this.points) for (const value of values) if (value > most) most = value;
    if (options.low) return Math.max(options.least ?? 0, 10 ** Math.ceil(Math.log10(Math.max(most, options.low * 10))));
    return Math.max(options.least ?? 0, options.binary ? 2 ** Math.ceil(Math.log2(Math.max(most, 1))) : niceTop(most));
  }

  draw() {
    const { points, options, width, height } = this;
    const inner = { width: width - LEFT - RIGHT, height: height - TOP - BOTTOM };
    const top = this.top(), share = this.shown(top);
    const y = (value) => TOP + inner.height * (1 - Math.min(1, Math.max(0, share(value))));
    const now = points.length ? points[points.length - 1][0] : 0;
    const x = (at) => LEFT + inner.width * (1 - (now - at) / SPAN);
    this.drawn = now;
    this.stale = false;
    this.frame(width, height, top, y);
    for (let index = 0; index < options.series; index += 1) {
      let path = "", first = null, last = null, pen = "M", before = null;
      for (const [at, values] of points) {
        const value = values[index];
        if (value === null || value === undefined || at < now - SPAN) { pen = "M"; continue; }
        if (before !== null && at - before > 5) pen = "M";
        before = at;
        const px = x(at).toFixed(1);
        path += `${pen}${px} ${y(value).toFixed(1)}`;
        pen = "L";
        first ??= px;
        last = px;
      }
      this.line(this.lines[index], path);
      if (index === 0) this.line(this.area, path && options.series === 1 && !path.includes("M", 1) ? `${path}L${last} ${TOP + inner.height}L${first} ${TOP + inner.height}Z` : "");
    }
    this.describe();
  }

  line(place, path) {
    if (place.path === path) return;
    place.path = path;
    place.setAttribute("d", path);
  }

  // Grid, labels and empty lines: made anew only when they would look different.
  frame(width, height, top, y) {
    const sign = `${width} ${height} ${top} ${t("now")}`;
    if (sign === this.sign) return;
    this.sign = sign;
    const { svg, options } = this;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const marks = options.low ? decades(options.low, top) : [0, top / 2, top];
    for (const mark of marks) {
      make("line", { x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark), class: mark === marks[0] ? "axis" : "grid" }, svg);
      make("text", { x: LEFT - 6, y: y(mark) + 3.5, "text-anchor": "end" }, svg).textContent = options.format(mark);
    }
    make("text", { x: LEFT, y: height - 2 }, svg).textContent = `−${t("five_minutes")}`;
    make("text", { x: width - RIGHT, y: height - 2, "text-anchor": "end" }, svg).textContent = t("now");
    this.area = make("path", { class: "area s1" }, svg);
    this.lines = Array.from({ length: options.series }, (_, index) => make("path", { class: `s${index + 1}` }, svg));
  }

  describe() {
    const { svg, points, options } = this;
    const values = points.length ? points[points.length - 1][1] : [];
    const now = JSON.stringify(values);
    if (now !== this.now) svg.dataset.now = this.now = now;
    if (this.told && points.length && points[points.length - 1][0] - this.told < 10) return;
    this.told = points.length ? points[points.length - 1][0] : 0;
    const said = values.map((value) => (value === null || value === undefined ? "–" : options.format(value)));
    svg.setAttribute("aria-label", `${t(options.name)}: ${said.join(", ") || t("waiting")}`);
  }
}

function decades(low, top) {
  const all = [];
  for (let mark = low; mark <= top * 1.0001; mark *= 10) all.push(mark);
  return all.length > 4 ? all.filter((_, index) => index % 2 === 0) : all;
}

export const percent = (value) => `${number(100 * value, value > 0 && value < 1 && value * 100 % 1 > 0.05 ? 1 : 0)} %`;

export function time(seconds) {
  if (seconds < 0.001) return `${number(seconds * 1e6, 0)} µs`;
  if (seconds < 1) return `${number(seconds * 1e3, seconds < 0.01 ? 1 : 0)} ms`;
  return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${number(value, value < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

export const count = (value) => number(value, value > 0 && value < 10 && value % 1 ? 1 : 0);
