// Says where a table or a chart goes on beyond the edge of a narrow screen.
const hints = new Map();
const hint = (region) => {
  const isCut = region.scrollWidth > region.clientWidth + 2;
  const goesOn = isCut && region.scrollLeft + region.clientWidth < region.scrollWidth - 2;
  region.classList.toggle("cut", goesOn);
  if (isCut && !hints.has(region)) {
    hints.set(region, make("p", { className: "sideways", textContent: "Goes on to the right: move it sideways →" }));
    region.before(hints.get(region));
  }
  if (hints.has(region)) hints.get(region).hidden = !isCut;
};
const hintAll = () => document.querySelectorAll(".scroll").forEach(hint);
for (const region of document.querySelectorAll(".scroll")) region.addEventListener("scroll", () => hint(region));
window.addEventListener("resize", hintAll);
hintAll();

// Paper cannot be unfolded: what is folded away is printed, too.
const unfolded = new Set();
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    unfolded.add(details);
  }
});
window.addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
  unfolded.clear();
});
