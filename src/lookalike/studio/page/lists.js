// Wrong predictions, the log, and this-looks-like-that for a dropped image.
import { addImage, get, move, openTest, post, store, told } from "./desk.js";
import { button, choice, make, picture, percent } from "./parts.js";
import { show } from "./prototypes.js";

export const wrong = async (panel) => {
  panel.replaceChildren(make("p", {}, "Looking…"));
  const { n, part, pictures, samples } = await get("api/wrong");
  const list = make("ul", { className: "strip" });
  const fill = (rows) => list.replaceChildren(...rows.map((row) => make("li", { title: row.doubt ?? "" }, picture(row.sample, `Image ${row.sample}`, pictures),
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

// A time of the log to the minute, on this machine's clock.
const minute = (when) => when && new Date(when).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

const testPart = () => {
  const { openings, has_test: hasTest } = store.state;
  const why = make("input", { id: "why-test", placeholder: "why" });
  return [
    make("h2", {}, "Test part"),
    make("p", {}, `It was opened ${openings.length} ${openings.length === 1 ? "time" : "times"}. Each time makes its figures a little less honest, so it is counted.`),
    ...openings.map((row) => make("p", { className: "muted small" },
      `Edit ${row.number}: ${(100 * row.effect.before).toFixed(2)}% before all edits, ${(100 * row.effect.after).toFixed(2)}% then; ${row.who} ${minute(row.when)}: ${row.note}`)),
    ...(hasTest ? [make("div", { className: "filters" }, make("label", {}, "Why it is opened", why), button("Open the test part", () => openTest(why.value)))] : []),
    make("h2", {}, "Edits"),
  ];
};

export const log = (panel) => {
  const { log: entries, head } = store.state;
  const present = new Set([0]);
  for (let at = head; at > 0; at = entries[at].parent) present.add(at);
  const figure = (share) => `${(100 * share).toFixed(2)}%`;
  panel.replaceChildren(
    make("p", {}, `The model is at edit ${head}. Nothing is ever lost: any state can be gone back to.`),
    ...testPart(),
    make("div", { className: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["Edit", "Why", "Who, when", "Accuracy", "Changed", "Go there"].map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...[...entries].reverse().map((entry) => make("tr", {},
        make("th", { scope: "row" }, `${entry.number} ${entry.sentence || "before all edits"}${present.has(entry.number) ? "" : " (undone)"}`),
        make("td", {}, entry.note), make("td", { className: "small" }, `${entry.who} ${minute(entry.when)}`),
        make("td", { className: "number" }, entry.effect ? `${figure(entry.effect.before)} → ${figure(entry.effect.after)}` : "–"),
        make("td", { className: "number" }, entry.effect ? String(entry.effect.n_changes) : "–"),
        make("td", {}, entry.number === head ? "present" : button("Go here", () => move(entry.number)))))))));
};

const warningOf = ({ unfamiliar }) => (unfamiliar
  ? [make("p", { className: "warning" }, "Unfamiliar: do not rely on the answer.")] : []);

export const look = (panel) => {
  const chooser = make("input", { type: "file", accept: "image/*", id: "file" });
  const zone = make("div", { className: "drop" }, make("label", {}, "Drop an image here, or choose one: ", chooser));
  const answer = make("div", { "aria-live": "polite" });
  const take = async (file) => {
    if (!file) return;
    answer.replaceChildren(make("p", {}, "Looking…"));
    told("");
    try {
      const found = await post("api/look", file);
      const own = make("img", { alt: "your image" });
      own.src = URL.createObjectURL(file);
      const to = choice(store.state.classes, found.class, "Class");
      answer.replaceChildren(make("h2", {}, `${found.class}, probability ${percent(found.probability)}`), make("p", {}, found.sentence), ...warningOf(found),
        ...(found.set === null ? [make("p", { className: "muted small" }, "The model is not calibrated: nothing is promised about this probability.")] : []),
        make("ul", { className: "strip" }, make("li", {}, own, "your image"), ...found.likenesses.map((near) => make("li", {},
          picture(near.sample, ""), make("button", { type: "button", className: "link", onclick: () => show(near.prototype) }, `${near.name ?? `prototype ${near.prototype}`} (${near.class})`)))),
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
