// A box drawn by mouse, pen or finger.

import { between, placeIn } from "./geometry.js";

const TAP = 2; // pixels of the screen; what moves by less draws no box

// `on` has functions: begin(), which returns whether a box may be drawn, change(box) while it is
// drawn, finish(box), and giveUp(). `frame()` gives the size of the video's frame.
// Aborting `signal` ends it.
export function letDraw(canvas, frame, on, signal) {
  let start = null; // in the frame
  let touched = null; // the same place, [x, y] on the screen
  let pointer = null;

  const place = (event) =>
    placeIn(frame(), canvas.getBoundingClientRect(), event.clientX, event.clientY);

  const stop = () => {
    if (pointer !== null && canvas.hasPointerCapture(pointer)) canvas.releasePointerCapture(pointer);
    start = pointer = null;
  };

  const giveUp = () => {
    if (pointer === null) return;
    stop();
    on.giveUp();
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0 || !on.begin()) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    start = place(event);
    touched = [event.clientX, event.clientY];
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId === pointer) on.change(between(start, place(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (event.pointerId !== pointer) return;
    if (Math.hypot(event.clientX - touched[0], event.clientY - touched[1]) < TAP) {
      giveUp();
      return;
    }
    const box = between(start, place(event));
    stop();
    on.finish(box);
  });
  canvas.addEventListener("pointercancel", (event) => {
    if (event.pointerId === pointer) giveUp();
  });
  const escape = (event) => {
    if (event.key === "Escape") giveUp();
  };
  document.addEventListener("keydown", escape, { signal });
}
