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
      endProgress();
    }
  }

  async show({ header, data }) {
    const picture = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    const before = this.view;
    this.view = header;
    if (!header.targets.includes(this.selected)) this.selected = header.targets.at(-1) ?? null;
    this.stage.show(header, picture, performance.now() - header.asked);
    sayChanges(before, header);
    this.changed();
  }

  // Whoever shows parts of the view looks at it again.
  changed() {
    for (const watch of this.watchers) watch(this.view);
  }

  // Work with another video: forget the one that is open.
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

  async drop(target) {
    await this.ask({ do: "drop", frame: this.view.frame, target });
    say(`Target ${target} dropped.`);
  }
}

// Say which targets were lost, or are tracked again.
function sayChanges(before, view) {
  if (!before || view.frame !== before.frame + 1) return;
  const states = new Map();
  for (const [key, state] of statesOf(before)) states.set(key, state);
  const changes = statesOf(view).filter(([key, state]) => states.has(key) && states.get(key) !== state);
  if (changes.length) say(changes.map(([key, state]) => `${key} ${state}`).join("; "));
}

function statesOf(view) {
  const one = view.lanes.length === 1;
  return view.lanes.flatMap((lane) =>
    lane.targets.map(({ target, state }) => [`${one ? "" : `${lane.tracker}, `}target ${target}`, state]),
  );
}
