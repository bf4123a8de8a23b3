// Elements of the page, and the places where it speaks.

import { Cancelled } from "./link.js";

export const byId = (id) => document.getElementById(id);

// Tell people who do not see the page what has changed.
export function say(text) {
  byId("live").textContent = text;
}

// Show a sentence on what went wrong; none hides it.
export function tellProblem(text = "") {
  byId("problem").hidden = !text;
  byId("problem").textContent = text;
}

// Do something that a user asked for, and show what goes wrong. Returns whether all went well.
// `anew`: what went wrong before is hidden.
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

let cancelWork = () => {};

// Show how far some work is, from 0 to 1, or null where nobody knows; `cancel` ends it.
export function tellProgress(text, part, cancel) {
  byId("progress").hidden = false;
  byId("doing").textContent = text;
  if (part === null) byId("bar").removeAttribute("value");
  else byId("bar").value = part;
  byId("cancel").hidden = !cancel;
  cancelWork = cancel ?? (() => {});
}

export function endProgress() {
  byId("progress").hidden = true;
}

byId("cancel").addEventListener("click", () => cancelWork());
