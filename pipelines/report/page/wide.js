// A hint above what is wider than its place, as long as it is, and has more to the right.
for (const wide of document.querySelectorAll(".wide, .panel > .images:not(.single)")) {
  const hint = document.createElement("p");
  hint.className = "hint soft small";
  hint.textContent = "Scroll sideways for more \u2192";
  wide.before(hint);
  const show = () => { hint.hidden = wide.scrollWidth <= wide.clientWidth + 1; };
  new ResizeObserver(show).observe(wide);
  wide.addEventListener("scroll", () => hint.classList.toggle("reached", wide.scrollLeft + wide.clientWidth >= wide.scrollWidth - 1));
  show();
}
