// Boxes are [x, y, width, height] in pixels of the video's frame.

// The place of a pointer in the frame, inside of it. `shown` is where the frame is on the screen.
export function placeIn(frame, shown, clientX, clientY) {
  const x = ((clientX - shown.left) * frame.width) / shown.width;
  const y = ((clientY - shown.top) * frame.height) / shown.height;
  return [clamp(x, 0, frame.width), clamp(y, 0, frame.height)];
}

// The box between two corners, in whatever direction they were dragged.
export function between([x, y], [otherX, otherY]) {
  return [Math.min(x, otherX), Math.min(y, otherY), Math.abs(x - otherX), Math.abs(y - otherY)];
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

export function rounded(box) {
  return box.map((value) => Math.round(value * 10) / 10);
}

export function inWords([x, y, w, h]) {
  return `x ${Math.round(x)}, y ${Math.round(y)}, ${Math.round(w)} by ${Math.round(h)} pixels`;
}
