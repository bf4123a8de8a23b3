// The targets: drawn by pointer or by numbers, corrected, added, dropped, undone.

import { attempt, byId, say, tellProblem } from "./dom.js";
import { rounded } from "./geometry.js";

const SIDES = ["x", "y", "w", "h"];

export class Targets {
  constructor(table, player) {
    this.table = table;
    this.player = player;
    this.leastSide = 1; // pixels
    this.resumes = false; // whether playing goes on after a drag
    table.watchers.push((view) => this.tell(view));
    byId("add").addEventListener("click", () => this.addTarget());
    byId("undo").addEventListener("click", () => this.undo());
    byId("suggest").addEventListener("click", () => this.takeSuggestion());
    byId("numbers").addEventListener("submit", (event) => this.submit(event));
  }

  // What a drag in a picture does, see drag.js.
  get dragging() {
    return {
      begin: () => {
        if (!this.table.view) return false;
        this.resumes = this.player.playing;
        this.player.pause();
        return true;
      },
      change: (box) => this.table.stage.draw(box),
      finish: (box) => this.draw(box),
      giveUp: () => this.end(),
    };
  }

  async draw(box) {
    await this.player.pause();
    if (Math.min(box[2], box[3]) < this.leastSide) {
      const size = `${Math.round(box[2])} × ${Math.round(box[3])}`;
      const least = `${this.leastSide} × ${this.leastSide}`;
      tellProblem(`That box is ${size} pixels. Drag one of at least ${least}, from corner to corner.`);
    } else {
      await attempt(() => this.table.draw(rounded(box)));
    }
    this.end();
  }

  end() {
    this.table.stage.draw(null);
    if (this.resumes) this.player.play();
    this.resumes = false;
  }

  async submit(event) {
    event.preventDefault();
    if (!this.table.view) return;
    const values = SIDES.map((side) => byId(side).value.trim().replace(",", "."));
    const box = values.map(Number);
    if (values.includes("") || !box.every(Number.isFinite)) {
      tellProblem("Type four numbers: x and y of the upper left corner, width and height.");
      return;
    }
    await this.draw(box);
    byId("set").focus(); // in a field Ctrl-Z would take back what was typed, not the box
  }

  addTarget() {
    this.select(null);
    say("Draw a box around the new target.");
    byId("play").focus(); // the button that was clicked is hidden now
  }

  async takeSuggestion() {
    await this.draw(this.table.view.suggested);
    byId("play").focus();
  }

  async undo() {
    if (!this.table.view?.undo) return;
    await this.player.pause();
    await attempt(() => this.table.undo());
  }

  async drop(target) {
    await this.player.pause();
    await attempt(() => this.table.drop(target));
    byId("play").focus();
  }

  select(target) {
    this.table.selected = target;
    this.table.changed();
  }

  tell(view) {
    const targets = view?.targets ?? [];
    byId("no-targets").hidden = targets.length > 0;
    byId("suggest").hidden = targets.length > 0 || !view?.suggested;
    byId("add").hidden = targets.length === 0 || this.table.selected === null;
    byId("undo").disabled = !view?.undo;
    this.tellList(targets);
    this.tellNumbers(view);
    byId("hint").textContent = view ? hint(view, this.table.selected) : "";
  }

  tellList(targets) {
    const choices = targets.length && this.table.selected === null ? [...targets, null] : targets;
    const list = byId("targets");
    const shown = JSON.stringify(choices);
    if (list.dataset.shown !== shown) {
      list.replaceChildren(...choices.map((target) => this.row(target)));
      list.dataset.shown = shown;
    }
    for (const radio of list.querySelectorAll("input")) radio.checked = radio.value === String(this.table.selected);
  }

  row(target) {
    const row = document.createElement("div");
    row.className = "target";
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "target", value: String(target) });
    radio.addEventListener("change", () => this.select(target));
    label.append(radio, target === null ? "New target" : `Target ${target}`);
    row.append(label);
    if (target !== null) {
      const drop = Object.assign(document.createElement("button"), { type: "button", textContent: "Drop" });
      drop.setAttribute("aria-label", `Drop target ${target} from this frame on`);
      drop.addEventListener("click", () => this.drop(target));
      row.append(drop);
    }
    return row;
  }

  // Show the numbers of the selected target's box, but not while the user types.
  tellNumbers(view) {
    if (!view || byId("numbers").contains(document.activeElement)) return;
    const found = view.lanes[0]?.targets.find(({ target }) => target === this.table.selected);
    const box = found?.box ?? (view.targets.length ? null : view.suggested);
    SIDES.forEach((side, place) => {
      byId(side).value = box ? Math.round(box[place] * 10) / 10 : "";
    });
  }
}

function isLost(view, selected) {
  return view.lanes.some(({ targets }) => targets.some(({ target, state }) => target === selected && state === "lost"));
}

function hint(view, selected) {
  if (!view.targets.length) return "Drag a box around something in the picture.";
  if (selected === null) return "Drag a box around the new target.";
  const { frame, count, reach, live } = view;
  if (isLost(view, selected)) return "It is lost. Play goes on looking for it; a new box shows where it is.";
  if (reach && frame > reach[1]) return `Nothing is tracked here yet. Play goes on from frame ${reach[1]}.`;
  if (reach && frame === reach[1] && !live && frame < count - 1) return "Play follows it. A new box corrects it from this frame on.";
  return "A new box corrects the target from this frame on.";
}
