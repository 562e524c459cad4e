// The test images: filters, order, and the explanation below the row of the selected image.
const PAGE = 120;
const form = document.querySelector(".filters");
const grid = document.getElementById("grid");
const more = document.getElementById("more");
const detail = make("div", { className: "detail", role: "region" });
let shown = [];
let drawn = 0;
let selected = null; // position in shown

prototypes.forEach((prototype, j) =>
  form.elements.prototype.append(make("option", { value: String(j), textContent: `${prototype.class}, no. ${j}${calledOf(j)}` })));

const kinds = {
  all: () => true,
  wrong: isWrong,
  right: (sample) => !isWrong(sample),
  disagreeing: disagrees,
  lost: (sample) => isWrong(sample) && sample.original === sample.label,
  unfamiliar: (sample) => sample.unfamiliar,
  copy: (sample) => sample.is_copy,
};
const orders = {
  data: (a, b) => a.row - b.row,
  wrong: (a, b) => isWrong(b) - isWrong(a) || a.row - b.row,
  unsure: (a, b) => a.probability - b.probability,
  sure: (a, b) => b.probability - a.probability,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};
const chosen = (name) => form.elements[name]?.value ?? "";
const matches = (sample) => {
  const text = chosen("name").trim().toLowerCase();
  return kinds[chosen("kind")](sample)
    && ["label", "predicted", "original"].every((name) => chosen(name) === "" || sample[name] === Number(chosen(name)))
    && (chosen("prototype") === "" || sample.near[0].prototype === Number(chosen("prototype")))
    && (text === "" || sample.name.toLowerCase().includes(text));
};

const tiles = () => grid.querySelectorAll(".sample");
const close = () => {
  if (selected === null) return;
  tiles()[selected]?.setAttribute("aria-expanded", "false");
  detail.remove();
  selected = null;
};

// Closes the explanation and returns to where the reader was before it was opened.
let before = 0;
const leave = () => {
  const tile = tiles()[selected];
  close();
  tile.focus({ preventScroll: true });
  window.scrollTo({ top: before, behavior: "instant" });
  tile.scrollIntoView({ block: "nearest", behavior: "instant" });
  forget(/^#image-\d+$/);
};

// Puts the explanation below the row of its image.
const place = () => {
  if (selected === null) return;
  detail.remove();
  const all = tiles();
  const top = all[selected].offsetTop;
  let last = selected;
  while (last + 1 < all.length && all[last + 1].offsetTop === top) last += 1;
  all[last].after(detail);
};

const bringIntoView = (tile) => {
  const below = detail.getBoundingClientRect().bottom + 16 - window.innerHeight;
  const room = tile.getBoundingClientRect().top - 56; // below the bar with the sections
  if (room < 0) window.scrollBy(0, room);
  else if (below > 0) window.scrollBy(0, Math.min(below, room));
};

const select = (index, focus) => {
  const sample = shown[index];
  if (!sample) return;
  if (selected === null) before = window.scrollY;
  close();
  while (drawn <= index) draw();
  selected = index;
  const all = tiles();
  for (const [k, tile] of all.entries()) tile.tabIndex = k === index ? 0 : -1;
  all[index].setAttribute("aria-expanded", "true");
  const step = (text, to) => make("button", { type: "button", className: "button", textContent: text,
    disabled: to < 0 || to >= shown.length, onclick: () => select(to, true) });
  detail.replaceChildren(...detailOf(sample, [
    make("a", { href: `#image-${sample.row}`, className: "small permalink", textContent: "link to this image" }),
    step("←", index - 1), step("→", index + 1),
    make("button", { type: "button", className: "button", textContent: "Close", onclick: leave }),
  ]));
  detail.setAttribute("aria-label", `Explanation of ${sample.name}`);
  place();
  if (focus) all[index].focus({ preventScroll: true });
  bringIntoView(all[index]);
};

const draw = () => {
  const end = Math.min(drawn + PAGE, shown.length);
  for (; drawn < end; drawn += 1) {
    const sample = shown[drawn];
    const index = drawn;
    const tile = sampleTile(sample, { tabIndex: index === 0 ? 0 : -1, "aria-expanded": "false",
      onclick: () => (selected === index ? leave() : select(index, false)) });
    grid.append(tile);
  }
  more.hidden = drawn >= shown.length;
};

const filter = () => {
  close();
  shown = samples.filter(matches).sort(orders[chosen("sort")]);
  form.elements.found.value = `${shown.length.toLocaleString("en")} ${shown.length === 1 ? "image" : "images"}`;
  drawn = 0;
  grid.replaceChildren();
  draw();
};

// Shows the images of a choice, such as { predicted: "2" }, and nothing else of earlier choices.
const browse = (choice) => {
  form.reset();
  for (const [name, value] of Object.entries(choice)) form.elements[name].value = value;
  filter();
  document.getElementById("browse").scrollIntoView();
};

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);
document.getElementById("show-all").addEventListener("click", () => { form.reset(); filter(); });
more.addEventListener("click", () => { draw(); place(); });
window.addEventListener("resize", place);
grid.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && selected !== null) {
    leave();
    return;
  }
  if (!event.target.classList.contains("sample")) return;
  const all = [...tiles()];
  const columns = Math.max(1, all.filter((tile) => tile.offsetTop === all[0].offsetTop).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step) return;
  event.preventDefault();
  select(all.indexOf(event.target) + step, true);
});
filter();
