// Boxes, pictures and videos, saved as files by the browser.

import { attempt, byId, say, tellProgress } from "./dom.js";

const KEPT = 60_000; // milliseconds until the data of a saved file is released

export class Saving {
  constructor(table, player) {
    this.table = table;
    this.player = player;
    this.viewer = "";
    for (const button of document.querySelectorAll("[data-form]"))
      button.addEventListener("click", () => this.save({ do: "boxes", form: button.dataset.form }));
    byId("picture").addEventListener("click", () =>
      this.save({ do: "picture", frame: this.table.view?.frame ?? 0 }),
    );
    byId("video").addEventListener("click", () => this.saveVideo());
  }

  // The trackers, {name, title}, whose results can be saved.
  choose(trackers) {
    byId("of-tracker").hidden = trackers.length < 2;
    byId("saved").replaceChildren(...trackers.map(({ name, title }) => new Option(title, name)));
  }

  async save(message) {
    await this.player.pause();
    await attempt(async () => {
      const { header, data } = await this.table.ask({ ...message, tracker: byId("saved").value });
      const address = URL.createObjectURL(new Blob([data]));
      download(address, header.name);
      setTimeout(() => URL.revokeObjectURL(address), KEPT);
    });
  }

  async saveVideo() {
    await this.player.pause();
    await attempt(async () => {
      tellProgress("answer", "Writing the video", null, () => this.table.link.cancel());
      const { header } = await this.table.ask({ do: "video", tracker: byId("saved").value });
      download(`/video/${this.viewer}`, header.name);
      if (header.note) byId("hint").textContent = header.note;
    });
  }
}

function download(address, name) {
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  say(`Saved: ${name}.`);
}
