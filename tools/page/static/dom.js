// Elements of the page, and the places for its messages.

import { Cancelled } from "./link.js";

export const byId = (id) => document.getElementById(id);

// Tell users of screen readers what has changed.
export function say(text) {
  byId("live").textContent = text;
}

// Show a sentence on what went wrong; an empty text hides it.
export function tellProblem(text = "") {
  byId("problem").hidden = !text;
  byId("problem-text").textContent = text;
}

// Do something that a user asked for, and show what goes wrong. Returns whether all went well.
// `anew`: hide earlier problems first.
export async function attempt(action, anew = true) {
  if (anew) tellProblem();
  try {
    await action();
    return true;
  } catch (error) {
    if (error instanceof Cancelled) say("Cancelled.");
    else tellProblem(error.message);
    return false;
  }
}

// Current work: an upload, and an answer of the server. The one that began first is shown.
const works = new Map();
const shown = () => works.values().next().value;

// Show the progress of the work of that name: `part` is from 0 to 1, or null if it is not known.
// `cancel` ends the work.
export function tellProgress(name, text, part, cancel) {
  const start = works.get(name)?.start ?? performance.now();
  works.set(name, { text, part, cancel, start });
  showWork();
}

export function endProgress(name) {
  works.delete(name);
  showWork();
}

function showWork() {
  const work = shown();
  byId("progress").hidden = !work;
  if (!work) return;
  byId("doing").textContent = work.text;
  byId("left").textContent = timeLeft(work);
  if (work.part === null) byId("bar").removeAttribute("value");
  else byId("bar").value = work.part;
  byId("cancel").hidden = !work.cancel;
}

// Such as "40 s left", once it can be estimated.
function timeLeft({ part, start }) {
  const seconds = (performance.now() - start) / 1000;
  if (!part || seconds < 2) return "";
  return `${Math.ceil((seconds * (1 - part)) / part)} s left`;
}

export function cancelAll() {
  for (const work of works.values()) work.cancel?.();
}

byId("cancel").addEventListener("click", () => shown()?.cancel());
byId("close-problem").addEventListener("click", () => tellProblem());
