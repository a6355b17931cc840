// Clips from sprites: one slider and one button move all clips of a panel.
STARTS.clips = (viewer, views) => {
  const slider = viewer.querySelector("input"), output = viewer.querySelector("output");
  const longest = Math.max(...views.map((view) => view.frames));
  const draw = () => {
    const now = Number(slider.value);
    for (const { canvas, context, image, across, frames } of views) {
      const frame = Math.min(now, frames - 1), wide = canvas.width, high = canvas.height;
      context.drawImage(image, (frame % across) * wide, Math.floor(frame / across) * high, wide, high, 0, 0, wide, high);
    }
    output.textContent = `${now + 1} of ${longest}`;
  };
  slider.addEventListener("input", draw);
  playing(viewer.querySelector("button"), 1000 / views[0].rate, () => {
    slider.value = (Number(slider.value) + 1) % longest;
    draw();
  });
  draw();
};
