// Links into the report: #image-12 opens that test image, #prototype-3 that prototype. What is closed again leaves the
// address, so that Back goes to the place before and does not open it once more.
const follow = () => {
  const [, kind, text] = /^#(image|prototype)-(\d+)$/.exec(window.location.hash) ?? [];
  const target = Number(text);
  if (kind === "prototype" && prototypes[target]) openPrototype(target);
  if (kind !== "image") return;
  const row = (sample) => sample.row === target;
  if (!shown.some(row)) {
    form.reset();
    filter();
  }
  if (shown.some(row)) select(shown.findIndex(row), true);
};
window.addEventListener("hashchange", follow);
const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || !isPlain(event)) return;
  const [, number] = /^#prototype-(\d+)$/.exec(link.hash) ?? [];
  if (link.matches(".permalink")) {
    if (link.hash === window.location.hash) follow(); // the same link again, after its image was closed
  } else if (number !== undefined && prototypes[number] && !link.closest("dialog")) {
    event.preventDefault(); // a dialog is no place to go back to
    link.focus({ preventScroll: true });
    openPrototype(Number(number));
  } else if (number === undefined && !/^#image-\d+$/.test(link.hash)) {
    for (const node of document.querySelectorAll("dialog[open]")) { // its reader goes on elsewhere on the page
      origins.delete(node);
      node.close();
    }
  }
});
dialog.addEventListener("close", () => forget(/^#prototype-\d+$/));
follow();
