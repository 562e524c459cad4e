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
  if (sample.is_copy) {
    text.append(make("span", { className: "warning",
      textContent: "A near duplicate of a training image: its answer says nothing about new images. " }));
  }
  if (sample.doubt) text.append(`${sample.doubt} `);
  if (sample.unfamiliar) {
    text.append(make("span", { className: "warning",
      textContent: `Unfamiliar: ${unfamiliarMeans}; do not rely on the answer.` }));
  }
  return text;
};

const captioned = (button, caption) =>
  make("figure", {}, button, make("figcaption", { className: "caption", textContent: caption }));

// What is true of a heat-map: a part stands out on it, or none does.
const captionsOfMap = {
  part: ["this part here", "looks like that part there"],
  against: ["no part here speaks for this likeness; the blue parts speak against it",
    "no part there speaks for the likeness; the blue parts speak against it"],
  blank: ["no part here stands out on this map", "no part there stands out on this map"],
};
const captionsOfMaps = (here, there) => here === "part" || there !== "part"
  ? [captionsOfMap[here][0], captionsOfMap[there]?.[1]]
  : [captionsOfMap[here][0], "what its own training image is recognised by"];

const lookOf = (sample, near, rank) => {
  const title = titleOf(near.prototype);
  const rankText = near.rank === 1 ? "1. looks most like" : `${near.rank}. looks like`;
  const isExtra = near.is_contrast && (rank > 0 || isWrong(sample));
  const other = prototypes[near.prototype].class;
  const extra = `nearest prototype of “${other}”, which ${isWrong(sample) ? "it is" : "the original says"}`;
  const ranked = isExtra ? `${rankText} the ${extra}` : rankText;
  const words = near.rank === null ? extra : ranked;
  const prototypeImage = pictureOf(near.prototype);
  const template = document.querySelector(`template[data-number="${near.prototype}"]`);
  const ownMap = template.content.querySelector('img[alt^="Heat-map"]')?.src;
  const [here, there] = captionsOfMaps(near.shows ?? "part", template.dataset.shows || "part");
  const look = make("div", { className: isExtra ? "look contrast" : "look" },
    make("span", { className: "caption", textContent: words }),
    make("h4", { textContent: title }),
    prototypeImage === null ? make("span", { className: "blank", textContent: "no image" })
      : zoomable(prototypeImage, `Nearest training image of ${title}`));
  if (near.map) {
    look.append(make("div", { className: "pair" },
      captioned(zoomable(near.map, `Pixels of this image that make it look like ${title}`), here),
      ownMap ? captioned(zoomable(ownMap, `Pixels of the training image of ${title}`), there) : null));
  }
  const name = prototypes[near.prototype].name;
  look.append(make("span", { className: "caption" }, ...(name ? [...breakable(name), " · "] : []), `${near.measured}; ${near.nearness}`),
    make("button", { type: "button", className: "link small", textContent: "more of this prototype",
      onclick: () => openPrototype(near.prototype) }));
  return look;
};

// A small picture of a test image, with frames that say whether it is wrong, disagreeing or unfamiliar.
const sampleTile = (sample, values) => {
  const tile = make("button", { type: "button", className: "sample", title: sample.name,
    "aria-label": `${sample.name}: the model says ${className(sample.predicted)}, it is ${className(sample.label)}`
      + (sample.unfamiliar ? ", unfamiliar" : ""), ...values },
  sharpen(make("img", { src: sample.image, alt: "", loading: "lazy", decoding: "async" })), className(sample.predicted));
  tile.classList.toggle("wrong", isWrong(sample));
  tile.classList.toggle("disagreeing", disagrees(sample));
  tile.classList.toggle("unfamiliar", Boolean(sample.unfamiliar));
  return tile;
};

// Why the section on parts may answer otherwise than the heat-maps, if the page has it.
const otherQuestion = () => (document.getElementById("parts") === null ? [] : [make("p", { className: "muted small" },
  "These maps show which pixels speak for the likeness to one prototype; ",
  make("a", { href: "#parts", textContent: "Which part decides?" }),
  " divides the lead over another class among the places of the image. The two may differ.")]);

const detailOf = (sample, actions) => {
  const originals = make("div", { className: "originals" },
    make("figure", { className: "tile" }, zoomable(sample.image, `Test image ${sample.name}`),
      make("figcaption", { className: "caption", textContent: "this test image" })));
  if (sample.original_map) {
    originals.append(make("figure", { className: "tile" },
      zoomable(sample.original_map, "Pixels that the original's answer rests on"),
      make("figcaption", { className: "caption", textContent: sample.original_shows === "part"
        ? "what the original's answer rests on" : "no part stands out in what the original's answer rests on" })));
  }
  if (!sample.near[0].map) {
    originals.append(make("p", { className: "muted small", textContent: "No heat-maps were made for this image." }));
  }
  return [
    make("div", { className: "detail-head" }, make("h3", { tabIndex: -1 }, ...breakable(sample.name)), ...actions),
    answerOf(sample),
    sample.caution ? make("p", { className: "warning", textContent: `Heat-maps: ${sample.caution}.` }) : "",
    ...(sample.original_map || sample.near.some((near) => near.map) ? [...reserved(), ...otherQuestion()] : []),
    make("div", { className: "comparison" }, originals,
      make("div", { className: "looks" }, ...sample.near.map((near, rank) => lookOf(sample, near, rank)))),
    make("p", { className: "muted small" }, ...breakable(sample.sentence)),
  ];
};
