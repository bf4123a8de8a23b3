// Where the video comes from: a made-up clip, an upload, the browser's camera.

import { Camera } from "./camera.js";
import { attempt, byId, say, tellProblem, tellProgress } from "./dom.js";
import { send } from "./upload.js";

export class Sources {
  constructor(table, player) {
    this.table = table;
    this.player = player;
    this.viewer = "";
    this.megabytes = 0;
    byId("open-clip").addEventListener("click", () => this.openClip());
    byId("file").addEventListener("change", () => this.openFile());
    byId("camera").addEventListener("click", () => this.toggleCamera());
  }

  // Begin a visit; `hello` has the server's limits.
  begin(hello) {
    this.viewer = hello.viewer;
    this.megabytes = hello.megabytes;
    byId("clip").replaceChildren(...hello.clips.map((title, number) => new Option(title, number)));
    return this.openClip();
  }

  async openClip() {
    await this.leave();
    const number = Number(byId("clip").value);
    await attempt(async () => {
      tellProgress("answer", "Making the clip", null);
      await this.table.ask({ do: "clip", number });
      say(`Opened: ${this.table.view.name}.`);
    });
  }

  async openFile() {
    const [file] = byId("file").files;
    byId("file").value = ""; // so that the same file can be chosen again
    if (!file) return;
    const problem = this.problemOf(file);
    if (problem) {
      tellProblem(problem);
      return;
    }
    await this.player.pause();
    byId("file").disabled = true; // one upload at a time
    await attempt(async () => {
      await send(file, this.viewer);
      await this.leave();
      tellProgress("answer", `The server looks into ${file.name}`, null, () => this.table.link.cancel());
      await this.table.ask({ do: "open" });
      say(`Opened: ${this.table.view.name}.`);
    });
    byId("file").disabled = false;
  }

  problemOf(file) {
    const endings = byId("file").accept.split(",").filter((ending) => ending.startsWith("."));
    if (!endings.some((ending) => file.name.toLowerCase().endsWith(ending)))
      return `The file ${file.name} is no video by its name. Choose one that ends in ${endings.join(", ")}.`;
    if (!file.size) return `The file ${file.name} is empty (0 bytes). Choose another file.`;
    if (file.size > this.megabytes * 1e6) return `The file ${file.name} is larger than ${this.megabytes} MB, the most for this page.`;
    return "";
  }

  async toggleCamera() {
    if (this.player.camera) {
      await this.stopCamera();
      return;
    }
    await this.leave();
    await attempt(async () => {
      const camera = await Camera.open();
      try {
        await this.table.ask({ do: "camera" });
      } catch (error) {
        camera.close();
        throw error;
      }
      this.table.forget();
      this.player.camera = camera;
      camera.onEnd = () => this.stopCamera();
      byId("camera").textContent = "Stop the camera";
    });
    if (this.player.camera) this.player.play();
  }

  // The recording stays open.
  async stopCamera() {
    await this.player.pause();
    this.player.camera?.close();
    this.player.camera = null;
    byId("camera").textContent = "Use the camera";
    this.table.changed();
  }

  // Make room for another video.
  async leave() {
    await this.stopCamera();
    this.table.selected = null;
  }
}
