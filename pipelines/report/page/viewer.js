// What the viewers share: they start when they come near the window, and play.
const STARTS = {};

async function start(viewer) {
  const views = [...viewer.querySelectorAll("canvas")].map((canvas) => ({
    canvas,
    context: canvas.getContext("2d", { willReadFrequently: viewer.dataset.kind === "volumes" }),
    image: canvas.parentElement.querySelector("img"),
    ...Object.fromEntries(Object.entries(canvas.dataset).map(([key, value]) => [key, Number.isNaN(Number(value)) ? value : Number(value)])),
  }));
  try {
    await Promise.all(views.filter((view) => view.image).map((view) => view.image.decode()));
    STARTS[viewer.dataset.kind](viewer, views);
    viewer.dataset.ready = "yes";
  } catch (error) {
    viewer.querySelector("output").textContent = "cannot be shown";
    viewer.dataset.ready = "no";
  }
}

function playing(button, interval, step) {
  let timer = 0;
  button.addEventListener("click", () => {
    if (timer) clearInterval(timer);
    timer = timer ? 0 : setInterval(step, interval);
    button.setAttribute("aria-pressed", String(Boolean(timer)));
    button.textContent = timer ? button.dataset.stop : button.dataset.go;
  });
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      near.unobserve(entry.target);
      start(entry.target);
    }
  }
}, { rootMargin: "600px" });
addEventListener("DOMContentLoaded", () => document.querySelectorAll(".viewer").forEach((viewer) => near.observe(viewer)));
