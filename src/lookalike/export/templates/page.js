const { described, colours } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const MOST_CLASSES = 5; // rows of the table of probabilities
const LARGEST_SIDE = 8192; // pixels; browsers cannot draw larger pictures

async function unpacked(id) {
  const element = byId(id);
  const text = element.textContent;
  const parts = [];
  for (let start = 0; start < text.length; start += 1 << 20) {
    parts.push(Uint8Array.from(atob(text.slice(start, start + (1 << 20))), (character) => character.charCodeAt(0)));
  }
  element.remove();
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function opened() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked("wasm");
  return ort.InferenceSession.create(await unpacked("model"), { executionProviders: ["wasm"] });
}

function say(text, isWrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", isWrong);
}

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

// A canvas multiplies colours by their opacity, so what Python reads of transparent pixels is lost in it.
function isTransparent(rgba) {
  for (let k = 3; k < rgba.length; k += 4) if (rgba[k] < 255) return true;
  return false;
}

async function pixelsOf(file) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
  if (described.preprocessing.as_stored) options.imageOrientation = "none";
  const bitmap = await createImageBitmap(file, options);
  if (Math.max(bitmap.width, bitmap.height) > LARGEST_SIDE) {
    throw new Error(`it has ${bitmap.width} × ${bitmap.height} pixels; at most ${LARGEST_SIDE} a side can be read`);
  }
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  if (!(described.preprocessing.transparency in GROUNDS) && isTransparent(data)) {
    throw new Error("it has transparent parts, and browsers do not tell the colours stored there; save it without");
  }
  return prepared(data, bitmap.width, bitmap.height, described.preprocessing);
}

function draw(canvas, picture, colourOf) {
  Object.assign(canvas, { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d");
  const shown = context.createImageData(picture.width, picture.height);
  for (let k = 0; k < picture.width * picture.height; k += 1) {
    const rgb = [0, 1, 2].map((c) => picture.data[k * picture.channels + (picture.channels === 3 ? c : 0)]);
    shown.data.set([...(colourOf ? colourOf(k, rgb) : rgb), 255], 4 * k);
  }
  context.putImageData(shown, 0, 0);
}

// Draws a map [height, width] over a faint grey picture, smoothly between the positions. What the cells of the map do not
// cover, as in a network that cuts off a part of the picture, has no colour.
function drawMap(canvas, picture, map, height, width, limit) {
  const [top, left, bottom, right] = described.extent;
  const at = (y, x) => map[Math.min(Math.max(y, 0), height - 1) * width + Math.min(Math.max(x, 0), width - 1)];
  draw(canvas, picture, (k, rgb) => {
    const down = ((Math.floor(k / picture.width) + 0.5) / picture.height - top) / (bottom - top);
    const across = (((k % picture.width) + 0.5) / picture.width - left) / (right - left);
    const isCovered = down >= 0 && down <= 1 && across >= 0 && across <= 1;
    const [y, x] = [down * height - 0.5, across * width - 0.5];
    const [y0, x0] = [Math.floor(y), Math.floor(x)];
    const [b, a] = [y - y0, x - x0];
    const value = (1 - b) * ((1 - a) * at(y0, x0) + a * at(y0, x0 + 1)) + b * ((1 - a) * at(y0 + 1, x0) + a * at(y0 + 1, x0 + 1));
    const share = (Math.min(Math.max(isCovered ? value / limit : 0, -1), 1) + 1) / 2;
    const colour = colours[Math.round(share * (colours.length - 1))];
    const grey = 0.55 + (0.45 * (rgb[0] + rgb[1] + rgb[2])) / 765;
    return colour.map((part) => part * grey);
  });
}

// Where a part lies in a picture: top, left, bottom, right, as shares of its sides; null in a model of whole images.
function boxOf(place) {
  if (!described.parts) return null;
  const [rows, columns] = described.parts.grid;
  const [row, column] = [Math.floor(place / columns), place % columns];
  const [top, left, bottom, right] = described.extent;
  const [height, width] = [(bottom - top) / rows, (right - left) / columns];
  const box = [top + row * height, left + column * width, top + (row + 1) * height, left + (column + 1) * width];
  return box.map((side) => Math.min(Math.max(side, 0), 1));
}

// Puts a frame around a part of a picture that fills its place as far as its shape allows, as the drawing of the frame does.
function framed(shown, picture, box) {
  if (!box) return shown;
  const [top, left, bottom, right] = box;
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  };
  const drawing = svg("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, "aria-hidden": "true" });
  drawing.append(svg("rect", {
    x: left * picture.width, y: top * picture.height,
    width: (right - left) * picture.width, height: (bottom - top) * picture.height,
  }));
  return element("div", { className: "framed" }, shown, drawing);
}

function spread(percentile, prototype, isFarthest) {
  const kind = described.parts ? "part" : "image";
  if (Number.isNaN(percentile)) return `no training ${kind} stands behind it`;
  const all = prototype.count.toLocaleString("en");
  if (percentile >= 100) {
    return isFarthest ? `farther from it than all ${all} training ${kind}s behind it`
      : `as far from it as the farthest of ${all} training ${kind}s behind it, or farther`;
  }
  const steps = prototype.count - 1;  // as in the program: the nearest of them counts as nearer than the input
  const farther = Math.max(1, steps - Math.floor((percentile / 100) * steps)).toLocaleString("en");
  return `closer to it than about ${farther} of the ${all} training ${kind}s behind it`;
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)}%`;
}

function showClasses(probabilities) {
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  byId("classes").tBodies[0].replaceChildren(...order.slice(0, MOST_CLASSES).map((k) => element(
    "tr", {},
    element("th", { scope: "row", textContent: described.class_names[k] }),
    element("td", {}, element("meter", { min: 0, max: 1, value: probabilities[k], ariaLabel: described.class_names[k] })),
    element("td", { className: "number", textContent: percent(probabilities[k]) }),
  )));
}

function likeness(answer, rank, picture, limit) {
  const number = answer.nearest[rank];
  const prototype = described.prototypes[number];
  const shown = prototype.image === null
    ? element("div", { className: "blank", textContent: "no picture was exported" })
    : element("img", { src: prototype.image, alt: `training image of ${prototype.class}` });
  const hasFrame = prototype.image !== null && Boolean(prototype.box);
  const pair = element("div", { className: "pair" }, framed(shown, picture, hasFrame ? prototype.box : null));
  if (described.evidence) {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `where the likeness to prototype ${number} is`);
    const size = answer.mapHeight * answer.mapWidth;
    drawMap(canvas, picture, answer.evidence.slice(rank * size, (rank + 1) * size), answer.mapHeight, answer.mapWidth, limit);
    pair.append(framed(canvas, picture, described.parts ? boxOf(answer.places[rank]) : null));
  }
  // a calibrated model tests its novelty score, which says nothing about the distance to one prototype
  const isFarthest = rank === 0 && answer.unfamiliar && !described.calibration;
  const text = `${spread(answer.percentiles[rank], prototype, isFarthest)}.`;
  return element(
    "article", { className: "like" }, pair,
    element("p", {}, element("b", { textContent: prototype.class }), ` · no. ${number}`),
    element("p", { className: "muted", textContent: text[0].toUpperCase() + text.slice(1) }),
  );
}

// The outputs for one picture as plain numbers.
function read(outputs) {
  const [, , mapHeight, mapWidth] = outputs.evidence.dims;
  const numbers = (name) => Array.from(outputs[name].data, Number);
  return {
    scores: numbers("scores"), probabilities: numbers("probabilities"), nearest: numbers("nearest"),
    similarities: numbers("similarities"), distances: numbers("distances"), percentiles: numbers("percentiles"),
    unfamiliar: Boolean(outputs.unfamiliar.data[0]), evidence: numbers("evidence"), mapHeight, mapWidth,
    inSet: outputs.in_set ? numbers("in_set").map(Boolean) : null,
    answered: outputs.answered ? Boolean(outputs.answered.data[0]) : null,
    places: outputs.places ? numbers("places") : null, concepts: outputs.concepts ? numbers("concepts") : null,
  };
}

// What a calibrated model says of its doubt; "" without a calibration.
function doubtOf(answer) {
  if (!answer.inSet) return "";
  const names = described.class_names.filter((_, k) => answer.inSet[k]).map((name) => `“${name}”`);
  const coverage = `with ${Number((100 * described.calibration.coverage).toPrecision(4))}% coverage`;
  const sets = ["Nothing I know", `Only ${names[0]}`][names.length] ?? `Either ${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
  const { abstention } = described.calibration;
  const error = abstention && Number((100 * abstention.error).toPrecision(4));
  return `${sets}, ${coverage}.${answer.answered === false
    ? ` Too unsure for an answer, if at most ${error}% of the answers may be wrong.` : ""}`;
}

// Why the prediction is what it is, in one sentence.
function reasonOf(number, itsClass, predicted) {
  const prototype = `prototype ${number} of class “${itsClass}”`;
  const leads = itsClass === predicted ? described.reasons.nearest : described.reasons.otherwise;
  if (described.parts) {
    return `The part that looks most like a prototype looks like ${prototype}, ${leads} “${predicted}”.`;
  }
  return `This looks like ${prototype}, ${leads} “${predicted}”.`;
}

function show(answer, picture) {
  const best = answer.scores.indexOf(Math.max(...answer.scores));
  const nearest = described.prototypes[answer.nearest[0]];
  byId("prediction").textContent = `${described.class_names[best]} · ${percent(answer.probabilities[best])}`;
  byId("reason").textContent = reasonOf(answer.nearest[0], nearest.class, described.class_names[best]);
  byId("unfamiliar").hidden = !answer.unfamiliar;
  byId("doubt").textContent = doubtOf(answer);
  byId("doubt").hidden = !answer.inSet;
  draw(byId("picture"), picture);
  showClasses(answer.probabilities);
  const limit = Math.max(...answer.evidence.map(Math.abs)) || 1;
  byId("likenesses").replaceChildren(...answer.nearest.map((_, rank) => likeness(answer, rank, picture, limit)));
  byId("answer").hidden = false;
}

async function answerFor(file, session) {
  say("Looking …");
  let picture;
  try {
    picture = await pixelsOf(file);
  } catch (error) {
    say(`${file.name}: no picture that this browser can read (${error.message})`, true);
    return;
  }
  try {
    const [input] = session.inputNames;
    const started = performance.now();
    const outputs = await session.run({
      [input]: new ort.Tensor("uint8", picture.data, [1, picture.height, picture.width, picture.channels]),
    });
    const answer = read(outputs);
    show(answer, picture);
    document.body.dataset.answer = JSON.stringify(answer);
    say(`${file.name}: answered in ${((performance.now() - started) / 1000).toFixed(2)} s`);
  } catch (error) {
    say(`${file.name}: no answer (${error.message})`, true);
  }
}

const loading = opened();
loading.then(
  () => say("Ready."),
  (error) => say(`The model could not be loaded: ${error.message}`, true),
);
let last = Promise.resolve();
function ask(file) {
  if (file) last = last.then(() => loading).then((session) => answerFor(file, session)).catch(() => {});
}
byId("file").addEventListener("change", (event) => {
  ask(event.target.files[0]);
  event.target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") ask(event.dataTransfer.files[0]);
  });
}
