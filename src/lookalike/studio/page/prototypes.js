// Prototypes by class: filters, selection, and the dialog of one prototype.
import { edit, get, store, told, tryOut } from "./desk.js";
import { chunksOf, drawFirst, restart } from "./grid.js";
import { button, choice, close, make, open, percent, picture } from "./parts.js";

const filter = { text: "", only: "all" };
const KINDS = { all: "all", impure: "impure (below 75%)", starved: "fewer than 5 images", named: "named", pinned: "pinned" };

const fits = (p) =>
  (!filter.text || `${p.class} ${p.name ?? ""} ${p.description}`.toLowerCase().includes(filter.text))
  && ({ all: true, impure: p.purity !== null && p.purity < .75, starved: p.count < 5, named: p.name !== null, pinned: p.pinned })[filter.only];

const titleOf = (p) => `${p.name ?? `Prototype ${p.prototype}`} (${p.class})`;

const tile = (p) => {
  const box = make("input", { type: "checkbox", checked: store.selected.has(p.prototype), "aria-label": `Select ${titleOf(p)}` });
  box.addEventListener("change", () => {
    box.checked ? store.selected.add(p.prototype) : store.selected.delete(p.prototype);
    box.parentElement.classList.toggle("selected", box.checked);  // a style by :has() would cost each frame of scrolling
    selection();
  });
  const flags = [p.pinned ? "pinned" : "", p.purity !== null && p.purity < .75 ? "impure" : "", p.count < 5 ? "starved" : ""].filter(Boolean);
  return make("div", { className: box.checked ? "proto selected" : "proto" },
    make("button", { type: "button", className: "tile", "data-prototype": p.prototype, onclick: () => show(p.prototype) },
      p.nearest.length ? picture(p.nearest[0], "") : make("span", { className: "blank" }, "no image"),
      make("span", { className: "caption" }, make("b", {}, p.name ?? `Prototype ${p.prototype}`), make("br"),
        `${p.count} ${p.count === 1 ? "image" : "images"}, ${percent(p.purity)} pure`, flags.length ? make("span", { className: "flag" }, ` · ${flags.join(", ")}`) : null)),
    box);
};

const selection = () => {
  const bar = document.getElementById("selection");
  if (!bar) return;
  const chosen = [...store.selected].sort((a, b) => a - b);
  bar.replaceChildren(make("span", {}, chosen.length ? `${chosen.length} selected` : "Select prototypes to drop or merge them."),
    ...(chosen.length ? [button("Drop", () => dropSelected(), "danger")] : []),
    ...(chosen.length > 1 ? [button("Merge", () => mergeSelected())] : []));
};
export const dropSelected = () => store.selected.size && edit({ edit: "drop", prototypes: [...store.selected] });
export const mergeSelected = () => store.selected.size > 1 && edit({ edit: "merge", prototypes: [...store.selected] });

const list = (root) => {
  const groups = new Map();
  for (const p of store.state.prototypes) {
    if (!fits(p)) continue;
    if (!groups.has(p.class)) groups.set(p.class, []);
    groups.get(p.class).push(p);
  }
  restart();
  const width = root.clientWidth;
  root.replaceChildren(...[...groups].map(([name, rows]) => make("section", { className: "class", "aria-label": name },
    make("h2", {}, `${name} · ${rows.length}`), ...chunksOf(rows, tile, width))));
  drawFirst(root, store.focus);
  if (!groups.size) root.replaceChildren(make("p", {}, "No prototype fits the filter."));
};

export const prototypes = (panel) => {
  const root = make("div");
  const search = make("input", { type: "search", id: "search", value: filter.text, placeholder: "class, name or description" });
  search.addEventListener("input", () => { filter.text = search.value.toLowerCase(); list(root); });
  const only = make("select", { id: "only" }, ...Object.entries(KINDS).map(([value, text]) => make("option", { value, selected: value === filter.only }, text)));
  only.addEventListener("change", () => { filter.only = only.value; list(root); });
  panel.replaceChildren(
    make("div", { className: "filters" }, make("label", {}, "Search", search), make("label", {}, "Show", only)),
    make("div", { className: "actions", id: "selection" }), root);
  selection();
  list(root);
};

const nearest = (p) => make("ul", { className: "strip" }, ...p.nearest.map((sample, rank) => make("li", {}, picture(sample, `Training image ${sample}`),
  p.percentiles[rank] === null ? "none is behind it" : `${Math.round(p.percentiles[rank])}% are as near`, rank ? make("br") : null,
  rank ? make("button", { type: "button", className: "link", onclick: () => done({ edit: "show", prototype: p.prototype, sample }) }, "show by this") : null)));

const done = async (values) => { if (await edit(values, noteOf())) close(); };
const noteOf = () => document.getElementById("note")?.value ?? "";

export const show = async (number) => {
  const p = store.state.prototypes[number];
  const name = make("input", { value: p.name ?? "", maxLength: 200, id: "name" });
  const words = make("textarea", { value: p.description, rows: 2, id: "description" });
  const n = make("input", { type: "number", min: 2, max: 20, value: 2 });
  const to = choice(store.state.classes, p.class, "Move to class");
  const shares = ["left", "top", "right", "bottom"].map((side, i) => make("input", { type: "number", min: 0, max: 100, value: i < 2 ? 25 : 75, "aria-label": `${side}, %` }));
  const region = () => ({ edit: "restrict", prototype: number, region: shares.map((input) => Number(input.value) / 100) });
  const neighbours = make("ul", { className: "strip" });
  open(titleOf(p),
    make("p", {}, `${p.count} training images are nearest to it in its class; ${percent(p.purity)} of those most similar to it are of ${p.class}.`
      + (p.region ? " It is restricted to a part of its image." : "")),
    make("div", { className: "actions" },
      button("Drop", () => done({ edit: "drop", prototypes: [number] }), "danger"),
      button("Split", () => done({ edit: "split", prototype: number, n: Number(n.value) })),
      button(p.pinned ? "Unpin" : "Pin", () => done({ edit: "pin", prototype: number, pinned: !p.pinned })),
      button("What would dropping do?", () => { tryOut({ edit: "drop", prototypes: [number] }).then(() => told(document.getElementById("status").textContent)); close(); })),
    make("div", { className: "fields" },
      make("label", {}, "Name", name), make("label", {}, "Description", words), make("label", {}, "Split into", n), to,
      make("label", {}, "Why (for the log)", make("input", { id: "note" }))),
    make("div", { className: "actions" },
      button("Save name", () => done({ edit: "rename", prototype: number, title: name.value.trim() || null })),
      button("Save description", () => done({ edit: "describe", prototype: number, description: words.value })),
      button("Move", () => done({ edit: "move", prototype: number, class_name: to.querySelector("select").value }))),
    make("h3", {}, "Its nearest training images"), nearest(p),
    make("h3", {}, "Its most similar prototypes"), neighbours,
    make("details", {}, make("summary", {}, "Restrict it to a part of its image"),
      make("div", { className: "actions" }, ...shares, "% left, top, right, bottom", button("Restrict", () => done(region())))));
  for (const other of (await get(`api/near/${number}`)).near) {
    const q = store.state.prototypes[other];
    neighbours.append(make("li", {}, q.nearest.length ? picture(q.nearest[0], "") : null,
      make("button", { type: "button", className: "link", onclick: () => show(other) }, titleOf(q))));
  }
};
