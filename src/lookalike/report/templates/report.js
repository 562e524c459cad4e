"use strict";
(() => {
  const { classes, samples } = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 120;
  const grid = document.getElementById("grid");
  const detail = document.getElementById("detail");
  const more = document.getElementById("more");
  const form = document.querySelector(".filters");
  const dialog = document.getElementById("dialog");
  let filtered = [];
  let drawn = 0;
  let selected = null;

  const make = (tag, values = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), values);
    node.append(...children);
    return node;
  };
  const isWrong = (sample) => sample.predicted !== sample.true;
  const disagrees = (sample) => sample.black_box !== null && sample.black_box !== sample.predicted;
  const kinds = { all: () => true, right: (sample) => !isWrong(sample), wrong: isWrong, disagreeing: disagrees };
  const percent = (value) => `${(100 * value).toFixed(1)}%`;
  const number = (value) => String(value).replace("-", "−");

  const openPrototype = (j) => {
    const template = document.querySelector(`template[data-number="${j}"]`);
    dialog.firstElementChild.replaceChildren(template.content.cloneNode(true));
    dialog.setAttribute("aria-label", `Prototype ${j}`);
    dialog.showModal();
  };
  for (const button of document.querySelectorAll("button.prototype")) {
    button.addEventListener("click", () => openPrototype(button.dataset.number));
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  const pictureOf = (j) => {
    const image = document.querySelector(`button.prototype[data-number="${j}"] img`);
    return image ? image.src : null;
  };
  const nameOf = (j) => document.querySelector(`template[data-number="${j}"]`).content.querySelector("h3").textContent;

  const show = (position, focus) => {
    const sample = filtered[position];
    if (!sample) return;
    selected = position;
    while (drawn <= position) draw();
    for (const [index, node] of [...grid.children].entries()) {
      node.setAttribute("aria-pressed", String(index === position));
      node.tabIndex = index === position ? 0 : -1;
    }
    if (focus) grid.children[position].focus();
    const facts = make("p");
    facts.append(`Predicted ${classes[sample.predicted]} (${percent(sample.probability)}); it is ${classes[sample.true]}. `);
    if (isWrong(sample)) facts.append(make("span", { className: "is-wrong", textContent: "Wrong. " }));
    if (disagrees(sample)) facts.append(`The black box predicts ${classes[sample.black_box] ?? 'a class that this model does not have'}.`);
    const tiles = make("div", { className: "tiles" });
    tiles.append(make("figure", { className: "tile" },
      make("img", { src: sample.image, alt: `Test image ${sample.name}` }),
      make("figcaption", { className: "caption", textContent: "this test image" })));
    tiles.append(make("span", { className: "likes", textContent: "looks like" }));
    for (const near of sample.near) {
      const source = pictureOf(near.prototype);
      const button = make("button", { type: "button", className: "tile" });
      if (source) button.append(make("img", { src: source, alt: nameOf(near.prototype) }));
      button.append(make("span", { className: "caption",
        textContent: `${nameOf(near.prototype)}, s = ${number(near.similarity)}` }));
      button.addEventListener("click", () => openPrototype(near.prototype));
      tiles.append(make("div", { className: "pair" }, button,
        ...(near.map ? [make("figure", { className: "tile" },
          make("img", { src: near.map, alt: `Pixels of the test image that make it like ${nameOf(near.prototype)}` }),
          make("figcaption", { className: "caption", textContent: "by these pixels: red for, blue against" }))] : [])));
    }
    detail.hidden = false;
    detail.replaceChildren(make("h3", { textContent: sample.name }), facts, tiles);
  };

  const draw = () => {
    const end = Math.min(drawn + PAGE, filtered.length);
    for (; drawn < end; drawn += 1) {
      const sample = filtered[drawn];
      const position = drawn;
      const button = make("button", { type: "button", className: "sample", tabIndex: position === 0 ? 0 : -1 },
        make("img", { src: sample.image, alt: "" }), classes[sample.predicted]);
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label",
        `${sample.name}: predicted ${classes[sample.predicted]}, it is ${classes[sample.true]}`);
      button.classList.toggle("wrong", isWrong(sample));
      button.classList.toggle("disagreeing", disagrees(sample));
      button.addEventListener("click", () => show(position, false));
      grid.append(button);
    }
    more.hidden = drawn >= filtered.length;
  };

  const filter = () => {
    const kind = kinds[form.elements.kind.value];
    const label = form.elements.class.value;
    filtered = samples.filter((sample) => kind(sample) && (label === "" || sample.true === Number(label)));
    form.elements.found.value = `${filtered.length} images`;
    drawn = 0;
    selected = null;
    detail.hidden = true;
    grid.replaceChildren();
    draw();
  };
  form.addEventListener("change", filter);
  more.addEventListener("click", draw);
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const focused = [...grid.children].indexOf(document.activeElement);
    const next = (focused < 0 ? (selected ?? 0) : focused) + step;
    if (next >= 0 && next < filtered.length) show(next, true);
  });
  filter();
})();
