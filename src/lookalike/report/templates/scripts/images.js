// Test images in a dialog over the place where the reader is: one of them, or all of a choice.
const sampleOfRow = new Map(samples.map((sample) => [sample.row, sample]));
let leafed = null; // the images that the arrow keys go through, and the position among them

const showImage = (list, index, back) => {
  const sample = list[index];
  if (!sample) return;
  leafed = { list, index, back };
  const step = (text, to, label) => make("button", { type: "button", className: "button", textContent: text,
    "aria-label": label, disabled: to < 0 || to >= list.length, onclick: () => showImage(list, to, back) });
  const actions = list.length > 1 ? [step("←", index - 1, "previous image"), step("→", index + 1, "next image")] : [];
  if (back) actions.unshift(make("button", { type: "button", className: "button", textContent: "all of them", onclick: back }));
  openDialog(viewer, list.length > 1 ? `Test image ${index + 1} of ${list.length}` : "Test image",
    make("div", { className: "detail", role: "region", "aria-label": `Explanation of ${sample.name}` }, ...detailOf(sample, actions)));
};

// Shows the images of a choice, of which there are `n` in the test data; a choice that no filter can make is null.
const showImages = (title, list, n, choice) => {
  const again = () => showImages(title, list, n, choice);
  leafed = null;
  openDialog(viewer, title,
    make("p", { className: "muted" }, list.length < n
      ? `${list.length} of these ${n} images are in this report.` : "Select one to see what the model saw in it."),
    make("div", { className: "grid" }, ...list.map((sample, index) =>
      sampleTile(sample, { onclick: () => showImage(list, index, again) }))),
    choice && make("div", { className: "actions" }, make("button", { type: "button", className: "button",
      textContent: "Filter the list of test images by this", onclick: () => {
        origins.delete(viewer); // its reader goes on elsewhere
        viewer.close();
        browse(choice);
      } })));
};

const openRows = (rows, row) => {
  const list = [...new Set(rows)].map((each) => sampleOfRow.get(each)).filter(Boolean);
  showImage(list, list.findIndex((sample) => sample.row === row));
};
const rowOfLink = (link) => Number(link.hash.slice("#image-".length));

document.addEventListener("click", (event) => {
  const target = event.target.closest('a[href^="#image-"], tr[data-image], button, summary');
  if (!target || target.matches("button, summary, .permalink")) return;
  event.preventDefault();
  const link = target.matches("a") ? target : target.querySelector('a[href^="#image-"]');
  link.focus({ preventScroll: true });
  const links = [...link.closest("section").querySelectorAll('a[href^="#image-"]')];
  openRows(links.map(rowOfLink), rowOfLink(link));
});
for (const cell of document.querySelectorAll("button.cell")) {
  const { kind, row, column } = cell.dataset;
  cell.addEventListener("click", () => showImages(cell.getAttribute("aria-label"),
    samples.filter((sample) => sample[kind] === Number(row) && sample.predicted === Number(column)),
    Number.parseInt(cell.textContent.replaceAll(",", ""), 10), { [kind]: row, predicted: column }));
}
for (const button of document.querySelectorAll("button[data-show]")) {
  button.addEventListener("click", () => {
    const { show: kind, title: own, n } = button.dataset;
    const labels = button.dataset.labels ? button.dataset.labels.split(" ").map(Number) : [];
    const list = samples.filter((sample) => kinds[kind](sample) && (!labels.length || labels.includes(sample.label)));
    const title = kind === "disagreeing" ? "Answers that differ from the original’s" : own ?? button.textContent.trim();
    showImages(title, list, Number(n ?? list.length), labels.length > 1 ? null : { kind, label: String(labels[0] ?? "") });
  });
}
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !leafed || event.target.matches("select, input")) return;
  event.preventDefault();
  showImage(leafed.list, leafed.index + step, leafed.back);
});
for (const image of document.querySelectorAll("img[data-sample]")) {
  const source = sampleOfRow.get(Number(image.dataset.sample))?.image;
  if (source) sharpen(Object.assign(image, { src: source }));
  else image.remove();
}
for (const image of document.querySelectorAll("img[data-prototype]")) {
  const source = pictureOf(Number(image.dataset.prototype));
  if (source) sharpen(Object.assign(image, { src: source }));
  else image.replaceWith(make("span", { className: "muted small", textContent: "no image" }));
}
