// The page: tabs, undo and redo, keys.
import { move, refresh, store, told } from "./desk.js";
import { close, make, open } from "./parts.js";
import { dropSelected, mergeSelected, prototypes } from "./prototypes.js";
import { map } from "./map.js";
import { log, look, wrong } from "./lists.js";
import { suspects } from "./suspects.js";

const TABS = [["Prototypes", prototypes], ["Map", map], ["Wrong", wrong], ["Suspects", suspects], ["This looks like…", look], ["Log", log]];
const panel = document.getElementById("panel"), tabs = document.getElementById("tabs");
let present = 0;

// Each view has an element of its own: one that still waits for its data when another is drawn fills nothing that is seen.
const draw = () => {
  const view = make("div");
  panel.replaceChildren(view);
  return Promise.resolve(TABS[present][1](view)).catch((error) => told(error.message, "bad"));
};
const select = (i, focus = false) => {
  present = i;
  for (const [k, tab] of [...tabs.children].entries()) {
    tab.setAttribute("aria-selected", String(k === i));
    tab.tabIndex = k === i ? 0 : -1;
  }
  panel.setAttribute("aria-labelledby", tabs.children[i].id);
  if (focus) tabs.children[i].focus();
  draw();
};
tabs.append(...TABS.map(([name], i) => make("button", { type: "button", role: "tab", id: `tab-${i}`, "aria-controls": "panel", "aria-selected": String(i === 0), tabIndex: i ? -1 : 0, onclick: () => select(i) }, name)));
tabs.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) select((present + step + TABS.length) % TABS.length, true);
});

store.listeners.push(() => {
  const { model, figures, can_undo, can_redo, prototypes: rows, classes } = store.state;
  document.title = `${model} · studio`;
  document.getElementById("model").textContent = model;
  document.getElementById("figures").textContent = `${rows.length} prototypes of ${classes.length} classes`
    + (figures ? `; accuracy ${(100 * figures.accuracy).toFixed(2)}% on ${figures.n} ${figures.part} images` : "");
  document.getElementById("undo").disabled = !can_undo;
  document.getElementById("redo").disabled = !can_redo;
  const top = window.scrollY;
  draw().then(() => window.scrollTo(0, top));
});
document.getElementById("undo").onclick = () => move("undo");
document.getElementById("redo").onclick = () => move("redo");
document.getElementById("close").onclick = close;

const KEYS = [["u", "undo"], ["r", "redo"], ["1 … 6", "the views"], ["/", "search"], ["x", "select the prototype in focus"],
  ["d", "drop the selected prototypes"], ["m", "merge the selected prototypes"], ["Enter", "open the prototype in focus"], ["Esc", "close"]];
const help = () => open("Keys", make("dl", {}, ...KEYS.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)])));
document.getElementById("help").onclick = help;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea") || document.getElementById("dialog").open) return;
  const number = Number(event.key);
  if (number >= 1 && number <= TABS.length) select(number - 1, true);
  else if (event.key === "u" && store.state.can_undo) move("undo");
  else if (event.key === "r" && store.state.can_redo) move("redo");
  else if (event.key === "?") help();
  else if (event.key === "d") dropSelected();
  else if (event.key === "m") mergeSelected();
  else if (event.key === "x") document.activeElement.closest(".proto")?.querySelector("input").click();
  else if (event.key === "/") { select(0); document.getElementById("search").focus(); }
  else return;
  event.preventDefault();
});

panel.setAttribute("aria-labelledby", "tab-0");
refresh().catch((error) => told(error.message, "bad"));
