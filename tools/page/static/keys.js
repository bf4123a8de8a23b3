// Keys that work wherever the focus is, except in fields that use them themselves.

export function listen(player, targets) {
  const actions = {
    ArrowRight: () => player.step(1),
    ArrowLeft: () => player.step(-1),
    d: () => player.step(1),
    a: () => player.step(-1),
    " ": () => player.toggle(),
  };
  document.addEventListener("keydown", (event) => {
    if (isText(event.target)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "z" && !event.shiftKey) {
      event.preventDefault();
      targets.undo();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!actions[key] || isUsedBy(event.target, key)) return;
    event.preventDefault();
    if (event.repeat && (player.waiting || key === " ")) return; // a key that is held down
    actions[key]();
  });
}

function isText(element) {
  return element.matches("input:not([type=range], [type=radio], [type=checkbox], [type=file]), textarea");
}

function isUsedBy(element, key) {
  if (key === " ") return element.matches("button, summary, select, input:not([type=range])");
  return element.matches("select, input[type=radio]");
}
