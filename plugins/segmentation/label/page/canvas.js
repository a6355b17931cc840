// The canvas: layers in the image's pixels, zoomed and panned, and the ring of the brush.

const CLOSEST = 40; // screen pixels of an image pixel

export class View {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layers = [];
    this.size = [1, 1];
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.ring = null;
    this.brightness = 1;
    this.changed = changed;
    this.fitted = true;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.fitted) this.fit();
    else this.draw();
  }

  // Show the whole image, in the middle.
  fit() {
    const { width, height } = this.canvas, [w, h] = this.size;
    this.scale = Math.min(CLOSEST, 0.96 * Math.min(width / w, height / h));
    [this.x, this.y] = [(width - this.scale * w) / 2, (height - this.scale * h) / 2];
    this.fitted = true;
    this.draw();
  }

  // A place of the pointer, in pixels of the canvas.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  // A place of the canvas, in pixels of the image.
  inside([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  zoom(factor, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const least = 0.2 * Math.min(this.canvas.width / this.size[0], this.canvas.height / this.size[1]);
    const scale = Math.min(CLOSEST, Math.max(Math.min(least, 1), this.scale * factor));
    const [x, y] = this.inside(at);
    [this.x, this.y, this.scale] = [at[0] - x * scale, at[1] - y * scale, scale];
    this.fitted = false;
    this.draw();
  }

  pan(right, down) {
    this.x += right;
    this.y += down;
    this.fitted = false;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
      this.changed(this);
    });
  }

  paint() {
    const { context, canvas, scale } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(scale, 0, 0, scale, this.x, this.y);
    context.beginPath();
    context.save();
    context.rect(0, 0, ...this.size);
    context.clip();
    for (const layer of this.layers) {
      if (!layer.source || !layer.shown) continue;
      context.globalAlpha = layer.opacity;
      context.imageSmoothingEnabled = layer.smooth && scale < 2;
      context.filter = layer.image && this.brightness > 1 ? `brightness(${this.brightness})` : "none";
      const { width, height } = layer.source, step = layer.step || 1;
      context.drawImage(layer.source, 0, 0, width * step, height * step);
    }
    context.restore();
    if (this.ring) this.circle();
  }

  circle() {
    const { context, scale } = this, [x, y, radius] = this.ring;
    for (const [width, colour] of [[3, "rgb(0 0 0 / .6)"], [1.4, "#fff"]]) {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.lineWidth = width / scale;
      context.strokeStyle = colour;
      context.stroke();
    }
  }
}

// A canvas of colours from class numbers: `look(index)` is red, green, blue, alpha of the pixel.
export function coloured(width, height, look) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = look(i);
  context.putImageData(image, 0, 0);
  return canvas;
}

// Red, green, blue and alpha as the number that little-endian memory has them in.
export function packed([red, green, blue], alpha = 255) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
