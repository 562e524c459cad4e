// Small helpers: elements and pictures. Text is only ever set as text.
export const make = (tag, values = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
export const button = (text, action, kind = "") =>
  make("button", { type: "button", className: `button ${kind}`, onclick: action }, text);
export const picture = (sample, alt, part = "train") => {
  const image = make("img", { loading: "lazy", decoding: "async", alt });
  image.addEventListener("load", () => image.classList.toggle("small-pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
  image.src = `picture/${part}/${sample}`;
  return image;
};
export const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)}%`);
// A choice of names, or of pairs of a value and its text.
export const choice = (names, value, label) =>
  make("label", {}, label, make("select", {}, ...names.map((name) => {
    const [key, text] = Array.isArray(name) ? name : [name, name];
    return make("option", { value: key, selected: key === value }, text);
  })));
export const open = (title, ...content) => {
  document.getElementById("dialog-title").textContent = title;
  document.getElementById("dialog-body").replaceChildren(...content);
  const dialog = document.getElementById("dialog");
  if (!dialog.open) dialog.showModal();
};
export const close = () => document.getElementById("dialog").close();
