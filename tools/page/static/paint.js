// Paint a panel's canvas: the frame, the response maps, the boxes.

const LOST = "#ff2828";
const MAP_OPACITY = 0.6;

export function paint(canvas, view, picture, targets, color, drawn) {
  const sharp = window.devicePixelRatio || 1;
  const width = Math.max(Math.round(canvas.clientWidth * sharp), 1);
  const height = Math.max(Math.round((width * view.height) / view.width), 1);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, width, height);
  const scale = width / view.width;
  for (const target of targets) if (target.map) paintMap(context, target.map, scale);
  const several = targets.length > 1;
  for (const target of targets) paintTarget(context, target, several, color, scale, sharp);
  if (drawn) paintBox(context, drawn, scale, sharp, "#ffffff", [6, 4]);
}

function paintTarget(context, target, several, color, scale, sharp) {
  const lost = target.state === "lost";
  const dashes = { tracked: [], unsure: [8, 5], lost: [3, 4] }[target.state];
  const ink = lost ? LOST : color;
  paintBox(context, target.box, scale, sharp, ink, dashes);
  const words = [several ? target.target : "", target.state === "tracked" ? "" : target.state];
  const label = words.filter((word) => word !== "").join(" ");
  if (label) paintLabel(context, label, target.box, scale, sharp, ink);
}

function paintBox(context, [x, y, w, h], scale, sharp, color, dashes) {
  context.save();
  context.setLineDash(dashes.map((length) => length * sharp));
  context.lineWidth = 4.5 * sharp;
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.strokeRect(x * scale, y * scale, w * scale, h * scale);
  context.lineWidth = 2.5 * sharp;
  context.strokeStyle = color;
  context.strokeRect(x * scale, y * scale, w * scale, h * scale);
  context.restore();
}

function paintLabel(context, label, [x, y], scale, sharp, color) {
  context.font = `600 ${13 * sharp}px system-ui, sans-serif`;
  const width = context.measureText(label).width + 10 * sharp;
  const height = 19 * sharp;
  const left = Math.max(x * scale, 0);
  const top = Math.max(y * scale - height, 0);
  context.fillStyle = color;
  context.fillRect(left, top, width, height);
  context.fillStyle = color === LOST ? "#ffffff" : "#101418";
  context.textBaseline = "middle";
  context.fillText(label, left + 5 * sharp, top + height / 2);
}

function paintMap(context, map, scale) {
  const levels = Uint8Array.from(atob(map.levels), (letter) => letter.charCodeAt(0));
  const image = new ImageData(map.columns, map.rows);
  levels.forEach((level, place) => image.data.set(heat(level), 4 * place));
  const small = document.createElement("canvas");
  Object.assign(small, { width: map.columns, height: map.rows });
  small.getContext("2d").putImageData(image, 0, 0);
  const [x, y, w, h] = map.box.map((value) => value * scale);
  context.save();
  context.globalAlpha = MAP_OPACITY;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x, y, w, h);
  context.restore();
}

// From dark blue through red to light yellow: red, green, blue and opacity, from 0 to 255.
function heat(level) {
  const part = level / 255;
  const red = 255 * Math.min(1, 1.7 * part);
  const green = 255 * Math.max(0, 1.8 * part - 0.8);
  const blue = 255 * Math.max(0.35 - 0.7 * part, 3 * part - 2.2, 0);
  return [red, green, blue, 90 + 165 * part];
}
