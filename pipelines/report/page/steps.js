// A box of the graph opens the options of its step.
for (const link of document.querySelectorAll(".graph a"))
  link.addEventListener("click", () => { document.querySelector(link.getAttribute("href")).open = true; });
