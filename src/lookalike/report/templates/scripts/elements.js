// Small helpers: elements, numbers, pictures.
const { classes, prototypes, samples, unfamiliar: unfamiliarMeans, reservations } = JSON.parse(document.getElementById("data").textContent);

const make = (tag, values = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};
// Nothing is called certain, or impossible, by rounding.
const percent = (value) => {
  const text = `${(100 * value).toFixed(1)}%`;
  if (value < 1 && text === "100.0%") return "over 99.9%";
  return value > 0 && text === "0.0%" ? "under 0.1%" : text;
};

// A text with names of files as nodes: they wrap after their separators, and never inside the extension.
const breakable = (text) => text.split(/(\s+)/).flatMap((word) => {
  const [, stem, extension, end] = /^(.*?)(\.[A-Za-z]\w{0,4})?([^\w.]*)$/.exec(word);
  const parts = stem.split(/(?<=[/\\_-]|[^\d\s]\.)(?=[^/\\_.-])/);
  const nodes = parts.flatMap((part, k) => (k ? [document.createElement("wbr"), part] : [part]));
  if (!extension) return [...nodes, end];
  return [...nodes, document.createElement("wbr"), make("span", { className: "nowrap", textContent: extension + end })];
});
const className = (k) => classes[k] ?? "a class that this model does not have";

// Few large pixels stay pixels; photographs are smoothed.
const sharpen = (image) => {
  const mark = () => image.classList.toggle("small-pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
  if (image.complete && image.naturalWidth) mark();
  else image.addEventListener("load", mark, { once: true });
  return image;
};
for (const image of document.images) sharpen(image);

const zoomable = (source, alt, caption) =>
  make("button", { type: "button", className: "zoom", "data-caption": caption ?? alt },
    sharpen(make("img", { src: source, alt, loading: "lazy" })));

// What is not shown of the model's heat-maps, to be said beside them.
const reserved = () => (reservations === null ? [] : [make("p", { className: "muted small reservation" },
  `${reservations.text} `, make("a", { href: `#${reservations.anchor}`, textContent: "What was found" }))]);
