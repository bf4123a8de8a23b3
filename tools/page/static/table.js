// What is open: the frame that is shown, the targets, and all requests to the server.

import { byId, endProgress, say } from "./dom.js";

export class Table {
  constructor(link, stage) {
    this.link = link;
    this.stage = stage;
    this.view = null; // the header of the last view
    this.selected = null; // the target whose box is drawn next; null for a new one
    this.watchers = []; // functions that are called after each view
  }

  // Ask the server for something; a view that comes back is shown. Returns the answer.
  async ask(message, picture = null) {
    const asked = performance.now();
    try {
      const answer = await this.link.ask({ asked, maps: byId("maps").checked, ...message }, picture);
      if (answer.header.type === "view") await this.show(answer);
      return answer;
    } finally {
      endProgress("answer");
    }
  }

  async show({ header, data }) {
    const picture = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    const before = this.view;
    this.view = header;
    if (!header.targets.includes(this.selected)) this.selected = header.targets.at(-1) ?? null;
    this.stage.show(header, picture, performance.now() - header.asked);
    this.sayChanges(before, header);
    this.changed();
  }

  // Let all parts of the page show the view again.
  changed() {
    for (const watch of this.watchers) watch(this.view);
  }

  // Forget the open video, before another one comes.
  forget() {
    this.view = null;
    this.selected = null;
  }

  // Draw the box of the selected target, or of a new one.
  async draw(box) {
    const { frame } = this.view;
    const target = this.selected;
    const answer = await this.ask({ do: "draw", frame, target, box });
    const number = target ?? answer.header.targets.at(-1);
    this.selected = number;
    this.changed();
    say(target ? `Target ${number} has a new box.` : `Target ${number} added.`);
  }

  async undo() {
    const { header } = await this.ask({ do: "undo" });
    say(`Taken back, at frame ${header.frame}.`);
  }

  // Say which targets were lost, or are tracked again.
  sayChanges(before, view) {
    if (!before || view.frame !== before.frame + 1) return;
    const states = new Map(this.statesOf(before));
    const changed = ([who, state]) => states.has(who) && states.get(who) !== state;
    const words = this.statesOf(view).filter(changed).map(([who, state]) => `${who} ${state}`);
    if (words.length) say(words.join("; "));
  }

  // Pairs of a target, in words, and its state.
  statesOf(view) {
    return view.lanes.flatMap(({ tracker, targets }) => {
      const title = view.lanes.length > 1 ? `${this.stage.panels.get(tracker)?.title}: ` : "";
      return targets.map(({ target, state }) => [`${title}target ${target}`, state]);
    });
  }

  async drop(target) {
    await this.ask({ do: "drop", frame: this.view.frame, target });
    say(`Target ${target} dropped.`);
  }
}

