// The explanation of one test image: this looks like that.
const isWrong = (sample) => sample.predicted !== sample.label;
const disagrees = (sample) => sample.original !== null && sample.original !== sample.predicted;

const answerOf = (sample) => {
  const text = make("p", { className: "answer" },
    `The model says “${className(sample.predicted)}” (${percent(sample.probability)}); it is “${className(sample.label)}”. `);
  text.append(isWrong(sample) ? make("span", { className: "is-wrong", textContent: "Wrong. " }) : "Correct. ");
  if (sample.original !== null) {
    const sure = sample.original_probability === null ? "" : ` (${percent(sample.original_probability)})`;
    text.append(disagrees(sample)
      ? `The original says “${className(sample.original)}”${sure}. ` : `The original says the same${sure}. `);
  }
  if (sample.doubt) text.append(`${sample.doubt} `);
  if (sample.unfamiliar) {
    text.append(make("span", { className: "warning", textContent: sample.doubt
      ? "Unfamiliar: its novelty score is higher than that of nearly all validation images; do not rely on the answer."
      : "Unfamiliar: it is farther from its nearest prototype than the training images are; do not rely on the answer." }));
  }
  return text;
};

const captioned = (button, caption) =>
  make("figure", {}, button, make("figcaption", { className: "caption", textContent: caption }));

const lookOf = (sample, near, rank) => {
  const title = titleOf(near.prototype);
  const rankText = rank === 0 ? "looks most like" : `${rank + 1}. looks like`;
  const isExtra = near.is_contrast && (rank > 0 || isWrong(sample));
  const other = prototypes[near.prototype].class;
  const words = isExtra ? `nearest prototype of “${other}”, which ${isWrong(sample) ? "it is" : "the original says"}` : rankText;
  const far = near.percentile === null ? "" : near.percentile >= 100
    ? `; as far away as the farthest of its training images, or farther`
    : `; closer than ${100 - near.percentile}% of its training images`;
  const prototypeImage = pictureOf(near.prototype);
  const ownMap = document.querySelector(`template[data-number="${near.prototype}"]`).content
    .querySelector('img[alt^="Heat-map"]')?.src;
  const look = make("div", { className: isExtra ? "look contrast" : "look" },
    make("span", { className: "caption", textContent: words }),
    make("h4", { textContent: title }),
    prototypeImage === null ? make("span", { className: "blank", textContent: "no image" })
      : zoomable(prototypeImage, `Nearest training image of ${title}`));
  if (near.map) {
    look.append(make("div", { className: "pair" },
      captioned(zoomable(near.map, `Pixels of this image that make it look like ${title}`), "this part here"),
      ownMap ? captioned(zoomable(ownMap, `Pixels of the training image of ${title}`), "looks like that part there") : null));
  }
  const name = prototypes[near.prototype].name;
  look.append(make("span", { className: "caption", textContent: `${name ? `${name} · ` : ""}similarity ${number(near.similarity)}${far}` }),
    make("button", { type: "button", className: "link small", textContent: "more of this prototype",
      onclick: () => openPrototype(near.prototype) }));
  return look;
};

const detailOf = (sample, actions) => {
  const originals = make("div", { className: "originals" },
    make("figure", { className: "tile" }, zoomable(sample.image, `Test image ${sample.name}`),
      make("figcaption", { className: "caption", textContent: "this test image" })));
  if (sample.original_map) {
    originals.append(make("figure", { className: "tile" },
      zoomable(sample.original_map, "Pixels that the original's answer rests on"),
      make("figcaption", { className: "caption", textContent: "what the original's answer rests on" })));
  }
  if (!sample.near[0].map) {
    originals.append(make("p", { className: "muted small", textContent: "No heat-maps were made for this image." }));
  }
  return [
    make("div", { className: "detail-head" }, make("h3", { textContent: sample.name, tabIndex: -1 }), ...actions),
    answerOf(sample),
    sample.caution ? make("p", { className: "warning", textContent: `Heat-maps: ${sample.caution}.` }) : "",
    make("div", { className: "comparison" }, originals,
      make("div", { className: "looks" }, ...sample.near.map((near, rank) => lookOf(sample, near, rank)))),
    make("p", { className: "muted small", textContent: sample.sentence }),
  ];
};
