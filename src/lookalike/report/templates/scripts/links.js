// Links into the report: #image-12 opens that test image, #prototype-3 that prototype.
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
document.addEventListener("click", (event) => {
  const link = event.target.closest('a.permalink, a[href^="#prototype-"]');
  if (link && link.hash === window.location.hash) follow(); // the same link again, after its image was closed
});
follow();
