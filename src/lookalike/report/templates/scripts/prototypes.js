// Prototypes: one in a dialog, or two side by side.
const tileOf = (j) => document.querySelector(`button.prototype[data-number="${j}"]`);
const pictureOf = (j) => tileOf(j)?.querySelector("img")?.src ?? null;
const calledOf = (j) => (prototypes[j].title ? ` “${prototypes[j].title}”` : "");
const titleOf = (j) => `Prototype ${j}${calledOf(j)} of class ${prototypes[j].class}`;

const contentOf = (j) => {
  const content = document.querySelector(`template[data-number="${j}"]`).content.cloneNode(true);
  for (const image of content.querySelectorAll("button.nearest img")) image.src = pictureOf(j);
  for (const image of content.querySelectorAll("img")) sharpen(image);
  if (content.querySelector('img[alt^="Heat-map"]')) content.append(...reserved());
  return content;
};

const choiceOf = (text, chosen, onchange) => {
  const select = make("select", { onchange: () => select.value !== "" && onchange(Number(select.value)) },
    make("option", { value: "", textContent: text }));
  prototypes.forEach((prototype, j) => {
    if (j !== chosen) select.append(make("option", { value: String(j), textContent: `${prototype.class}, no. ${j}${calledOf(j)}` }));
  });
  select.setAttribute("aria-label", text);
  return select;
};

const openPrototype = (j) => {
  openDialog(dialog, titleOf(j),
    make("div", { className: "actions" },
      make("button", { type: "button", className: "button",
        textContent: prototypes[j].of_patches ? "Show the test images with a patch like it" : "Show what it decides",
        onclick: () => {
          dialog.close();
          const decided = samples.filter((sample) => sample.near[0].prototype === j);
          showImages(prototypes[j].of_patches ? `Test images with a patch like ${titleOf(j)}` : `What ${titleOf(j)} decides`, decided, prototypes[j].decides, { prototype: String(j) });
        } }),
      choiceOf("another beside it…", j, (other) => comparePrototypes(j, other)),
      make("a", { href: `#prototype-${j}`, textContent: "link to this prototype" })),
    contentOf(j));
};

const comparePrototypes = (a, b) => {
  const column = (j) => make("div", {}, make("h3", { textContent: titleOf(j) }), contentOf(j));
  openDialog(dialog, `Prototypes ${a} and ${b}`,
    make("div", { className: "actions" },
      make("button", { type: "button", className: "button", textContent: `Only ${a}`, onclick: () => openPrototype(a) }),
      make("button", { type: "button", className: "button", textContent: `Only ${b}`, onclick: () => openPrototype(b) }),
      choiceOf(`another beside ${a}…`, a, (other) => comparePrototypes(a, other))),
    make("div", { className: "columns" }, column(a), column(b)));
};

for (const button of document.querySelectorAll("button.prototype")) {
  button.addEventListener("click", () => openPrototype(Number(button.dataset.number)));
}
