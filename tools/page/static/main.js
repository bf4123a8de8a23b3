// The page: its parts, and what it does with the server's messages.

import { attempt, byId, cancelAll, say, tellProblem, tellProgress } from "./dom.js";
import { listen } from "./keys.js";
import { Link } from "./link.js";
import { Player } from "./player.js";
import { Saving } from "./saving.js";
import { Sources } from "./sources.js";
import { Stage } from "./stage.js";
import { Table } from "./table.js";
import { Targets } from "./targets.js";

let farewell = "";
const link = new Link({ hello, queue, progress, bye, closed });
const stage = new Stage(byId("panels"), {
  begin: () => targets.dragging.begin(),
  change: (box) => targets.dragging.change(box),
  finish: (box) => targets.dragging.finish(box),
  giveUp: () => targets.dragging.giveUp(),
});
const table = new Table(link, stage);
const player = new Player(table);
const targets = new Targets(table, player);
const sources = new Sources(table, player);
const saving = new Saving(table, player);
listen(player, targets);
byId("reload").addEventListener("click", () => location.reload());
byId("maps").addEventListener("change", () => table.view && player.jump(table.view.frame));

function wait(title, text, reload = false) {
  byId("waiting").hidden = false;
  byId("workspace").hidden = true;
  byId("waiting-title").textContent = title;
  byId("waiting-text").textContent = text;
  byId("reload").hidden = !reload;
  say(`${title} ${text}`);
}

async function hello(message) {
  byId("waiting").hidden = true;
  byId("workspace").hidden = false;
  byId("limits").textContent =
    `Videos may have ${message.megabytes} MB and ${message.length}. ` +
    "They stay on the server only while this page is open.";
  targets.leastSide = message.leastSide;
  saving.viewer = message.viewer;
  offerTrackers(message.trackers, message.chosen);
  await sources.begin(message);
}

function queue({ place, users }) {
  const others = users === 1 ? "One other person tracks" : `${users} other people track`;
  wait(`You are number ${place} in line.`, `${others} right now. This page starts by itself when it is your turn.`);
}

function progress({ text, done, total }) {
  tellProgress("answer", text, total ? done / total : null, () => link.cancel());
}

function bye({ text }) {
  farewell = text;
}

function closed() {
  player.playing = false;
  cancelAll();
  const text = farewell || "The server has ended, or the network has. Start it again, then load the page again.";
  wait("The connection is closed.", text, true);
}

// Show a checkbox for each tracker, {name, title}; those with a name in `chosen` are ticked.
function offerTrackers(trackers, chosen) {
  const rows = trackers.map(({ name, title }) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: chosen.includes(name) });
    box.addEventListener("change", () => changeTrackers(trackers, box));
    label.append(box, title);
    return label;
  });
  byId("trackers").replaceChildren(...rows);
  useTrackers(trackers);
}

function ticked() {
  return [...byId("trackers").querySelectorAll("input:checked")].map((box) => box.value);
}

function useTrackers(trackers) {
  const used = trackers.filter(({ name }) => ticked().includes(name));
  stage.choose(used);
  saving.choose(used);
}

async function changeTrackers(trackers, box) {
  const names = ticked();
  if (!names.length) {
    box.checked = true;
    tellProblem("At least one tracker is needed. Tick another one first.");
    return;
  }
  await player.pause();
  const undoable = table.view?.undo;
  useTrackers(trackers);
  const done = await attempt(async () => {
    tellProgress("answer", "Loading the tracker", null);
    await table.ask({ do: "trackers", names, frame: table.view?.frame ?? 0 });
    say(`${names.length === 1 ? "1 tracker" : `${names.length} trackers`} in use.`);
    if (undoable) byId("hint").textContent = "Boxes drawn before the trackers changed can no longer be undone.";
  });
  if (done) return;
  box.checked = !box.checked;
  useTrackers(trackers);
}
