// Playing, stepping and jumping in time.

import { attempt, byId, say, tellProblem } from "./dom.js";
import { clamp } from "./geometry.js";

export class Player {
  constructor(table) {
    this.table = table;
    this.camera = null; // the camera, while it is in use
    this.playing = false;
    this.running = null; // a promise of the end of playing
    this.steps = Promise.resolve(); // a promise of the last requested step
    this.waiting = 0; // number of requested steps
    this.wanted = null; // the frame to show next, while another one loads
    table.watchers.push((view) => this.tell(view));
    byId("play").addEventListener("click", () => this.toggle());
    byId("back").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("slider").addEventListener("input", () => this.jump(Number(byId("slider").value)));
  }

  async toggle() {
    tellProblem();
    if (!this.playing) return this.play();
    await this.pause();
    return say(`Paused at frame ${this.table.view?.frame ?? 0}.`);
  }

  async play() {
    if (this.running || !(this.table.view || this.camera)) return;
    this.playing = true;
    this.tell(this.table.view);
    say("Playing.");
    this.running = attempt(() => this.loop(), false);
    await this.running;
    this.running = null;
    this.playing = false;
    this.tell(this.table.view);
  }

  // Returns when the last request has been answered.
  async pause() {
    this.playing = false;
    await this.running;
  }

  async loop() {
    if (this.table.view) await this.playKept();
    while (this.playing && this.camera) {
      const asked = performance.now();
      const picture = await this.camera.grab();
      await this.table.ask({ do: "frame", asked, seconds: this.camera.seconds() }, picture);
    }
  }

  // Play the frames that the server has, and track in those that were not tracked yet.
  async playKept() {
    let frame = await this.startOfPlay();
    while (this.playing) {
      const due = performance.now() + this.period();
      const { header } = await this.table.ask({ do: "step", frame });
      if (header.type === "ended") {
        this.end(header);
        return;
      }
      frame = header.frame;
      await until(due);
    }
  }

  // The frame after which playing goes on; at the end of the video it starts again.
  async startOfPlay() {
    const { frame, count, reach } = this.table.view;
    if (this.camera) return reach ? Math.min(reach[0], count - 1) : count - 1;
    if (reach && frame > reach[1]) {
      say(`Tracking goes on from frame ${reach[1]}.`);
      return reach[1];
    }
    if (frame < count - 1) return frame;
    await this.table.ask({ do: "show", frame: 0 });
    return 0;
  }

  end(header) {
    this.table.view.count = header.count;
    if (this.camera) return;
    this.playing = false;
    say(`This is the last frame. ${header.note}`);
    if (header.note) tellProblem(`${header.note}.`);
  }

  period() {
    return this.camera || byId("hurry").checked ? 0 : 1000 / this.table.view.fps;
  }

  // Go one frame on or back; steps that are requested meanwhile follow.
  step(by) {
    if (!this.table.view) return;
    this.waiting += 1;
    this.steps = this.steps.then(() => this.takeStep(by)).finally(() => (this.waiting -= 1));
  }

  async takeStep(by) {
    await this.pause();
    const { frame } = this.table.view;
    if (by < 0) {
      await this.jump(frame - 1);
      return;
    }
    await attempt(async () => {
      const { header } = await this.table.ask({ do: "step", frame });
      if (header.type === "ended") this.end(header);
    });
  }

  // Show a frame; while it loads, only the last of further requests is kept.
  async jump(frame) {
    if (!this.table.view) return;
    const busy = this.wanted !== null;
    this.wanted = clamp(frame, 0, this.table.view.count - 1);
    if (busy) return;
    await this.pause();
    await attempt(async () => {
      for (let asked = null; asked !== this.wanted; ) {
        asked = this.wanted;
        await this.table.ask({ do: "show", frame: asked });
      }
    });
    this.wanted = null;
    this.table.changed();
  }

  tell(view) {
    byId("play").textContent = this.playing ? "Pause" : "Play";
    for (const id of ["back", "next", "slider"]) byId(id).disabled = !view;
    byId("play").disabled = !(view || this.camera);
    byId("opened").textContent = view?.name ?? "";
    if (!view) return;
    const slider = byId("slider");
    slider.max = view.count - 1;
    if (this.wanted === null) slider.value = view.frame;
    slider.setAttribute("aria-valuetext", `frame ${view.frame} of ${view.count}`);
    byId("place").textContent = `frame ${view.frame} / ${view.count - 1}, ${view.seconds.toFixed(2)} s`;
  }
}

function until(time) {
  const left = time - performance.now();
  return left > 0 ? new Promise((resolve) => setTimeout(resolve, left)) : undefined;
}
