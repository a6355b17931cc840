// The page: images, tools and keys; strokes are sent as they end, and predictions fetched after.
import { View, coloured, packed } from "./canvas.js";
import { NONE, Strokes } from "./strokes.js";

const $ = (id) => document.getElementById(id);
const SOON = 350, LATER = 2000; // milliseconds between questions

// --- light or dark -------------------------------------------------------------------------------

const THEMES = { auto: "light", light: "dark", dark: "auto" };
function remembered(value) {
  try {
    if (value) localStorage.setItem("polymode-theme", value);
    return localStorage.getItem("polymode-theme");
  } catch {
    return null;
  }
}
function setTheme(value) {
  document.documentElement.dataset.theme = value;
  $("theme").textContent = `Theme: ${value}`;
}
setTheme(THEMES[remembered()] ? remembered() : "auto");
$("theme").addEventListener("click", () => {
  setTheme(THEMES[document.documentElement.dataset.theme]);
  remembered(document.documentElement.dataset.theme);
});

// --- state ---------------------------------------------------------------------------------------

const page = { images: [], classes: [], number: -1, class: 1, tool: "brush", suggested: null, scored: 0, of: 0 };
let strokes = null;
const layer = (more) => ({ source: null, shown: true, opacity: 1, smooth: false, step: 1, ...more });
const layers = {
  image: layer({ smooth: true, image: true }),
  prediction: layer({ smooth: true }),
  uncertainty: layer({ smooth: true, shown: false }),
  labels: layer({}),
};
const view = new View($("canvas"), ({ scale }) => {
  const percent = (100 * scale) / (window.devicePixelRatio || 1);
  $("scale").textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
});
view.layers = [layers.image, layers.prediction, layers.uncertainty, layers.labels];

async function asked(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw Object.assign(new Error((await answer.text()).trim()), { final: true });
  return answer;
}
function trouble(text) {
  $("trouble").textContent = text || "";
  $("trouble").hidden = !text;
}

// --- saving: one stroke after another, none forgotten --------------------------------------------

const queue = [];
let sending = false;
function saved(text, look = "") {
  $("saved").textContent = text;
  $("saved").className = look;
}
function save(patch) {
  if (!patch) return;
  queue.push({ number: page.number, ...patch });
  buttons();
  if (!sending) send();
}
async function send() {
  sending = true;
  while (queue.length) {
    const { number, box: [left, top, right, bottom], labels } = queue[0];
    saved("Saving…", "busy");
    const query = `left=${left}&top=${top}&width=${right - left}&height=${bottom - top}`;
    const headers = { "Content-Type": "application/octet-stream" };
    try {
      const answer = await asked(`mask/${number}?${query}`, { method: "POST", headers, body: labels });
      saved(`Saved ${(await answer.json()).saved}`);
      page.images[number].labelled = true;
      list();
      queue.shift();
    } catch (error) {
      saved(`Not saved: ${error.final ? error.message : "the program has stopped; trying again"}`, "bad");
      if (error.final) {
        queue.length = 0;
        break;
      }
      await new Promise((done) => setTimeout(done, LATER));
    }
  }
  sending = false;
  predict();
}
window.addEventListener("beforeunload", (event) => {
  if (queue.length) event.preventDefault();
});

// --- the live prediction -------------------------------------------------------------------------

let asking = false, again = false;
function live(text, part = null) {
  $("live").textContent = text;
  $("progress").hidden = part === null;
  if (part !== null) $("progress").value = part;
}
async function predict() {
  if (asking) return void (again = true);
  asking = true;
  const number = page.number, begun = performance.now();
  let wait = null;
  try {
    const answer = await asked(`prediction/${number}`);
    if (answer.headers.get("Content-Type") === "application/json") wait = await answer.json();
    else if (number === page.number) showPrediction(answer, await answer.arrayBuffer(), begun);
  } catch (error) {
    if (number === page.number) live(error.final ? error.message : "The program has stopped.");
  }
  asking = false;
  if (number === page.number && wait) {
    document.body.dataset.prediction = wait.why;
    if (wait.why === "features") {
      live(`Reading features of this image, ${wait.done} of ${wait.total || "?"} tiles; paint meanwhile.`, wait.total ? wait.done / wait.total : 0);
      setTimeout(predict, SOON);
    } else if (wait.why === "classes") live("Paint a few strokes of two classes to see the prediction.");
    else live(wait.text);
  }
  if (again || number !== page.number) {
    again = false;
    predict();
  }
}
function showPrediction(answer, data, begun) {
  const [height, width, step] = ["Height", "Width", "Step"].map((name) => Number(answer.headers.get(`Polymode-${name}`)));
  const labels = new Uint8Array(data, 0, height * width), sure = new Uint8Array(data, height * width);
  const inside = page.classes.map(({ colour }, i) => packed(colour, i ? 200 : 0));
  const edge = page.classes.map(({ colour }) => packed(colour));
  layers.prediction.source = coloured(width, height, (i) => {
    const other = [i % width ? labels[i - 1] : labels[i], i >= width ? labels[i - width] : labels[i]];
    return other[0] !== labels[i] || other[1] !== labels[i] ? edge[Math.max(labels[i], ...other)] : inside[labels[i]];
  });
  layers.uncertainty.source = coloured(width, height, (i) => packed([255, 214, 10], sure[i]));
  layers.prediction.step = layers.uncertainty.step = step;
  const counts = new Array(page.classes.length).fill(0);
  for (const label of labels) counts[label]++;
  const parts = page.classes.map(({ name }, i) => [name, counts[i] / labels.length]).filter(([, part]) => part > 0);
  live(`Predicted: ${parts.map(([name, part]) => `${name} ${(100 * part).toFixed(1)}\u00a0%`).join(", ")}.`);
  document.body.dataset.prediction = "ready";
  document.body.dataset.milliseconds = Math.round(performance.now() - begun);
  view.draw();
}

// --- images --------------------------------------------------------------------------------------

function list() {
  const ranks = new Map((page.suggested || []).map((number, i) => [number, i + 1]));
  [...$("images").children].forEach((row, i) => {
    const [button] = row.children;
    button.classList.toggle("labelled", page.images[i].labelled);
    button.setAttribute("aria-current", i === page.number);
    button.title = `${page.images[i].name}${page.images[i].labelled ? ", has labels" : ""}`;
    const rank = page.images[i].labelled ? null : ranks.get(i);
    button.lastChild.textContent = rank ? `#${rank}` : "";
  });
}
async function open(number) {
  if (number < 0 || number >= page.images.length || number === page.number) return;
  if (strokes) strokes.cancel();
  page.number = number;
  strokes = null;
  for (const one of Object.values(layers)) one.source = null;
  const { name } = page.images[number];
  document.title = `${name} – label images`;
  $("name").textContent = name;
  $("place").textContent = `${number + 1} of ${page.images.length}`;
  document.body.dataset.prediction = document.body.dataset.image = "";
  trouble("");
  live("Opening the image…");
  list();
  buttons();
  $("images").children[number].scrollIntoView({ block: "nearest", inline: "nearest" });
  try {
    await Promise.all(queue.length ? [until(() => !queue.length)] : []);
    const [image, mask] = await Promise.all([asked(`image/${number}`), asked(`mask/${number}`)]);
    const bitmap = await createImageBitmap(await image.blob());
    const labels = new Uint8Array(await mask.arrayBuffer());
    if (number !== page.number) return;
    layers.image.source = bitmap;
    strokes = new Strokes(bitmap.width, bitmap.height, labels, colours());
    layers.labels.source = strokes.canvas;
    view.size = [bitmap.width, bitmap.height];
    view.fit();
    document.body.dataset.image = number;
    predict();
  } catch (error) {
    if (number !== page.number) return;
    trouble(error.final ? error.message : "The image could not be fetched; is the program still running?");
    live("No prediction.");
    view.draw();
  }
  buttons();
}
async function until(true_) {
  while (!true_()) await new Promise((done) => setTimeout(done, 50));
}
function colours() {
  const found = new Uint32Array(256);
  page.classes.forEach(({ colour }, i) => (found[i] = packed(colour)));
  found[NONE] = 0;
  return found;
}
function buttons() {
  $("undo").disabled = !strokes || !strokes.done.length;
  $("redo").disabled = !strokes || !strokes.undone.length;
  $("previous").disabled = page.number <= 0;
  $("next").disabled = page.number >= page.images.length - 1;
  $("suggested").disabled = !nextSuggested();
}
function nextSuggested() {
  return (page.suggested || []).map((number) => ({ number })).find(({ number }) => number !== page.number && !page.images[number].labelled);
}
async function suggestions() {
  try {
    Object.assign(page, await (await asked("suggestions")).json());
  } catch {
    return;
  }
  shownSuggestions();
}
function shownSuggestions() {
  if (page.suggested === null) return;
  $("suggested").hidden = false;
  $("suggested").textContent = page.scored < page.of ? `Suggested ${page.scored}/${page.of}` : "Suggested";
  list();
  buttons();
  if (page.scored < page.of) setTimeout(suggestions, LATER);
}

// --- tools ---------------------------------------------------------------------------------------

function choose(index) {
  if (index < 0 || index >= page.classes.length) return;
  page.class = index;
  [...$("classes").children].forEach((button, i) => button.setAttribute("aria-checked", i === index));
  if (page.tool !== "brush") use("brush");
}
function use(tool) {
  page.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-checked", button.dataset.tool === tool);
  }
  hand();
}
const radius = () => Number($("size").value) / 2;
function resize(by) {
  const step = by * Math.max(1, Math.round(Number($("size").value) / 8));
  $("size").value = Number($("size").value) + step;
  sized();
}
function sized() {
  $("pixels").textContent = `${$("size").value} px`;
  if (view.ring) view.ring[2] = radius();
  view.draw();
}
$("size").addEventListener("input", sized);
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => use(button.dataset.tool));
}
const undo = () => strokes && !strokes.before && save(strokes.undo());
const redo = () => strokes && !strokes.before && save(strokes.redo());
for (const [id, act] of Object.entries({
  undo, redo, previous: () => open(page.number - 1), next: () => open(page.number + 1),
  suggested: () => open((nextSuggested() || page).number),
  in: () => view.zoom(1.4), out: () => view.zoom(1 / 1.4), fit: () => view.fit(),
})) {
  $(id).addEventListener("click", () => {
    act();
    view.draw();
  });
}
for (const id of ["labels", "prediction", "uncertainty"]) {
  $(id).addEventListener("change", () => {
    layers[id].shown = $(id).checked;
    view.draw();
  });
}
function shades() {
  const opacity = Number($("opacity").value) / 100;
  [layers.prediction.opacity, layers.uncertainty.opacity] = [opacity, Math.min(1, opacity + 0.3)];
  layers.labels.opacity = Math.min(1, opacity + 0.25);
  view.brightness = 2 ** (Number($("brightness").value) / 20);
  $("percent").textContent = `${$("opacity").value}\u00a0%`;
  $("times").textContent = `× ${view.brightness.toFixed(1)}`;
  view.draw();
}
for (const id of ["opacity", "brightness"]) $(id).addEventListener("input", shades);

// --- the pointer ---------------------------------------------------------------------------------

const canvas = $("canvas"), pointers = new Map();
let spaced = false, panning = false, last = null;
function hand() {
  canvas.classList.toggle("hand", page.tool === "pan" || spaced);
  if (page.tool === "pan") view.ring = null;
  view.draw();
}
function stroke(at) {
  const value = page.tool === "eraser" ? NONE : page.class;
  strokes.line(last || at, at, radius(), value);
  last = at;
  view.draw();
}
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, view.place(event));
  if (pointers.size > 1) { // two fingers zoom and pan; what the first has begun was no stroke
    if (strokes) strokes.cancel();
    panning = true;
  } else {
    panning = page.tool === "pan" || spaced || event.button !== 0;
    if (!panning && strokes) {
      last = null;
      strokes.begin();
      stroke(view.inside(view.place(event)));
    }
  }
  view.draw();
});
canvas.addEventListener("pointermove", (event) => {
  const at = view.place(event), from = pointers.get(event.pointerId);
  view.ring = page.tool === "pan" || spaced ? null : [...view.inside(at), radius()];
  if (from && panning) moved(event.pointerId, from, at);
  else if (from && strokes && strokes.before) {
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const one of events.length ? events : [event]) stroke(view.inside(view.place(one)));
  }
  if (from) pointers.set(event.pointerId, at);
  view.draw();
});
function moved(id, from, at) {
  const other = [...pointers].find(([one]) => one !== id);
  if (!other) return view.pan(at[0] - from[0], at[1] - from[1]);
  const far = (one) => Math.hypot(one[0] - other[1][0], one[1] - other[1][1]);
  view.pan((at[0] - from[0]) / 2, (at[1] - from[1]) / 2);
  view.zoom(far(at) / Math.max(1, far(from)), [(at[0] + other[1][0]) / 2, (at[1] + other[1][1]) / 2]);
}
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    if (strokes && strokes.before && !panning) save(strokes.end());
    if (!pointers.size) panning = false;
    buttons();
  });
}
canvas.addEventListener("pointerleave", () => {
  view.ring = null;
  view.draw();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), view.place(event));
}, { passive: false });

// --- keys ----------------------------------------------------------------------------------------

const KEYS = {
  b: () => use("brush"), e: () => use("eraser"), h: () => use("pan"),
  "[": () => resize(-1), "]": () => resize(1),
  l: () => $("labels").click(), p: () => $("prediction").click(), u: () => $("uncertainty").click(),
  s: () => $("suggested").click(), PageUp: () => $("previous").click(), PageDown: () => $("next").click(),
  "+": () => view.zoom(1.4), "=": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4), 0: () => view.fit(),
};
window.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") event.shiftKey ? redo() : undo();
    else if (key === "y") redo();
    else return;
    buttons();
  } else if (event.altKey) return;
  else if (key === " " && event.target === canvas) {
    spaced = true;
    view.ring = null;
    hand();
  } else if (/^[1-9]$/.test(key)) choose(Number(key) - 1);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
});
window.addEventListener("keyup", (event) => {
  if (event.key === " " && spaced) {
    spaced = false;
    hand();
  }
});

// --- start ---------------------------------------------------------------------------------------

function row(kind, parts, act) {
  const button = document.createElement("button");
  for (const [tag, text] of parts) button.append(Object.assign(document.createElement(tag), { textContent: text }));
  Object.entries(kind).forEach(([name, value]) => button.setAttribute(name, value));
  button.addEventListener("click", act);
  return button;
}
async function begin() {
  try {
    Object.assign(page, await (await asked("state")).json());
  } catch (error) {
    return trouble(error.final ? error.message : "The program has stopped.");
  }
  $("classes").replaceChildren(...page.classes.map(({ name, colour }, i) => {
    const parts = [["b", ""], ["span", name], ...(i < 9 ? [["kbd", i + 1]] : [])];
    const button = row({ role: "radio", title: name }, parts, () => choose(i));
    button.firstChild.style.background = `rgb(${colour})`;
    return button;
  }));
  $("images").replaceChildren(...page.images.map(({ name }, i) => {
    const item = document.createElement("li");
    item.append(row({}, [["span", name], ["i", ""]], () => open(i)));
    return item;
  }));
  choose(Math.min(1, page.classes.length - 1));
  sized();
  shades();
  shownSuggestions();
  await open(0);
}
begin();
