// Resizes and crops pictures as Pillow does: a browser's own scaling gives other pixels, so other answers. Equal to the
// bit where Pillow resizes along the rows first. It chooses the order by its version and the shape of the picture; then
// single pixels differ by a level or so.
// A picture is {width, height, channels, data}, data in the order of PNG: row by row, channels together.

const PRECISION = 22; // bits of the fixed-point weights
const GROUNDS = { white: 255, black: 0 }; // the colours that transparent pictures are laid on

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)))],
  bicubic: [2, (x) => {
    const a = -0.5;
    const t = Math.abs(x);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function roundHalfEven(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

// For each of `to` pixels: the first of the `from` pixels that it is made of, and their weights.
function weightsOf(from, to, [support, filter]) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, position) => {
    const centre = (position + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support * stretch + 0.5), from);
    const weights = [];
    let total = 0;
    for (let x = first; x < last; x += 1) {
      weights.push(filter((x - centre + 0.5) * (1 / stretch)));
      total += weights[weights.length - 1];
    }
    return {
      first,
      weights: weights.map((weight) => {
        const share = total === 0 ? weight : weight / total;
        return Math.trunc((share < 0 ? -0.5 : 0.5) + share * 2 ** PRECISION);
      }),
    };
  });
}

// Resizes along one axis. `step` is the distance of neighbours along it, `lines` where each line starts.
function resizeAxis(data, target, lines, targetLines, step, targetStep, channels, weights) {
  lines.forEach((start, line) => {
    weights.forEach(({ first, weights: row }, position) => {
      for (let c = 0; c < channels; c += 1) {
        let sum = 2 ** (PRECISION - 1);
        for (let k = 0; k < row.length; k += 1) sum += data[start + (first + k) * step + c] * row[k];
        target[targetLines[line] + position * targetStep + c] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** PRECISION)));
      }
    });
  });
}

// Sums up its steps as Pillow does, with the same rounding.
function nearestPositions(from, to) {
  let position = (from / to) * 0.5;
  return Array.from({ length: to }, () => {
    const found = Math.min(Math.floor(position), from - 1);
    position += from / to;
    return found;
  });
}

function resizeNearest(picture, height, width) {
  const { channels } = picture;
  const data = new Uint8Array(height * width * channels);
  const columns = nearestPositions(picture.width, width);
  nearestPositions(picture.height, height).forEach((row, y) => {
    columns.forEach((column, x) => {
      const from = (row * picture.width + column) * channels;
      for (let c = 0; c < channels; c += 1) data[(y * width + x) * channels + c] = picture.data[from + c];
    });
  });
  return { width, height, channels, data };
}

function resize(picture, height, width, interpolation) {
  if (picture.height === height && picture.width === width) return picture;
  if (interpolation === "nearest" || interpolation === "nearest-exact") return resizeNearest(picture, height, width);
  const filter = FILTERS[interpolation];
  const { channels } = picture;
  const starts = (n, step) => Array.from({ length: n }, (_, k) => k * step);
  let { data } = picture;
  if (picture.width !== width) {
    const target = new Uint8Array(picture.height * width * channels);
    resizeAxis(
      data, target, starts(picture.height, picture.width * channels), starts(picture.height, width * channels),
      channels, channels, channels, weightsOf(picture.width, width, filter),
    );
    data = target;
  }
  if (picture.height !== height) {
    const target = new Uint8Array(height * width * channels);
    const columns = starts(width, channels);
    const step = width * channels;
    resizeAxis(data, target, columns, columns, step, step, channels, weightsOf(picture.height, height, filter));
    data = target;
  }
  return { width, height, channels, data };
}

// Crops the centre; a smaller picture gets a border of the colour `fill`.
function crop(picture, height, width, convention, fill) {
  const offset = (length, size) => {
    const margin = length - size;
    if (margin < 0) return convention === "transformers-pillow" ? Math.floor(margin / 2) : Math.ceil(margin / 2);
    return convention === "torchvision" ? roundHalfEven(margin / 2) : Math.floor(margin / 2);
  };
  const y0 = offset(picture.height, height);
  const x0 = offset(picture.width, width);
  const { channels } = picture;
  const mean = roundHalfEven(fill.reduce((a, b) => a + b, 0) / fill.length);
  const data = new Uint8Array(height * width * channels);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const [fromY, fromX] = [y + y0, x + x0];
      const inside = fromY >= 0 && fromX >= 0 && fromY < picture.height && fromX < picture.width;
      for (let c = 0; c < channels; c += 1) {
        const border = fill.length === channels ? fill[c] : mean;
        data[(y * width + x) * channels + c] = inside ? picture.data[(fromY * picture.width + fromX) * channels + c] : border;
      }
    }
  }
  return { width, height, channels, data };
}

function resizedSize(picture, wanted, fit) {
  const { height, width } = picture;
  if (typeof wanted === "number") {
    const longer = Math.trunc((wanted * Math.max(height, width)) / Math.min(height, width));
    return height <= width ? [wanted, longer] : [longer, wanted];
  }
  if (fit === "stretch") return wanted;
  const ratio = (fit === "contain" ? Math.max : Math.min)(height / wanted[0], width / wanted[1]);
  return [Math.max(roundHalfEven(height / ratio), 1), Math.max(roundHalfEven(width / ratio), 1)];
}

// Prepares the RGBA pixels of a picture as `preprocessing` in prototypes.json says, up to the normalisation.
function prepared(rgba, width, height, preprocessing) {
  const channels = preprocessing.mean.length;
  const data = new Uint8Array(width * height * channels);
  const ground = GROUNDS[preprocessing.transparency];
  const rgb = [0, 0, 0];
  for (let k = 0; k < width * height; k += 1) {
    const alpha = rgba[4 * k + 3];
    for (let c = 0; c < 3; c += 1) {
      const value = rgba[4 * k + c];
      rgb[c] = ground !== undefined && alpha < 255 ? Math.round((value * alpha + ground * (255 - alpha)) / 255) : value;
    }
    if (channels === 3) for (let c = 0; c < 3; c += 1) data[3 * k + c] = rgb[c];
    else data[k] = Math.floor((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) / 65536);
  }
  let picture = { width, height, channels, data };
  const convention = preprocessing.convention ?? "torchvision";
  const fill = preprocessing.fill ?? [0];
  if (preprocessing.window) {
    const shorter = Math.min(height, width);
    const [windowHeight, windowWidth] = preprocessing.window.map((share) => Math.max(Math.trunc(share * shorter), 1));
    picture = crop(picture, windowHeight, windowWidth, convention, fill);
  }
  if (preprocessing.resize !== null) {
    const [newHeight, newWidth] = resizedSize(picture, preprocessing.resize, preprocessing.fit ?? "stretch");
    picture = resize(picture, newHeight, newWidth, preprocessing.interpolation);
  }
  if (preprocessing.crop) picture = crop(picture, ...preprocessing.crop, convention, fill);
  return picture;
}
