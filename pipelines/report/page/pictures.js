// Pictures enlarged, leafed through with the arrow keys, and compared under a slider.
const dialog = document.getElementById("enlarged");
let row = [], at = 0;

function enlarge(place) {
  at = (place + row.length) % row.length;
  const from = row[at].querySelector("img"), to = dialog.querySelector("img");
  to.src = from.src;
  to.alt = from.alt;
  to.className = from.closest(".whole") ? "smooth" : "";
  document.getElementById("enlarged-name").textContent = from.alt;
}

for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    row = [...button.closest(".panel").querySelectorAll(".zoom")];
    enlarge(row.indexOf(button));
    dialog.showModal();
  });
}
document.getElementById("close").addEventListener("click", () => dialog.close());
document.getElementById("before").addEventListener("click", () => enlarge(at - 1));
document.getElementById("after").addEventListener("click", () => enlarge(at + 1));
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") enlarge(at - 1);
  if (event.key === "ArrowRight") enlarge(at + 1);
});

for (const compare of document.querySelectorAll(".compare")) {
  const pair = compare.querySelector(".pair"), slider = pair.querySelector("input");
  const pictures = compare.closest(".view, .panel").querySelectorAll(".zoom img");
  for (const side of ["before", "after"]) {
    const image = document.createElement("img"), choice = compare.querySelector(`.${side}`);
    image.className = side;
    pair.insertBefore(image, pair.querySelector("i"));
    const show = () => {
      image.src = pictures[choice.value].src;
      image.alt = pictures[choice.value].alt;
      const largest = Math.max(...[...compare.querySelectorAll("select")].map((s) => pictures[s.value].width));
      const shape = [...compare.querySelectorAll("select")].map((s) => pictures[s.value]).find((p) => p.width === largest);
      pair.style.aspectRatio = `${shape.width} / ${shape.height}`;
      if (compare.closest(".crop")) compare.style.maxWidth = `${shape.getAttribute("width")}px`; // at 1:1
    };
    choice.addEventListener("change", show);
    show();
  }
  const cut = () => pair.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", cut);
  cut();
}

const pixels = document.getElementById("pixels");
if (pixels) pixels.addEventListener("change", () => document.body.classList.toggle("pixels", pixels.checked));
