// Volumes from sprites: slices along three axes, in a window of values; all of a panel together.
function voxels({ image, width, height, depth, across, bits }) {
  const sheet = document.createElement("canvas");
  sheet.width = image.naturalWidth;
  sheet.height = image.naturalHeight;
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const values = bits === 16 ? new Uint16Array(depth * height * width) : new Uint8Array(depth * height * width);
  for (let z = 0; z < depth; z++) {
    const left = (z % across) * width, top = Math.floor(z / across) * height;
    const bytes = context.getImageData(left, top, width, height).data;
    for (let i = 0, at = z * height * width; i < bytes.length; i += 4, at++)
      values[at] = bits === 16 ? bytes[i] * 256 + bytes[i + 1] : bytes[i];
  }
  return values;
}

// Along an axis: sizes of a slice, steps in the array across, down and to the next, and its shape.
function cut(view, axis) {
  const { width: w, height: h, depth: d } = view, [sd, sh, sw] = view.spacing.split(" ").map(Number);
  if (axis === "0") return { wide: w, high: h, deep: d, x: 1, y: w, z: w * h, first: 0, shape: (w * sw) / (h * sh) };
  const last = (d - 1) * w * h; // the first slice is lowest, as radiologists look at it
  if (axis === "1") return { wide: w, high: d, deep: h, x: 1, y: -w * h, z: w, first: last, shape: (w * sw) / (d * sd) };
  return { wide: h, high: d, deep: w, x: w, y: -w * h, z: 1, first: last, shape: (h * sh) / (d * sd) };
}

STARTS.volumes = (viewer, views) => {
  const of = (name) => viewer.querySelector(`[name=${name}]`), output = viewer.querySelector("output");
  for (const view of views) view.values = voxels(view);
  const main = views[0], most = main.bits === 16 ? 65535 : 255, unit = main.unit ? ` ${main.unit}` : "";
  const short = (value) => String(Number(value.toPrecision(3)));
  const draw = () => {
    const centre = Number(of("level").value), width = Math.max(Number(of("window").value), 1e-12);
    const { deep } = cut(main, of("axis").value), now = Number(of("slice").value);
    for (const view of views) {
      const { wide, high, deep: own, x, y, z, first, shape } = cut(view, of("axis").value);
      const slice = deep > 1 ? Math.round((now * (own - 1)) / (deep - 1)) : 0;
      const { canvas, context, values } = view, scale = (view.high - view.low) / (view.bits === 16 ? 65535 : 255);
      if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
      canvas.style.aspectRatio = String(shape);
      const pixels = context.createImageData(wide, high), shades = new Uint32Array(pixels.data.buffer);
      for (let j = 0, to = 0; j < high; j++)
        for (let i = 0, from = first + j * y + slice * z; i < wide; i++, from += x) {
          const share = (view.low + values[from] * scale - centre) / width + 0.5;
          const shade = share <= 0 ? 0 : share >= 1 ? 255 : Math.round(255 * share);
          shades[to++] = 0xff000000 | (shade << 16) | (shade << 8) | shade;
        }
      context.putImageData(pixels, 0, 0);
    }
    output.textContent = `${now + 1} of ${deep}; level ${short(centre)}, window ${short(width)}${unit}`;
  };
  const turn = () => {
    const { deep } = cut(main, of("axis").value);
    of("slice").max = deep - 1;
    of("slice").value = Math.floor((deep - 1) / 2);
    draw();
  };
  for (const name of ["slice", "level", "window"]) of(name).addEventListener("input", draw);
  of("axis").addEventListener("change", turn);
  viewer.querySelector("button").addEventListener("click", () => {
    of("level").value = main.centre;
    of("window").value = main.window;
    draw();
  });
  // With a mouse: across widens the window, down raises the level.
  for (const { canvas } of views)
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse" || !(event.buttons & 1)) return;
      const pace = (main.high - main.low) / most;
      of("window").value = Number(of("window").value) + event.movementX * pace * Math.max(1, most / 400);
      of("level").value = Number(of("level").value) + event.movementY * pace * Math.max(1, most / 400);
      draw();
    });
  turn();
};
