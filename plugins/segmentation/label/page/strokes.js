// The labels of an image, painted in strokes that can be undone.

export const NONE = 255; // the label of pixels without a class
const REMEMBERED = 2 ** 26; // bytes of strokes that can be undone

export class Strokes {
  constructor(width, height, labels, colours) {
    [this.width, this.height, this.labels] = [width, height, labels];
    this.colours = colours;
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d");
    [this.done, this.undone, this.before] = [[], [], null];
    this.show([0, 0, width, height]);
  }

  begin() {
    this.before = this.labels.slice();
    this.box = null;
  }

  // Discs of a class along a line, both ends in pixels of the image.
  line([x0, y0], [x1, y1], radius, value) {
    const r = Math.max(radius, 0.5), length = Math.hypot(x1 - x0, y1 - y0) ** 2;
    const box = this.clipped([
      Math.floor(Math.min(x0, x1) - r), Math.floor(Math.min(y0, y1) - r),
      Math.ceil(Math.max(x0, x1) + r), Math.ceil(Math.max(y0, y1) + r),
    ]);
    if (!box) return;
    for (let y = box[1]; y < box[3]; y++) {
      for (let x = box[0]; x < box[2]; x++) {
        // The distance of the pixel's centre to the segment.
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const t = length ? Math.min(1, Math.max(0, (px * (x1 - x0) + py * (y1 - y0)) / length)) : 0;
        const far = (px - t * (x1 - x0)) ** 2 + (py - t * (y1 - y0)) ** 2;
        if (far <= r * r) this.labels[y * this.width + x] = value;
      }
    }
    this.box = this.box ? [
      Math.min(this.box[0], box[0]), Math.min(this.box[1], box[1]),
      Math.max(this.box[2], box[2]), Math.max(this.box[3], box[3]),
    ] : box;
    this.show(box);
  }

  // Left, top, right and bottom inside the image; null where nothing is.
  clipped([left, top, right, bottom]) {
    const box = [Math.max(0, left), Math.max(0, top), Math.min(this.width, right), Math.min(this.height, bottom)];
    return box[0] < box[2] && box[1] < box[3] ? box : null;
  }

  // The stroke as it is to be saved; null where it changed nothing.
  end() {
    const { box, before } = this;
    this.before = null;
    if (!box) return null;
    const stroke = { box, before: this.cut(before, box), after: this.cut(this.labels, box) };
    if (stroke.before.every((value, i) => value === stroke.after[i])) return null;
    this.done.push(stroke);
    this.undone = [];
    let bytes = 0;
    const kept = this.done.findLastIndex((one) => (bytes += 2 * one.after.length) > REMEMBERED);
    if (kept > 0) this.done.splice(0, kept);
    return { box, labels: stroke.after };
  }

  // Forget the stroke that has begun.
  cancel() {
    if (!this.before) return;
    this.labels = this.before;
    this.before = null;
    if (this.box) this.show(this.box);
  }

  undo() {
    const stroke = this.done.pop();
    if (!stroke) return null;
    this.undone.push(stroke);
    return this.put(stroke.box, stroke.before);
  }

  redo() {
    const stroke = this.undone.pop();
    if (!stroke) return null;
    this.done.push(stroke);
    return this.put(stroke.box, stroke.after);
  }

  put(box, values) {
    const width = box[2] - box[0];
    for (let y = box[1]; y < box[3]; y++) {
      const row = values.subarray((y - box[1]) * width, (y - box[1] + 1) * width);
      this.labels.set(row, y * this.width + box[0]);
    }
    this.show(box);
    return { box, labels: values };
  }

  cut(labels, [left, top, right, bottom]) {
    const found = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++) {
      const row = labels.subarray(y * this.width + left, y * this.width + right);
      found.set(row, (y - top) * (right - left));
    }
    return found;
  }

  // Draw the labels of a box onto the canvas.
  show([left, top, right, bottom]) {
    const image = this.context.createImageData(right - left, bottom - top);
    const pixels = new Uint32Array(image.data.buffer);
    let i = 0;
    for (let y = top; y < bottom; y++) {
      for (let at = y * this.width + left; at < y * this.width + right; at++) {
        pixels[i++] = this.colours[this.labels[at]];
      }
    }
    this.context.putImageData(image, left, top);
  }
}
