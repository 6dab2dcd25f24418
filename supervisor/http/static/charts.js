// Line charts of the last minutes, drawn as SVG. A chart shows the values that it is given, and does
// not know where they come from.

import { element, write } from "./views.js";

const LONGEST = 300; // seconds that a chart shows at most
const SHORTEST = 60; // seconds that it shows at first
const WIDTH = 600; // of its own coordinates; the page stretches them
const HEIGHT = 150;
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Return a round number above `value` for the end of an axis: 1, 2, 2.5 or 5 times a power of ten. */
export function axisEnd(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((candidate) => candidate * power >= value);
  return step * power;
}

export class Chart {
  #lines;
  #format;
  #least;
  #points = []; // {at: milliseconds, values: [number]}, oldest first
  #plot;
  #paths;
  #areas;
  #top;
  #middle;
  #since;
  #readings;
  #cursor;
  #hovered = null; // a share of the width, while the pointer is there

  /**
   * `lines` are {name, kind}; `format` writes a value for people; `least` is the smallest end of the
   * axis, so that noise does not look like a mountain.
   */
  constructor(parent, title, lines, format, least) {
    this.#lines = lines;
    this.#format = format;
    this.#least = least;
    this.#plot = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
    });
    for (const share of [0, 0.5, 1]) {
      const y = share * HEIGHT;
      this.#plot.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
    this.#areas = lines.map((line) => svg("path", { class: `area ${line.kind}` }));
    this.#paths = lines.map((line) => svg("path", { class: `line ${line.kind}` }));
    this.#cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.#plot.append(...this.#areas, ...this.#paths, this.#cursor);
    this.#top = element("span", { class: "axis top" });
    this.#middle = element("span", { class: "axis middle" });
    this.#readings = lines.map(() => element("b"));
    const legend = element(
      "p",
      { class: "legend" },
      lines.map((line, index) =>
        element("span", { class: `key ${line.kind}` }, [line.name, this.#readings[index]]),
      ),
    );
    const frame = element("div", { class: "frame" }, [this.#plot, this.#top, this.#middle]);
    this.#since = element("span");
    const axis = element("p", { class: "times", "aria-hidden": "true" }, [
      this.#since,
      element("span", {}, ["now"]),
    ]);
    frame.addEventListener("pointermove", (event) => {
      const box = this.#plot.getBoundingClientRect();
      this.#hovered = (event.clientX - box.left) / box.width;
      this.draw();
    });
    frame.addEventListener("pointerleave", () => {
      this.#hovered = null;
      this.draw();
    });
    parent.append(
      element("figure", { class: "card chart" }, [
        element("figcaption", {}, [element("h3", {}, [title]), legend]),
        frame,
        axis,
      ]),
    );
    this.title = title;
    this.draw();
  }

  add(at, values) {
    this.#points.push({ at, values });
    while (this.#points[0].at < at - LONGEST * 1000) this.#points.shift();
    this.draw();
  }

  clear() {
    this.#points = [];
    this.draw();
  }

  draw() {
    const points = this.#points;
    const end = points.length ? points[points.length - 1].at : 0;
    const age = points.length ? (end - points[0].at) / 1000 : 0;
    const minutes = Math.ceil(Math.min(Math.max(age, SHORTEST), LONGEST) / 60);
    const span = minutes * 60_000;
    const start = end - span;
    const highest = Math.max(this.#least, ...points.flatMap((point) => point.values));
    const top = axisEnd(highest);
    const x = (point) => ((point.at - start) / span) * WIDTH;
    const y = (value) => HEIGHT - (value / top) * (HEIGHT - 4) - 2;
    this.#lines.forEach((_, index) => {
      const path = points
        .map((point, n) => `${n ? "L" : "M"}${x(point).toFixed(1)} ${y(point.values[index]).toFixed(1)}`)
        .join("");
      this.#paths[index].setAttribute("d", path);
      this.#areas[index].setAttribute(
        "d",
        points.length ? `${path}L${WIDTH} ${HEIGHT}L${x(points[0]).toFixed(1)} ${HEIGHT}Z` : "",
      );
    });
    this.#top.textContent = this.#format(top);
    this.#middle.textContent = this.#format(top / 2);
    write(this.#since, `${minutes} min ago`);
    this.#read(start, span, x, minutes);
  }

  /** Write the values at the pointer, or the latest if there is no pointer, beside the lines' names. */
  #read(start, span, x, minutes) {
    let point = this.#points[this.#points.length - 1];
    if (this.#hovered !== null && point) {
      const at = start + this.#hovered * span;
      point = this.#points.reduce((best, other) =>
        Math.abs(other.at - at) < Math.abs(best.at - at) ? other : best,
      );
      this.#cursor.setAttribute("x1", x(point));
      this.#cursor.setAttribute("x2", x(point));
    }
    const shown = this.#hovered !== null && point;
    this.#cursor.setAttribute("visibility", shown ? "visible" : "hidden");
    const said = this.#lines.map((line, index) => {
      const value = point ? this.#format(point.values[index]) : "–";
      this.#readings[index].textContent = value;
      return `${line.name} ${value}`;
    });
    this.#plot.setAttribute("aria-label", `${this.title}, last ${minutes} min: ${said.join(", ")}`);
  }
}
