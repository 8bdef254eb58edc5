// Outlines of label maps on NiiVue's slices, along the voxels' edges: they show exactly what a map holds. The reference
// is a broad line, the prediction a narrow one on top of it, as in the package's other pictures.

const WIDTHS = { reference: 3.4, prediction: 1.4 }; // CSS pixels
const SLICES = [ // axial, coronal, sagittal, as NiiVue numbers them: the volume's axes across, up and in depth
  { across: 0, up: 1, depth: 2 },
  { across: 0, up: 2, depth: 1 },
  { across: 1, up: 2, depth: 0 },
];
const MOST_PATHS = 96;

// A label map, with axes that run to the right, front and head.
export class OutlinedMap {
  constructor(role, volume, labels, colours) {
    this.role = role;
    this.voxels = volume.img;
    this.size = volume.dimsRAS.slice(1, 4);
    this.labels = labels;
    this.colours = colours;
    this.paths = new Map();
  }

  // The outline of one label on a slice, in voxels from the first voxel's corner. The latest ones are kept.
  path(plane, index, label) {
    const key = `${plane}/${index}/${label}`;
    let path = this.paths.get(key);
    if (!path) {
      path = this.trace(SLICES[plane], index, label);
      if (this.paths.size >= MOST_PATHS) this.paths.delete(this.paths.keys().next().value);
      this.paths.set(key, path);
    }
    return path;
  }

  trace({ across, up, depth }, index, label) {
    const steps = [1, this.size[0], this.size[0] * this.size[1]];
    const [width, height] = [this.size[across], this.size[up]];
    const first = index * steps[depth];
    const inside = (a, u) => a >= 0 && u >= 0 && a < width && u < height
      && this.voxels[first + a * steps[across] + u * steps[up]] === label;
    const path = new Path2D();
    // An edge lies wherever two neighbours differ; straight runs are one line.
    run(height, width, (u, a) => inside(a, u) !== inside(a, u - 1), (u, a, b) => { path.moveTo(a, u); path.lineTo(b, u); });
    run(width, height, (a, u) => inside(a, u) !== inside(a - 1, u), (a, u, v) => { path.moveTo(a, u); path.lineTo(a, v); });
    return path;
  }
}

function run(lines, length, isEdge, draw) {
  for (let line = 0; line <= lines; line++) {
    let start = -1;
    for (let at = 0; at <= length; at++) {
      const edge = at < length && isEdge(line, at);
      if (edge && start < 0) start = at;
      if (!edge && start >= 0) { draw(line, start, at); start = -1; }
    }
  }
}

// Draw the maps' outlines over what NiiVue has just drawn.
export function drawOutlines(nv, canvas, maps) {
  const { width, height } = nv.gl.canvas;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!maps.length) return;
  const pixels = width / canvas.clientWidth; // of the screen, in a CSS pixel
  nv.screenSlices.forEach((tile, number) => {
    if (!SLICES[tile.axCorSag] || !Number.isFinite(tile.sliceFrac)) return;
    const [left, top, wide, high] = tile.leftTopWidthHeight;
    context.save();
    context.beginPath();
    context.rect(left, top, wide, high);
    context.clip();
    context.lineCap = "square";
    for (const map of maps) {
      const matrix = onScreen(nv, tile, number, map.size);
      const depth = map.size[SLICES[tile.axCorSag].depth];
      const index = Math.min(depth - 1, Math.max(0, Math.floor(tile.sliceFrac * depth)));
      map.labels.forEach((label, place) => {
        const path = new Path2D();
        path.addPath(map.path(tile.axCorSag, index, label), matrix);
        context.lineWidth = WIDTHS[map.role] * pixels;
        context.strokeStyle = map.colours[place];
        context.stroke(path);
      });
    }
    context.restore();
  });
}

// From voxels to the canvas: slices are drawn along the volume's axes, so two points of a tile tell.
function onScreen(nv, tile, number, size) {
  const { across, up } = SLICES[tile.axCorSag];
  const [left, top, wide, high] = tile.leftTopWidthHeight;
  const [x1, y1, x2, y2] = [left + 0.25 * wide, top + 0.25 * high, left + 0.75 * wide, top + 0.75 * high];
  const one = nv.screenXY2TextureFrac(x1, y1, number, false);
  const two = nv.screenXY2TextureFrac(x2, y2, number, false);
  const a = (x2 - x1) / ((two[across] - one[across]) * size[across]);
  const d = (y2 - y1) / ((two[up] - one[up]) * size[up]);
  return new DOMMatrix([a, 0, 0, d, x1 - a * one[across] * size[across], y1 - d * one[up] * size[up]]);
}
