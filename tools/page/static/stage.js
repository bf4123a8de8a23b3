// The panels: a picture for each tracker, with its boxes, response map and figures.

import { letDraw } from "./drag.js";
import { inWords } from "./geometry.js";
import { paint } from "./paint.js";

const COLORS = ["#40dc40", "#ffa000", "#40a0ff", "#ff40c8", "#f0e63c"];
const SMOOTH = 0.15; // share of a new frame in the frames a second shown
const ABOVE_AND_BELOW = 25; // rem around a picture, so that the Play button is seen as well

export class Stage {
  // `on`: see drag.js.
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.panels = new Map(); // by name of the tracker
    this.view = null;
    this.picture = null;
    this.drawn = null; // the box that is being drawn
    this.observer = new ResizeObserver(() => this.repaint());
  }

  // Show panels for these trackers, {name, title}.
  choose(trackers) {
    this.observer.disconnect();
    this.listening?.abort();
    this.listening = new AbortController();
    this.root.replaceChildren();
    this.panels.clear();
    trackers.forEach((tracker, place) => {
      const panel = new Panel(tracker, COLORS[place % COLORS.length]);
      this.panels.set(tracker.name, panel);
      this.root.append(panel.element);
      letDraw(panel.canvas, () => this.view, this.on, this.listening.signal);
      this.observer.observe(panel.canvas);
      if (this.view) panel.fit(this.view);
    });
    this.repaint();
  }

  // Show a view and its picture, an ImageBitmap; `age` is in milliseconds.
  show(view, picture, age) {
    const resized = this.view?.width !== view.width || this.view?.height !== view.height;
    this.picture?.close();
    this.view = view;
    this.picture = picture;
    for (const panel of this.panels.values()) if (resized) panel.fit(view);
    this.repaint();
    for (const lane of view.lanes) this.panels.get(lane.tracker)?.tell(lane, view, age);
  }

  draw(box) {
    this.drawn = box;
    this.repaint();
  }

  repaint() {
    if (!this.view) return;
    const lanes = new Map(this.view.lanes.map((lane) => [lane.tracker, lane]));
    for (const [name, panel] of this.panels) {
      const targets = lanes.get(name)?.targets ?? [];
      paint(panel.canvas, this.view, this.picture, targets, panel.color, this.drawn);
    }
  }
}

class Panel {
  constructor(tracker, color) {
    this.title = tracker.title;
    this.color = color;
    this.rate = 0;
    this.element = document.createElement("article");
    this.element.className = "card panel";
    this.element.dataset.tracker = tracker.name;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${tracker.title}: no frame yet`);
    this.figures = child(null, "div", "figures");
    this.found = child(null, "ul", "found");
    const header = document.createElement("header");
    const heading = child(header, "h3", "");
    child(heading, "span", "swatch").style.backgroundColor = color;
    heading.append(tracker.title);
    header.append(this.figures);
    this.element.append(header, this.canvas, this.found);
  }

  fit({ width, height }) {
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `calc(max(16rem, 100vh - ${ABOVE_AND_BELOW}rem) * ${width / height})`;
  }

  tell(lane, view, age) {
    if (lane.milliseconds) {
      const rate = 1000 / lane.milliseconds;
      this.rate = this.rate ? this.rate + SMOOTH * (rate - this.rate) : rate;
    }
    this.figures.textContent = this.figuresOf(lane, view, age);
    this.figures.title = "Speed of this tracker alone; time from the request for a frame to its picture";
    const several = lane.targets.length > 1;
    this.found.replaceChildren(...lane.targets.map((target) => foundItem(target, several)));
    const words = lane.targets.map((each) => `target ${each.target} ${each.state} at ${inWords(each.box)}`);
    this.canvas.setAttribute("aria-label", `${this.title}, frame ${view.frame}: ${words.join("; ") || "no box"}`);
  }

  // Speed and age of the frame; they mean nothing if nothing is tracked here.
  figuresOf(lane, view, age) {
    if (lane.milliseconds) return `${inFrames(this.rate)}/s · ${age.toFixed(0)} ms old`;
    return view.targets.length && !lane.targets.length ? "not tracked here" : "";
  }
}

function foundItem(target, several) {
  const item = document.createElement("li");
  item.dataset.target = target.target;
  if (several) item.append(`${target.target}: `);
  child(item, "span", `state ${target.state}`).textContent = target.drawn ? "your box" : target.state;
  if (!target.drawn) item.append(` score ${target.score.toFixed(2)}`);
  return item;
}

function inFrames(number) {
  const rounded = number.toFixed(0);
  return rounded === "1" ? "1 frame" : `${rounded} frames`;
}

function child(parent, tag, className) {
  const element = document.createElement(tag);
  element.className = className;
  parent?.append(element);
  return element;
}
