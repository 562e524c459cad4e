// Tiles in chunks: only those near the screen are in the page, so that 10,000 images scroll without jerks.
const ROWS = 2;  // of tiles in a chunk: little work at a time
const AHEAD = 1500;  // pixels: drawn before they come into view, also for those who move by Tab
const GAP = 12.8;  // pixels between tiles, as in the style

let rowHeight = 260;  // pixels; the first chunk that is drawn says how high a row is
let observer = null;

const fill = (chunk) => {
  if (chunk.childElementCount) return;
  chunk.append(...chunk.rows.map(chunk.draw));
  chunk.style.minHeight = "";
};
const empty = (chunk) => {
  if (!chunk.childElementCount || chunk.contains(document.activeElement)) return;
  chunk.style.minHeight = `${chunk.offsetHeight}px`;  // the page must not jump
  chunk.replaceChildren();
};

// Forgets all chunks: call it before a list is drawn anew.
export const restart = () => {
  observer?.disconnect();
  observer = new IntersectionObserver((entries) => {
    for (const entry of entries) (entry.isIntersecting ? fill : empty)(entry.target);
  }, { rootMargin: `${AHEAD}px 0px` });
};

const columnsOf = (width) => (window.innerWidth <= 640 ? 2 : Math.max(1, Math.floor((width + GAP) / (9.6 * 16 + GAP))));

// Returns chunks of tiles; `draw` makes the tile of a row, `width` is that of the list in pixels.
export const chunksOf = (rows, draw, width) => {
  const columns = columnsOf(width), size = columns * ROWS, chunks = [];
  for (let start = 0; start < rows.length; start += size) {
    const chunk = document.createElement("div");
    chunk.className = "tiles chunk";
    chunk.rows = rows.slice(start, start + size);
    chunk.draw = draw;
    chunk.style.minHeight = `${Math.ceil(chunk.rows.length / columns) * rowHeight}px`;
    observer.observe(chunk);
    chunks.push(chunk);
  }
  return chunks;
};

// Draws what is in view at once, so that nothing flickers and the keyboard finds it.
export const drawFirst = (root, around) => {
  const chunks = [...root.querySelectorAll(".chunk")];
  if (!chunks.length) return;
  fill(chunks[0]);
  rowHeight = Math.max(80, chunks[0].firstElementChild.offsetHeight + GAP);
  for (const chunk of chunks) {
    const { top, bottom } = chunk.getBoundingClientRect();
    if (top > window.innerHeight + AHEAD) break;
    if (bottom > -AHEAD) fill(chunk);
  }
  const chunk = chunks.find((one) => one.rows.some((row) => row.prototype === around));
  if (chunk) fill(chunk);
};
