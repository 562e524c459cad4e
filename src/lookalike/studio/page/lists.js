// Wrong predictions, suspects, the log, and this-looks-like-that for a dropped image.
import { addImage, correct, get, move, post, store, told } from "./desk.js";
import { button, choice, make, picture, percent } from "./parts.js";
import { show } from "./prototypes.js";

export const wrong = async (panel) => {
  panel.replaceChildren(make("p", {}, "Looking…"));
  const { n, part, samples } = await get("api/wrong");
  const list = make("ul", { className: "strip" });
  const fill = (rows) => list.replaceChildren(...rows.map((row) => make("li", { title: row.doubt ?? "" }, picture(row.sample, ""),
    make("span", { className: "is-wrong" }, row.predicted), make("br"), `is ${row.true}`)));
  panel.replaceChildren(
    make("p", {}, n ? `${n} wrong predictions among the ${part} images${n > samples.length ? `; the first ${samples.length} are shown` : ""}.` : "No prediction is wrong."),
    ...doubtFilter(samples, fill), list);
  fill(samples);
};

// A calibrated model says of each image what it may be, and whether it would answer: show those of one kind.
const doubtFilter = (samples, fill) => {
  const kinds = new Map([["all", () => true], ...["one class", "several classes", "nothing I know"].map((kind) => [kind, (row) => row.set === kind]),
    ["too unsure for an answer", (row) => row.answered === false]]);
  if (!samples.some((row) => row.set)) return [];
  const named = new Map([...kinds].map(([kind, test]) => [`${kind} (${samples.filter(test).length})`, test]));
  const chosen = choice([...named.keys()], null, "The model says");
  chosen.addEventListener("change", () => fill(samples.filter(named.get(chosen.querySelector("select").value))));
  return [make("div", { className: "filters" }, chosen)];
};

export const suspects = async (panel) => {
  panel.replaceChildren(make("p", {}, "Comparing all training images…"));
  const { counts, suspects: rows } = await get("api/suspects");
  const noted = new Map(store.state.corrections.map((row) => [row.sample, row.corrected]));
  const kind = choice(Object.keys(counts), null, "Kind");
  const list = make("div");
  const fill = () => list.replaceChildren(...rows.filter((row) => row.kind === kind.querySelector("select").value).map((row) => {
    const to = choice(store.state.classes, noted.get(row.sample) ?? row.suggested ?? row.label, "Its label should be");
    return make("article", { className: "suspect" }, picture(row.sample, ""), make("div", {},
      make("p", {}, make("b", {}, `${row.rank}. ${row.label}${row.suggested ? ` → ${row.suggested}?` : ""}`), noted.has(row.sample) ? " · noted" : ""),
      make("p", {}, `${row.reason}.`), make("p", { className: "muted small" }, row.name || `training image ${row.sample}`),
      make("div", { className: "actions" }, to, button("Note it", () => correct(row.sample, to.querySelector("select").value)))));
  }));
  kind.querySelector("select").addEventListener("change", fill);
  panel.replaceChildren(
    make("p", {}, rows.length ? "Notes go to corrected-labels.csv in the model's folder; your own files stay as they are." : "No training image stands out."),
    ...(rows.length ? [make("div", { className: "filters" }, kind), list] : []));
  if (rows.length) fill();
};

export const log = (panel) => {
  const { log: entries, head } = store.state;
  const present = new Set([0]);
  for (let at = head; at > 0; at = entries[at].parent) present.add(at);
  const figure = (share) => `${(100 * share).toFixed(2)}%`;
  panel.replaceChildren(
    make("p", {}, `The model is at edit ${head}. Nothing is ever lost: any state can be gone back to. The test part was looked at ${store.state.test_opened} times.`),
    make("div", { className: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["Edit", "Why", "Who, when", "Accuracy", "Changed", ""].map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...[...entries].reverse().map((entry) => make("tr", {},
        make("th", { scope: "row" }, `${entry.number} ${entry.sentence || "before all edits"}${present.has(entry.number) ? "" : " (undone)"}`),
        make("td", {}, entry.note), make("td", { className: "small" }, `${entry.who} ${entry.when}`),
        make("td", { className: "number" }, entry.effect ? `${figure(entry.effect.before)} → ${figure(entry.effect.after)}` : "–"),
        make("td", { className: "number" }, entry.effect ? String(entry.effect.n_changes) : "–"),
        make("td", {}, entry.number === head ? "present" : button("Go here", () => move(entry.number)))))))));
};

export const look = (panel) => {
  const chooser = make("input", { type: "file", accept: "image/*", id: "file" });
  const zone = make("div", { className: "drop" }, make("label", {}, "Drop an image here, or choose one: ", chooser));
  const answer = make("div", { "aria-live": "polite" });
  const take = async (file) => {
    if (!file) return;
    answer.replaceChildren(make("p", {}, "Looking…"));
    try {
      const found = await post("api/look", file);
      const own = make("img", { alt: "your image" });
      own.src = URL.createObjectURL(file);
      const to = choice(store.state.classes, found.class, "Class");
      answer.replaceChildren(make("h2", {}, `${found.class}, probability ${percent(found.probability)}`), make("p", {}, found.sentence),
        ...(found.set === null ? [make("p", { className: "muted small" }, "The model is not calibrated: nothing is promised about this probability.")] : []),
        make("ul", { className: "strip" }, make("li", {}, own, "your image"), ...found.likenesses.map((near) => make("li", {},
          picture(near.sample, ""), make("button", { type: "button", className: "link", onclick: () => show(near.prototype) }, `prototype ${near.prototype} (${near.class})`)))),
        make("div", { className: "filters" }, to, button("Add it as a prototype", () => addImage(file, to.querySelector("select").value), "main")));
    } catch (error) {
      answer.replaceChildren();
      told(error.message, "bad");
    }
  };
  chooser.addEventListener("change", () => take(chooser.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
  panel.replaceChildren(zone, answer);
};
