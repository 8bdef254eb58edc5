// Outlines of label maps, and the cross, on NiiVue's slices. Outlines run along the edges of voxels: they show exactly
// what a map holds. The reference is a broad line, the prediction a narrow one on top of it, as in other pictures of ours.

const WIDTHS = { reference: 3.4, prediction: 1.4 }; // CSS pixels
const CROSS = "rgb(255 255 255 / 75%)";
const GAP = 9; // CSS pixels around the middle of the cross
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
    this.boxes = boxes(this.voxels, this.size);
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
    const path = new Path2D();
    const box = this.boxes.get(label);
    if (!box || index < box[depth][0] || index > box[depth][1]) return path;
    const steps = [1, this.size[0], this.size[0] * this.size[1]];
    const first = index * steps[depth];
    const within = (axis, at) => at >= box[axis][0] && at <= box[axis][1];
    const inside = (a, u) => within(across, a) && within(up, u)
      && this.voxels[first + a * steps[across] + u * steps[up]] === label;
    // An edge lies wherever two neighbours differ; straight runs are one line.
    run(box[up], box[across], (u, a) => inside(a, u) !== inside(a, u - 1), (u, a, b) => { path.moveTo(a, u); path.lineTo(b, u); });
    run(box[across], box[up], (a, u) => inside(a, u) !== inside(a - 1, u), (a, u, v) => { path.moveTo(a, u); path.lineTo(a, v); });
    return path;
  }
}

// Where each label lies: its first and last voxel along each axis.
function boxes(voxels, [width, height]) {
  const found = new Map();
  voxels.forEach((label, place) => {
    if (!label) return;
    const position = [place % width, Math.floor(place / width) % height, Math.floor(place / (width * height))];
    if (!found.has(label)) found.set(label, position.map((at) => [at, at]));
    found.get(label).forEach((range, axis) => {
      range[0] = Math.min(range[0], position[axis]);
      range[1] = Math.max(range[1], position[axis]);
    });
  });
  return found;
}

// Find the runs of edges on the lines from a box's first voxel to after its last.
function run([firstLine, lastLine], [from, to], isEdge, draw) {
  for (let line = firstLine; line <= lastLine + 1; line++) {
    let start = -1;
    for (let at = from; at <= to + 1; at++) {
      const edge = at <= to && isEdge(line, at);
      if (edge && start < 0) start = at;
      if (!edge && start >= 0) { draw(line, start, at); start = -1; }
    }
  }
}

// Draw over what NiiVue has just drawn: the cross, and the maps' outlines.
export function drawOver(nv, canvas, maps) {
  const { width, height } = nv.gl.canvas;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!nv.volumes.length) return;
  const pixels = width / canvas.clientWidth; // of the screen, in a CSS pixel
  const size = nv.volumes[0].dimsRAS.slice(1, 4);
  nv.screenSlices.forEach((tile, number) => {
    const slice = SLICES[tile.axCorSag];
    if (!slice || !Number.isFinite(tile.sliceFrac)) return;
    const [left, top, wide, high] = tile.leftTopWidthHeight;
    const matrix = onScreen(nv, tile, number, size);
    const index = Math.min(size[slice.depth] - 1, Math.max(0, Math.floor(tile.sliceFrac * size[slice.depth])));
    context.save();
    context.beginPath();
    context.rect(left, top, wide, high);
    context.clip();
    drawCross(context, matrix, [slice.across, slice.up].map((axis) => nv.scene.crosshairPos[axis] * size[axis]), pixels);
    context.lineCap = "square";
    for (const map of maps) {
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

// NiiVue's own cross is as broad as voxels, and hides what it marks.
function drawCross(context, matrix, [across, up], pixels) {
  const { x, y } = matrix.transformPoint({ x: across, y: up });
  const [gap, end] = [GAP * pixels, context.canvas.width + context.canvas.height];
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + dx * gap, y + dy * gap);
    context.lineTo(x + dx * end, y + dy * end);
  }
  context.lineWidth = pixels;
  context.strokeStyle = CROSS;
  context.stroke();
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
