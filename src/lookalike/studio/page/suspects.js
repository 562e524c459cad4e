// What deserves a second look: parts of images that carry a class along, labels, duplicates, outliers.
import { correct, edit, get, store, told } from "./desk.js";
import { button, choice, make, percent, picture } from "./parts.js";
import { show } from "./prototypes.js";

const WHERE = { middle: "the middle", edge: "the edge", background: "the background" };
const listed = (numbers) => numbers.map((j) => store.state.prototypes[j].name ?? j).join(", ");

// The part as a frame on the picture, so that one sees what is meant.
const framed = (sample, group) => {
  const frame = make("span", { className: group.side === "outside" ? "part outside" : "part" });
  frame.hidden = group.side === "background";
  const [left, top, right, bottom] = group.region;
  for (const [name, value] of Object.entries({ left, top, width: right - left, height: bottom - top })) frame.style[name] = `${100 * value}%`;
  return make("span", { className: "framed" }, picture(sample, `Training image ${sample}, with the part`), frame);
};

const shortcutOf = (group) => {
  const where = WHERE[group.part] ?? `the ${group.part}`;
  const several = group.prototypes.length > 1;
  return make("article", { className: "suspect", "aria-label": `${group.class}: ${where}` },
    make("div", {}, ...group.samples.slice(0, 3).map((sample) => framed(sample, group))),
    make("div", {},
      make("p", {}, make("b", {}, `${group.class}: ${where} of the picture ${group.alike ? "is alike" : "decides"}`)),
      make("p", {}, (group.alike ? `It is alike on ${percent(group.alike)} of the ${group.n_alike} images of ${group.class} that were compared, more than any is like one of another class. ` : "") + `Put on ${group.n} images of other classes, ${where} of ${several ? "their images" : "its image"} turns ${percent(group.share)} of them into ${group.class}. `
        + "Is that the object itself, or something beside it, such as a mark or a background?"),
      make("p", { className: "muted small" }, `${several ? "Prototypes" : "Prototype"} ${listed(group.prototypes)}. What they are judged on may have the same fault: `
        + `then the accuracy falls when it is taken out. Judge it on clean images (--validation).`),
      make("div", { className: "actions" },
        button(`Take ${where} out of ${several ? `these ${group.prototypes.length} prototypes` : "this prototype"}`,
          () => edit({ edit: "erase", prototypes: group.prototypes, region: group.region, side: group.side }, `${group.part} goes with ${group.class}`), "main"),
        button("Open", () => show(group.prototypes[0])),
        button(several ? "Drop them" : "Drop it", () => edit({ edit: "drop", prototypes: group.prototypes }), "danger"))));
};

const shortcuts = async (root) => {
  root.replaceChildren(make("p", {}, "Comparing parts of images, and putting them on images of other classes…"));
  try {
    const { groups, n_tried, n } = await get("api/shortcuts");
    store.shortcutsAt = store.state.revision;
    root.replaceChildren(
      make("p", {}, groups.length ? `Parts that go with a class${n_tried < n ? `, of the ${n_tried} prototypes with most images` : ""}:`
        : `No part of ${n_tried < n ? `the ${n_tried} prototypes with most images` : "any prototype"} goes with its class.`),
      ...groups.map(shortcutOf));
  } catch (error) {
    root.replaceChildren();
    told(error.message, "bad");
  }
};

const listOf = (counts, rows) => {
  const noted = new Map(store.state.corrections.map((row) => [row.sample, row.corrected]));
  const shown = (name) => {
    const n = rows.filter((row) => row.kind === name).length;
    return n < counts[name] ? `${name} (the first ${n} of ${counts[name]})` : `${name} (${n})`;
  };
  const kind = choice(Object.keys(counts).map((name) => [name, shown(name)]), store.suspectKind, "Kind");
  const select = kind.querySelector("select"), list = make("div");
  const fill = () => {
    store.suspectKind = select.value;
    list.replaceChildren(...rows.filter((row) => row.kind === select.value).map((row) => {
      const to = choice(store.state.classes, noted.get(row.sample) ?? row.suggested ?? row.label, "Its label should be");
      const mayCorrect = row.part === "train";
      return make("article", { className: "suspect" },
        make("div", {}, picture(row.sample, `Training image ${row.sample}, labelled ${row.label}`),
          row.other && row.other[0] === "train" ? picture(row.other[1], `Training image ${row.other[1]}, to compare with`) : null),
        make("div", {},
          make("p", {}, make("b", {}, `${row.rank}. ${row.label}${row.suggested ? ` → ${row.suggested}?` : ""}`), noted.has(row.sample) ? " · noted" : ""),
          make("p", {}, `${row.reason}.`), make("p", { className: "muted small" }, row.name || `training image ${row.sample}`),
          mayCorrect ? make("div", { className: "actions" }, to, button("Note it", () => correct(row.sample, to.querySelector("select").value))) : null));
    }));
  };
  select.addEventListener("change", fill);
  fill();
  return [make("div", { className: "filters" }, kind), list];
};

export const suspects = async (panel) => {
  const parts = make("section", { "aria-label": "Shortcuts" }), data = make("section", { "aria-label": "Data" });
  panel.replaceChildren(
    make("h2", {}, "Shortcuts"),
    make("p", {}, "Does a mark, a border or a background decide? Each part of a prototype's images is put on images of other classes. "
      + "And is a part alike on most images of a class, and on no other?"),
    make("div", { className: "actions" }, button("Look for shortcuts", () => shortcuts(parts))), parts,
    make("h2", {}, "Labels, duplicates, outliers"), data);
  const looking = store.shortcutsAt !== undefined ? shortcuts(parts) : null;  // again, after an edit
  data.replaceChildren(make("p", {}, "Comparing all training images…"));
  const { counts, suspects: rows, notes } = await get("api/suspects");
  data.replaceChildren(
    make("p", {}, rows.length ? "Notes go to corrected-labels.csv in the model's folder; your own files stay as they are. "
      + "To convert with them: lookalike convert … --corrections FILE." : "No training image stands out."),
    ...notes.map((note) => make("p", { className: "muted" }, `Note: ${note}.`)),
    ...(rows.length ? listOf(counts, rows) : []));
  await looking;
};
