// The state of the model, as the server has it; every change goes there first, with the revision that the page knows.
export const store = { state: null, listeners: [], selected: new Set(), focus: null };

const told = (text, kind = "") => {
  const status = document.getElementById("status");
  status.textContent = text;
  status.className = kind;
};
export { told };

const answered = async (response) => {
  const value = await response.json();
  if (response.ok) return value;
  if (value.stale) await refresh();
  throw new Error(value.error);
};
const ask = (path, options) => fetch(path, options).catch(() => {
  throw new Error("The studio does not answer. All edits that this page has confirmed are in the model's folder. If the program has ended, start it again and open its new address.");
});
export const get = async (path) => answered(await ask(path));
export const post = async (path, body) => answered(await ask(path, {
  method: "POST", body: body instanceof Blob ? body : JSON.stringify({ ...body, revision: store.state.revision }),
}));

const take = (state) => {
  store.state = state;
  store.selected.clear();
  for (const listener of store.listeners) listener();
};
export const refresh = async () => take(await get("api/state"));

// One change at a time: a second click waits for the answer to the first.
let busy = Promise.resolve();
const alone = (work) => {
  busy = busy.then(work).catch((error) => { told(error.message, "bad"); return null; });
  return busy;
};

export const points = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(2)}`;
export const effectText = (effect) => {
  if (!effect) return "";
  const [before, after, difference] = effect.accuracy;
  const changes = effect.n_changes
    ? `${effect.n_changes} predictions change (${effect.gained} now right, ${effect.lost} now wrong)` : "no prediction changes";
  return `Accuracy ${(100 * before.value).toFixed(2)}% → ${(100 * after.value).toFixed(2)}% (${points(difference.value)} points, `
    + `95% ${points(difference.low)} to ${points(difference.high)}) on ${effect.n} ${effect.part} images; ${changes}`
    + (effect.empty.length ? `; ${effect.empty.length} prototypes without images` : "");
};

export const edit = (values, note = "") => alone(async () => {
  const answer = await post("api/edit", { edit: values, note });
  take(answer.state);
  told(`Done: ${answer.sentence}. ${effectText(answer.effect)}`, "good");
  return answer;
});
export const tryOut = (values) => alone(async () => {
  const { effect } = await post("api/try", { edit: values });
  told(effect ? `It would do: ${effect.sentence}. Nothing has changed yet.` : "There are no images to judge it on.");
  return effect;
});
export const move = (to) => alone(async () => {
  take(await post("api/move", { to }));
  told(`The model is at edit ${store.state.head}.`, "good");
});
export const openTest = (note) => alone(async () => {
  const answer = await post("api/test", { note });
  take(answer.state);
  told(`Test part, before all edits and now: ${answer.sentence}.`, "good");
});
export const correct = (sample, label) => alone(async () => {
  take(await post("api/correct", { sample, label }));
  told(`Noted in corrected-labels.csv: image ${sample} should be ${label}. Your files stay as they are.`, "good");
});
export const addImage = (file, label) => alone(async () => {
  const query = new URLSearchParams({ class: label, revision: store.state.revision });
  const answer = await post(`api/add?${query}`, file);
  take(answer.state);
  told(`Done: ${answer.sentence}. ${effectText(answer.effect)}`, "good");
});
