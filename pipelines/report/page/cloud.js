// Clouds of points, turned together: discs with a depth buffer, in plain canvas.
function points(view) {
  const bytes = Uint8Array.from(atob(view.canvas.dataset.cloud), (letter) => letter.charCodeAt(0));
  const count = bytes.length / 9, places = new Float32Array(3 * count), ints = new DataView(bytes.buffer);
  for (let i = 0; i < 3 * count; i++) places[i] = ints.getUint16(2 * i, true) / 32767.5 - 1;
  return { count, places, colours: bytes.subarray(6 * count) };
}

STARTS.clouds = (viewer, views) => {
  const of = (name) => viewer.querySelector(`[name=${name}]`), output = viewer.querySelector("output");
  for (const view of views) {
    Object.assign(view, points(view));
    view.pixels = view.context.createImageData(view.canvas.width, view.canvas.height);
    view.nearest = new Float32Array(view.canvas.width * view.canvas.height);
  }
  const draw = () => {
    const turn = (of("turn").value * Math.PI) / 180, tilt = (of("tilt").value * Math.PI) / 180;
    for (const view of views) disc(view, turn, tilt, Number(of("size").value));
    output.textContent = `turned ${of("turn").value}°, tilted ${of("tilt").value}°`;
  };
  const by = (name, step) => {
    const slider = of(name), span = slider.max - slider.min, value = Number(slider.value) + step;
    slider.value = name === "turn" ? ((((value - slider.min) % span) + span) % span) + Number(slider.min) : value;
  };
  for (const name of ["turn", "tilt", "size"]) of(name).addEventListener("input", draw);
  playing(viewer.querySelector("button"), 40, () => { by("turn", 2); draw(); });
  for (const { canvas } of views) {
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      by("turn", Math.round(event.movementX / 2));
      by("tilt", Math.round(event.movementY / 2));
      draw();
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: ["turn", -5], ArrowRight: ["turn", 5], ArrowUp: ["tilt", -5], ArrowDown: ["tilt", 5] }[event.key];
      if (!step) return;
      event.preventDefault();
      by(...step);
      draw();
    });
  }
  draw();
};

function disc({ canvas, context, pixels, nearest, count, places, colours }, turn, tilt, size) {
  const side = canvas.width, data = new Uint32Array(pixels.data.buffer);
  const [ct, st, cx, sx] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
  data.fill(0);
  nearest.fill(-9);
  for (let i = 0; i < count; i++) {
    const px = places[3 * i], py = places[3 * i + 1], pz = places[3 * i + 2];
    const x = px * ct + pz * st, back = pz * ct - px * st;
    const y = py * cx - back * sx, z = py * sx + back * cx;
    const grown = 4 / (4 - z), radius = (size * grown * side) / 720;
    const u = side / 2 + x * grown * side * 0.37, v = side / 2 - y * grown * side * 0.37;
    const light = Math.min(1, Math.max(0.42, 0.72 + 0.26 * z));
    const colour = 0xff000000 | ((colours[3 * i + 2] * light) << 16) | ((colours[3 * i + 1] * light) << 8) | (colours[3 * i] * light);
    const top = Math.max(0, Math.ceil(v - radius)), bottom = Math.min(side - 1, Math.floor(v + radius));
    const left = Math.max(0, Math.ceil(u - radius)), right = Math.min(side - 1, Math.floor(u + radius));
    for (let b = top; b <= bottom; b++)
      for (let a = left; a <= right; a++) {
        const at = b * side + a;
        if (z > nearest[at] && (a - u) ** 2 + (b - v) ** 2 <= radius ** 2) {
          nearest[at] = z;
          data[at] = colour;
        }
      }
  }
  context.putImageData(pixels, 0, 0);
}
