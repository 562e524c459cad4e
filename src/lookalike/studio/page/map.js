// The embedding in a plane: zoom with wheel or + and −, move by dragging or arrows, select with Shift and dragging.
import { edit, get, store, told } from "./desk.js";
import { button, choice, make, picture } from "./parts.js";
import { show } from "./prototypes.js";

const MOST = 200;  // selected images that are shown
const hue = (k) => `hsl(${(k * 137.5) % 360} 60% ${k % 2 ? 48 : 58}%)`;

const METHODS = { pca: "main axes", tsne: "t-SNE", umap: "UMAP" };
const HOW = { pca: "by the two main axes of their embeddings", tsne: "by t-SNE of their embeddings: only what is near means something",
  umap: "by UMAP of their embeddings: only what is near means something" };

export const map = async (panel) => {
  panel.replaceChildren(make("p", {}, "Drawing the map…"));
  const data = await get(`api/map?by=${store.mapBy ?? "pca"}`);
  const by = choice(store.state.maps.map((name) => [name, METHODS[name]]), data.method, "Map by");
  by.querySelector("select").addEventListener("change", (event) => { store.mapBy = event.target.value; map(panel).catch((error) => told(error.message, "bad")); });
  const canvas = make("canvas", { tabIndex: 0, role: "application",
    "aria-label": `Map of ${data.samples.length} training images and ${data.prototypes.length} prototypes. Arrows move, plus and minus zoom, Enter selects what is in view.` });
  const chosen = make("div", { "aria-live": "polite" });
  panel.replaceChildren(
    make("p", { className: "muted small" }, `${data.samples.length} of ${data.n} training images ${HOW[data.method]}; rings are prototypes. `
      + "Wheel or + and − zoom, dragging or arrows move, Shift and dragging (or Enter, for all in view) selects."),
    make("div", { className: "filters" }, by), make("div", { className: "map" }, canvas), chosen);
  const all = [...data.points, ...data.prototypes];
  const [xs, ys] = [all.map((p) => p[0]), all.map((p) => p[1])];
  const bounds = (values) => [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
  const [[x0, x1], [y0, y1]] = [bounds(xs), bounds(ys)];
  const view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, size: 1.1 * Math.max(x1 - x0, y1 - y0, 1e-9) };
  const radius = Math.max(2.5, Math.min(7, 7 * Math.sqrt(150 / data.prototypes.length)));  // pixels: thousands of rings would hide all
  let drag = null, waiting = false;

  const scale = () => Math.min(canvas.clientWidth, canvas.clientHeight) / view.size;
  const place = ([x, y]) => [canvas.clientWidth / 2 + (x - view.x) * scale(), canvas.clientHeight / 2 + (view.y - y) * scale()];
  const back = (px, py) => [view.x + (px - canvas.clientWidth / 2) / scale(), view.y - (py - canvas.clientHeight / 2) / scale()];
  const draw = () => {
    waiting = false;
    const ratio = window.devicePixelRatio || 1, ink = getComputedStyle(document.body).color;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.globalAlpha = .7;
    data.points.forEach((point, i) => {
      const [px, py] = place(point);
      pen.fillStyle = hue(data.labels[i]);
      pen.fillRect(px - 2, py - 2, 4, 4);
    });
    pen.globalAlpha = 1;
    pen.lineWidth = radius > 4 ? 2 : 1;
    data.prototypes.forEach((point, j) => {
      const [px, py] = place(point);
      pen.beginPath();
      pen.arc(px, py, radius, 0, 7);
      pen.fillStyle = hue(store.state.classes.indexOf(store.state.prototypes[j]?.class));
      pen.fill();
      pen.strokeStyle = ink;
      pen.stroke();
    });
    if (drag?.select) {
      pen.strokeStyle = ink;
      pen.setLineDash([5, 4]);
      pen.strokeRect(drag.x, drag.y, drag.to[0] - drag.x, drag.to[1] - drag.y);
    }
  };
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const zoom = (factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) => {
    const [x, y] = back(px, py);
    view.size *= factor;
    const [nx, ny] = back(px, py);
    view.x += x - nx;
    view.y += y - ny;
    redraw();
  };
  const select = (ax, ay, bx, by) => {
    const [left, right, top, bottom] = [Math.min(ax, bx), Math.max(ax, bx), Math.min(ay, by), Math.max(ay, by)];
    const rows = data.points.flatMap((point, i) => {
      const [px, py] = place(point);
      return px >= left && px <= right && py >= top && py <= bottom ? [i] : [];
    });
    const to = choice(store.state.classes, store.state.classes[data.labels[rows[0]]], "of class");
    chosen.replaceChildren(make("h2", {}, `${rows.length} images selected`), ...(rows.length ? [
      make("div", { className: "filters" }, to, button("Add a prototype from them",
        () => edit({ edit: "add", class_name: to.querySelector("select").value, samples: rows.map((i) => data.samples[i]) }), "main")),
      make("ul", { className: "strip" }, ...rows.slice(0, MOST).map((i) => make("li", {},
        picture(data.samples[i], ""), store.state.classes[data.labels[i]])))] : []));
  };
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.offsetX, y: event.offsetY, from: { ...view }, select: event.shiftKey, to: [event.offsetX, event.offsetY], moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.to = [event.offsetX, event.offsetY];
    drag.moved ||= Math.hypot(event.offsetX - drag.x, event.offsetY - drag.y) > 4;
    if (!drag.select) {
      view.x = drag.from.x - (event.offsetX - drag.x) / scale();
      view.y = drag.from.y + (event.offsetY - drag.y) / scale();
    }
    redraw();
  });
  canvas.addEventListener("pointerup", () => {
    const last = drag;
    drag = null;
    if (last?.select) select(last.x, last.y, ...last.to);
    else if (last && !last.moved) {
      const hit = data.prototypes.findIndex((point) => Math.hypot(place(point)[0] - last.x, place(point)[1] - last.y) < radius + 2);
      if (hit >= 0) show(hit);
    }
    redraw();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = view.size / 10;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; redraw(); }
    else if (event.key === "+") zoom(1 / 1.3);
    else if (event.key === "-") zoom(1.3);
    else if (event.key === "Enter") select(0, 0, canvas.clientWidth, canvas.clientHeight);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  new ResizeObserver(redraw).observe(canvas);
  redraw();
};
