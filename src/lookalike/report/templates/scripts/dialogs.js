// Dialogs: they open at their head, and close by Escape, by their button, or by a click beside them.
const dialog = document.getElementById("dialog");
const lightbox = document.getElementById("lightbox");
const viewer = document.getElementById("viewer");
const origins = new Map(); // by dialog: the element and the place that its reader came from

// Who uses a pointer sees no frame around what has the focus, and who uses keys does. A browser decides that anew when a
// script moves the focus, such as back to where a dialog was opened.
for (const [kind, isPointer] of [["pointerdown", true], ["keydown", false]]) {
  document.addEventListener(kind, () => document.documentElement.classList.toggle("by-pointer", isPointer), true);
}

const openDialog = (node, title, ...content) => {
  const heading = node.querySelector(".dialog-head h2");
  heading.textContent = title;
  node.querySelector(".dialog-body").replaceChildren(...content.filter((child) => child !== null));
  if (!node.open) {
    origins.set(node, { element: document.activeElement, left: window.scrollX, top: window.scrollY });
    node.showModal();
  }
  heading.focus({ preventScroll: true });
  node.scrollTop = 0;
};
for (const node of [dialog, lightbox, viewer]) {
  node.addEventListener("close", () => {
    if (!origins.has(node)) return;
    const { element, left, top } = origins.get(node);
    element.focus({ preventScroll: true });
    window.scrollTo({ left, top, behavior: "instant" });
  });
  node.querySelector(".close").addEventListener("click", () => node.close());
  node.addEventListener("click", (event) => {
    if (event.target === node) node.close();
  });
}

// Takes what was closed out of the address.
const forget = (pattern) => {
  if (pattern.test(window.location.hash)) {
    window.history.replaceState(window.history.state, "", window.location.href.split("#")[0]);
  }
};

// The lightbox: any picture, larger; the arrow keys go to the other pictures beside it.
let enlarged = [];
let position = 0;
const enlarge = (step) => {
  position = (position + step + enlarged.length) % enlarged.length;
  const image = enlarged[position].querySelector("img");
  const caption = enlarged[position].dataset.caption || image.alt;
  const larger = sharpen(make("img", { src: image.src, alt: image.alt }));
  const holder = make("div", { className: enlarged[position].classList.contains("drawn") ? "drawn scroll" : "" }, larger);
  if (holder.className) holder.addEventListener("scroll", () => hint(holder));
  openDialog(lightbox, enlarged.length > 1 ? `Picture ${position + 1} of ${enlarged.length}` : "Picture",
    holder,
    make("p", { className: "muted" }, ...breakable(caption)),
    enlarged.length > 1 ? make("div", { className: "actions" },
      make("button", { type: "button", className: "button", textContent: "← previous", onclick: () => enlarge(-1) }),
      make("button", { type: "button", className: "button", textContent: "next →", onclick: () => enlarge(1) })) : "");
  if (holder.className) larger.decode().then(() => hint(holder), () => {});
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.zoom");
  if (!button) return;
  const group = button.closest(".detail, .dialog-body, article, section");
  enlarged = [...group.querySelectorAll("button.zoom")];
  position = enlarged.indexOf(button);
  enlarge(0);
});
lightbox.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && enlarged.length > 1) enlarge(step);
});
