// Small line plots as SVG, drawn from numbers over time. A null is a second in which nothing was measured: a gap.

import { element } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 340, HEIGHT = 84, LEFT = 2, RIGHT = 338, TOP = 14, BOTTOM = 66;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The runs of neighbouring values that are not null, as lists of [x, y].
export function runs(values, x, y) {
  const found = [];
  let run = [];
  values.forEach((value, place) => {
    if (value === null) {
      if (run.length) found.push(run);
      run = [];
    } else {
      run.push([x(place), y(value)]);
    }
  });
  if (run.length) found.push(run);
  return found;
}

// A round number at or above the largest value: 1, 2 or 5 times a power of ten.
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value * 0.999999);
}

export function draw(figure, { title, values, seconds, write }) {
  const known = values.filter((value) => value !== null);
  const top = roundUp(Math.max(0, ...known));
  const x = (place) => LEFT + ((RIGHT - LEFT) * place) / Math.max(1, values.length - 1);
  const y = (value) => BOTTOM - ((BOTTOM - TOP) * value) / top;
  const last = known.length ? write(known[known.length - 1]) : "none yet";
  const svg = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": `${title} over the last ${minutes(seconds)}: newest ${last}, most ${known.length ? write(Math.max(...known)) : "none"}`,
  });
  svg.append(shape("line", { x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM, class: "axis" }));
  svg.append(shape("line", { x1: LEFT, x2: RIGHT, y1: TOP, y2: TOP, class: "axis", "stroke-dasharray": "2 4" }));
  svg.append(shape("text", { x: RIGHT, y: TOP - 4, class: "label", "text-anchor": "end" }, write(top)));
  svg.append(shape("text", { x: LEFT, y: HEIGHT - 5, class: "label" }, `${minutes(seconds)} ago`));
  svg.append(shape("text", { x: RIGHT, y: HEIGHT - 5, class: "label", "text-anchor": "end" }, "now"));
  for (const run of runs(values, x, y)) {
    const line = run.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
    if (run.length === 1) {
      svg.append(shape("circle", { cx: run[0][0], cy: run[0][1], r: 2.2, class: "dot" }));
    } else {
      const start = run[0][0].toFixed(1), end = run[run.length - 1][0].toFixed(1);
      svg.append(shape("polygon", { points: `${start},${BOTTOM} ${line} ${end},${BOTTOM}`, class: "fill" }));
      svg.append(shape("polyline", { points: line, class: "curve" }));
    }
  }
  const caption = element("figcaption");
  caption.append(element("span", title), element("span", last));
  figure.replaceChildren(caption, svg);
}

function minutes(seconds) {
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}

// One horizontal bar of parts, each a share of the whole.
export function bar(parts, label) {
  const svg = shape("svg", { viewBox: "0 0 1000 14", preserveAspectRatio: "none", role: "img", "aria-label": label });
  const whole = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  let left = 0;
  for (const [name, value] of parts) {
    const width = (1000 * value) / whole;
    svg.append(shape("rect", { x: left.toFixed(2), y: 0, width: width.toFixed(2), height: 14, class: `bar-${name}` }));
    left += width;
  }
  return svg;
}
