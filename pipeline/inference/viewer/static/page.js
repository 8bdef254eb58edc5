// The page of `crossmoda-grl view`: one case at a time, drawn by NiiVue, with outlines over its slices.

import { drawOver, OutlinedMap } from "./outlines.js";

const TITLES = { prediction: "Labels", reference: "Reference" };
const VIEWS = ["All", "Axial", "Coronal", "Sagittal", "3-D"];
const CLOSE_UP_MM = 45; // the least that a jump shows
const MOST_ZOOM = 20;
const FILL_STEP = 0.1;

const at = (id) => document.getElementById(id);
const state = { case: -1, description: null, roles: [], maps: [], view: 0, draws: 0, mm: null };
let overview;
let nv;
let latest = 0; // number of the latest case that was asked for

// Tests and the curious: what is loaded, and where the cross is.
window.viewer = { state, get nv() { return nv; } };

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) {
    throw new Error("Expected a browser with WebGL 2, got one without. Update it, or switch hardware acceleration on.");
  }
  overview = await json("cases.json");
  nv = new window.niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairWidth: 0, // outlines.js draws one
    dragAndDropEnabled: false,
    isColorbar: false,
    isNearestInterpolation: true, // voxels as they are
    isRadiologicalConvention: true,
    logLevel: "error",
    multiplanarShowRender: 1,
    multiplanarLayout: 2,
    showLegend: false,
  });
  await nv.attachToCanvas(at("slices"));
  await nv.setVolumeRenderIllumination(-1); // 3-D shows the three slices, not a block that hides the structures
  const draw = nv.drawScene.bind(nv);
  nv.drawScene = (...given) => {
    const drawn = draw(...given);
    drawOver(nv, at("outlines"), shownMaps());
    state.draws += 1;
    return drawn;
  };
  nv.onLocationChange = showLocation;
  prepareControls();
  await load(0);
}

async function get(path) {
  const answer = await fetch(path).catch(() => null);
  if (!answer?.ok) throw new Error("The server does not answer. Is crossmoda-grl view still running?");
  return answer;
}

const json = async (path) => (await get(path)).json();

// Show a case, or what is wrong with it, unless another one is asked for meanwhile.
async function load(number) {
  const mine = ++latest;
  try {
    await read(number, () => mine === latest);
  } catch (error) {
    if (mine === latest) fail(error);
  }
}

async function read(number, isWanted) {
  document.body.dataset.state = "loading";
  at("message").textContent = "Loading …";
  at("case").textContent = document.title = overview.cases[number];
  at("choose").value = number;
  state.case = number;
  state.description = null;
  const description = await json(`cases/${number}/case.json`);
  if (description.error) throw new Error(description.error);
  // The last lies on top.
  const roles = ["scan", "reference", "prediction"].filter((role) => description.roles.includes(role));
  const images = await Promise.all(roles.map((role) => image(number, role, description.window)));
  if (isWanted()) await show(description, roles, images);
}

async function image(number, role, [low, high]) {
  const url = await (await get(`cases/${number}/${role}.nii`)).arrayBuffer();
  const shades = role === "scan" ? { colormap: "gray", cal_min: low, cal_max: high } : {};
  return window.niivue.NVImage.loadFromUrl({ url, name: `${role}.nii`, ...shades });
}

async function show(description, roles, images) {
  state.maps = [];
  await nv.loadVolumes([]);
  Object.assign(state, { description, roles });
  state.maps = roles.slice(1).map((role, place) => labelled(role, images[place + 1]));
  images.forEach((one) => nv.addVolume(one));
  at("with-reference").hidden = !roles.includes("reference");
  describe(description);
  update();
  look(state.view);
  if (description.places.length) go(description.places[0]);
  else zoomTo(1, [0.5, 0.5, 0.5]);
  document.body.dataset.state = "ready";
}

function labelled(role, volume) {
  const colours = overview.colours[role];
  const channels = colours.map((colour) => [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16)));
  const channel = (index) => [0, ...channels.map((one) => one[index])];
  volume.setColormapLabel({
    R: channel(0), G: channel(1), B: channel(2), A: [0, ...colours.map(() => 255)],
    I: [0, ...overview.labels], labels: ["", ...overview.titles],
  });
  return new OutlinedMap(role, volume, overview.labels, colours);
}

const shownMaps = () => at("outline").checked ? state.maps.filter((map) => at(map.role).checked) : [];

// Bring NiiVue to what the controls say.
function update() {
  nv.overlayAlphaShader = Number(at("fill").value); // of the slices; 3-D shows structures whole
  state.maps.forEach(({ role }, place) => { nv.volumes[place + 1].opacity = at(role).checked ? 1 : 0; });
  nv.updateGLVolume();
}

function go(place) {
  const sides = [0, 1, 2].map((axis) => nv.volumes[0].dimsRAS[axis + 1] * nv.volumes[0].pixDimsRAS[axis + 1]);
  zoomTo(Math.max(...sides) / Math.max(CLOSE_UP_MM, 2 * place.extent_mm), nv.mm2frac(place.mm, 0, true));
}

const whole = () => zoomTo(1, nv.scene.crosshairPos);

// Put the cross at a fraction of the volume, and in the middle of the slices.
function zoomTo(wanted, fraction) {
  const zoom = Math.min(MOST_ZOOM, Math.max(1, wanted));
  nv.scene.crosshairPos = fraction;
  const middle = nv.frac2mm([0.5, 0.5, 0.5]);
  const here = nv.frac2mm(fraction);
  const shift = zoom === 1 ? [0, 0, 0] : [0, 1, 2].map((axis) => middle[axis] - zoom * here[axis]);
  nv.setPan2Dxyzmm([...shift, zoom]);
  nv.createOnLocationChange();
}

const zoomBy = (factor) => zoomTo(nv.scene.pan2Dxyzmm[3] * factor, nv.scene.crosshairPos);

function showLocation(location) {
  const [right, front, up] = location.mm;
  state.mm = [right, front, up];
  const side = (value, plus, minus) => `${Math.abs(value).toFixed(1)} mm ${value < 0 ? minus : plus}`;
  const values = location.values.map(({ value }, place) => {
    const role = state.roles[place];
    if (role === "scan") return `intensity ${Number(value.toPrecision(4))}`;
    return `${TITLES[role].toLowerCase()} ${overview.titles[overview.labels.indexOf(value)] ?? (value || "nothing")}`;
  });
  at("status").textContent = [`${side(right, "right", "left")}, ${side(front, "front", "back")}, ${side(up, "up", "down")}`, ...values].join(" · ");
}

// --- The panel ---

function element(name, text = "", attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text) made.textContent = text;
  return made;
}

function describe({ structures, places, notes, roles }) {
  const maps = Object.keys(TITLES).filter((role) => roles.includes(role));
  const heads = ["mm³", ...maps.map((role) => TITLES[role]), ...(maps[1] ? ["Dice"] : [])];
  at("figures").tHead.replaceChildren(row("th", heads));
  at("figures").tBodies[0].replaceChildren(...structures.map(({ title, mm3, dice }, place) => {
    const line = row("td", [title, ...maps.map((role) => mm3[role].toFixed(0)), ...(maps[1] ? [dice?.toFixed(3) ?? "–"] : [])]);
    maps.forEach((role, column) => line.cells[column + 1].prepend(swatch(overview.colours[role][place])));
    return line;
  }));
  at("notes").replaceChildren(...notes.map((note) => element("li", note)));
  at("places").replaceChildren(...places.map((place, index) => {
    const button = element("button", "", { type: "button", onclick: () => go(place) });
    place.key ||= String(index + 1);
    const words = element("span", place.title);
    if (place.detail) words.append(element("small", place.detail));
    button.append(words, element("kbd", place.key));
    return button;
  }));
  if (!places.length) at("places").append(element("p", "The label map is empty."));
}

function row(kind, texts) {
  const line = element("tr");
  line.append(...texts.map((text, column) => element(column ? kind : "th", text)));
  return line;
}

function swatch(colour) {
  const made = element("span", "", { className: "swatch" });
  made.style.background = colour;
  return made;
}

function look(view) {
  state.view = view;
  [...at("views").children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === view)));
  nv.setSliceType([3, 0, 1, 2, 4][view]);
}

const step = (by) => {
  const wanted = state.case + by;
  if (overview.cases[wanted] !== undefined) load(wanted);
};

function prepareControls() {
  at("cases").hidden = overview.cases.length < 2;
  at("choose").append(...overview.cases.map((name, index) => element("option", name, { value: index })));
  at("choose").onchange = () => load(Number(at("choose").value));
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("views").append(...VIEWS.map((name, index) => element("button", name, { type: "button", onclick: () => look(index) })));
  for (const id of ["prediction", "reference", "fill"]) at(id).oninput = update;
  at("outline").oninput = () => nv.drawScene();
  at("in").onclick = () => zoomBy(1.5);
  at("out").onclick = () => zoomBy(1 / 1.5);
  at("whole").onclick = whole;
  at("help").onclick = () => at("keys").showModal();
  // Before NiiVue, which has keys of its own on its canvas.
  document.addEventListener("keydown", onKey, { capture: true });
  document.addEventListener("keyup", hideFromNiiVue, { capture: true });
}

const toggle = (id) => () => { if (!at(id).closest("[hidden]")) at(id).click(); };
const fillBy = (by) => () => { at("fill").value = Number(at("fill").value) + by; update(); };
const move = (...by) => () => nv.moveCrosshairInVox(...by);
const KEYS = {
  l: toggle("prediction"), r: toggle("reference"), o: toggle("outline"),
  "[": fillBy(-FILL_STEP), "]": fillBy(FILL_STEP), v: () => look((state.view + 1) % VIEWS.length),
  "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: whole,
  // The patient's right is on the reader's left.
  ArrowLeft: move(1, 0, 0), ArrowRight: move(-1, 0, 0), ArrowUp: move(0, 1, 0), ArrowDown: move(0, -1, 0),
  PageUp: move(0, 0, 1), PageDown: move(0, 0, -1), "?": () => at("keys").showModal(),
};
const WITHOUT_A_CASE = { n: () => step(1), p: () => step(-1) };

function hideFromNiiVue(event) {
  if (event.target === at("slices")) event.stopPropagation();
}

function onKey(event) {
  hideFromNiiVue(event);
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  const arrows = event.key.startsWith("Arrow") || event.key.startsWith("Page");
  if (event.target.matches("select") || (arrows && event.target === at("fill"))) return;
  const place = state.description?.places?.find(({ key }) => key === event.key);
  const action = WITHOUT_A_CASE[event.key]
    ?? (document.body.dataset.state === "ready" ? (place ? () => go(place) : KEYS[event.key]) : undefined);
  if (!action) return;
  event.preventDefault();
  action();
}

function fail(error) {
  nv?.loadVolumes([]); // no other case behind the message
  at("message").textContent = error.message;
  document.body.dataset.state = "error";
}

start().catch(fail);
