"use strict";
// One case of a release: its scan in three planes, outlines of its masks, and its tumors.
//
// The address says what is shown: case.html#CASE/MAP/NUMBER, where MAP is an instance map (an
// organ, or `pooled`). window.viewer tells the state.

(() => {
  const el = (id) => document.getElementById(id);
  const { CASES, RELEASE } = window;
  const AXIAL = 0, CORONAL = 1, SAGITTAL = 2;
  // Plane, then x, y, width and height as shares of the stage.
  const LANDSCAPE = [[AXIAL, 0, 0, 0.62, 1], [CORONAL, 0.62, 0, 0.38, 0.5], [SAGITTAL, 0.62, 0.5, 0.38, 0.5]];
  const PORTRAIT = [[AXIAL, 0, 0, 1, 0.6], [CORONAL, 0, 0.6, 0.5, 0.4], [SAGITTAL, 0.5, 0.6, 0.5, 0.4]];
  // Name, then the letters at left, right, top and bottom of the screen.
  const LETTERS = {
    [AXIAL]: ["axial", "R", "L", "A", "P"],
    [CORONAL]: ["coronal", "R", "L", "S", "I"],
    [SAGITTAL]: ["sagittal", "A", "P", "S", "I"],
  };
  // Level and width in HU.
  const WINDOWS = [["abdomen", 40, 400], ["liver", 90, 150], ["lung", -600, 1500], ["bone", 400, 1800]];
  const UINT8 = 2, UINT16 = 512, HEADER_BYTES = 352;
  const ALL_ORGANS = "combined_labels";
  const MAPS = "instances/", ORGANS = "segmentations/";

  // ---------------------------------------------------------------- labels and their colours
  // A label map holds what is outlined: organs by their index, then what lies over them.
  const CYST = 34, OTHER = 35, THIS = 36;
  const COLORS = Array.from({ length: THIS + 1 }, (_, index) => organColor(index));
  COLORS[CYST] = [92, 170, 255];
  COLORS[OTHER] = [255, 143, 90];
  COLORS[THIS] = [255, 214, 64];
  // The viewer's overlay passes the labels on as shades of red; more than 128 would blur.
  const labels = COLORS.map((_, label) => label);
  const none = labels.map(() => 0);
  const LABELS = {
    R: labels, G: none, B: none, A: labels.map((label) => (label ? 255 : 0)), I: labels,
    labels: labels.map(() => ""),
  };

  // Hues from green to purple: apart from those of tumors, and from that of the next organ.
  function organColor(index) {
    const hue = 100 + ((index * 0.618034) % 1) * 210;
    const part = (n) => {
      const k = (n + hue / 30) % 12;
      return Math.round(255 * (0.62 - 0.24 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [part(0), part(8), part(4)];
  }

  // Outlines run along the borders of voxels, in screen pixels whatever the voxels' size. Where
  // two meet, that of the higher label is drawn: a tumor's over its organ's.
  const SLICE_SHADER = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform float overlays;
uniform float opacity;
uniform float overlayOutlineWidth;
in vec3 texPos;
out vec4 color;
const vec3 COLORS[${COLORS.length}] = vec3[](
${COLORS.map((rgb) => `vec3(${rgb.map((v) => (v / 255).toFixed(3)).join(", ")})`).join(",\n")}
);
int label(vec3 where) {
  ivec3 size = textureSize(overlay, 0);
  ivec3 voxel = clamp(ivec3(floor(where * vec3(size))), ivec3(0), size - 1);
  return int(texelFetch(overlay, voxel, 0).r * 255.0 + 0.5);
}
void main() {
  vec3 right = dFdx(texPos) * overlayOutlineWidth;
  vec3 up = dFdy(texPos) * overlayOutlineWidth;
  color = vec4(texture(volume, texPos).rgb, opacity);
  if (overlays < 1.0 || overlayOutlineWidth <= 0.0) return;
  int low = label(texPos);
  int high = low;
  for (int i = -1; i <= 1; i += 2) {
    for (int j = -1; j <= 1; j += 2) {
      int there = label(texPos + float(i) * right + float(j) * up);
      low = min(low, there);
      high = max(high, there);
    }
  }
  if (high > low) color.rgb = COLORS[high];
}`;

  // ---------------------------------------------------------------- what is shown
  let one = null; // the case
  let tumor = null; // the one that the crosshair was sent to
  let view = null;
  let scan = null; // the volume below the outlines: the CT, or nothing but its grid
  let lines = null; // the volume of labels
  let problem = "";
  let ready = false;
  let serial = 0;
  let outlines = true;
  let zoomed = false;
  const shown = new Set(); // names of the files whose outlines are shown
  const masks = new Map(); // name of a file -> promise of its runs

  const hasImage = () => one.files.includes("ct");
  const mapOf = (t) => MAPS + t.map;
  const structureOf = (name) => name.slice(ORGANS.length);
  const organFiles = () => one.files
    .filter((name) => name.startsWith(ORGANS) && isOrgan(structureOf(name)));
  const mapFiles = () => one.files.filter((name) => name.startsWith(MAPS));
  // Tumors and cysts are shown by the instance maps.
  const isOrgan = (name) => name in RELEASE.structures && !RELEASE.tumor_structures.includes(name);

  function fromAddress() {
    let parts = [];
    try {
      parts = location.hash.slice(1).split("/").map(decodeURIComponent);
    } catch {
      // An address that nobody made here names no case.
    }
    const [caseId, map, number] = parts;
    const found = CASES.find((each) => each.case_id === caseId);
    const chosen = found?.tumors.find((t) => t.map === map && String(t.number) === number);
    return [found, chosen || null];
  }

  const addressOf = (each, t) =>
    `#${[each.case_id, ...(t ? [t.map, t.number] : [])].map(encodeURIComponent).join("/")}`;

  // ---------------------------------------------------------------- volumes
  async function readVolume(name) {
    const place = `${name === "ct" ? "ct" : "label"}/${one.case_id}/${name}.nii.gz`;
    try {
      const response = await fetch(`../${place.split("/").map(encodeURIComponent).join("/")}`);
      if (!response.ok) throw new Error(`status ${response.status}`);
      let buffer = await response.arrayBuffer();
      const [first, second] = new Uint8Array(buffer, 0, 2);
      // Some web servers unpack on the way.
      if (first === 0x1f && second === 0x8b) {
        const packed = new Blob([buffer]).stream();
        buffer = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
      }
      const bytes = new DataView(buffer).getInt16(72, true) / 8;
      if (buffer.byteLength < HEADER_BYTES + bytes * voxelsOf(buffer)) throw new Error("it is cut short");
      return buffer;
    } catch (error) {
      throw new Error(`${place} cannot be read (${error.message})`, { cause: error });
    }
  }

  const voxelsOf = (buffer) => {
    const header = new DataView(buffer);
    return [1, 2, 3].reduce((count, axis) => count * header.getInt16(40 + 2 * axis, true), 1);
  };

  // Runs of equal values: start, end, value, start, ... A mask is a few of them.
  function runsOf(buffer) {
    const type = new DataView(buffer).getInt16(70, true);
    const values = new (type === UINT8 ? Uint8Array : Uint16Array)(buffer, HEADER_BYTES, voxelsOf(buffer));
    const runs = [];
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i];
      if (!value) continue;
      const start = i;
      while (values[i + 1] === value) i += 1;
      runs.push(start, i + 1, value);
    }
    return Uint32Array.from(runs);
  }

  function runs(name) {
    if (!masks.has(name)) masks.set(name, readVolume(name).then(runsOf));
    return masks.get(name);
  }

  // A volume of labels, all 0, on the grid of another.
  function emptyLabels(buffer) {
    const labels = new Uint8Array(HEADER_BYTES + voxelsOf(buffer));
    labels.set(new Uint8Array(buffer, 0, HEADER_BYTES));
    const header = new DataView(labels.buffer);
    header.setInt16(70, UINT8, true);
    header.setInt16(72, 8, true);
    return labels.buffer;
  }

  const LEVELS = {
    [ALL_ORGANS]: () => (value) => (isTumorValue(value) ? 0 : value),
    organ: (name) => () => RELEASE.structures[structureOf(name)],
    map: (name) => {
      const kinds = new Map(one.tumors.filter((t) => mapOf(t) === name).map((t) => [t.number, t.kind]));
      const own = tumor && mapOf(tumor) === name ? tumor.number : 0;
      return (value) => (value === own ? THIS : kinds.get(value) === "cyst" ? CYST : OTHER);
    },
  };
  const isTumorValue = (value) =>
    RELEASE.tumor_structures.some((name) => RELEASE.structures[name] === value);
  // Later ones lie over earlier ones.
  const orderOf = (name) => [name !== ALL_ORGANS, name.startsWith(MAPS), tumor && mapOf(tumor) === name]
    .reduce((order, is) => 2 * order + Number(Boolean(is)), 0);

  async function drawMasks() {
    if (!lines) return;
    serial += 1;
    const mine = serial;
    ready = false;
    problem = "";
    const names = [...shown].sort((a, b) => orderOf(a) - orderOf(b) || (a < b ? -1 : 1));
    try {
      const all = await Promise.all(names.map(runs));
      if (mine !== serial) return;
      lines.img.fill(0);
      names.forEach((name, i) => {
        const kind = name === ALL_ORGANS ? name : name.startsWith(MAPS) ? "map" : "organ";
        const level = LEVELS[kind](name);
        for (let run = 0; run < all[i].length; run += 3) {
          const label = level(all[i][run + 2]);
          if (label) lines.img.fill(label, all[i][run], all[i][run + 1]);
        }
      });
    } catch (error) {
      if (mine === serial) fail(error);
      return;
    }
    view.refreshLayers(lines, 1);
    view.drawScene();
    tell();
    ready = true;
  }

  // ---------------------------------------------------------------- images
  async function startImages() {
    if (!document.createElement("canvas").getContext("webgl2")) return false;
    view = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.44, 0.69, 0.87, 1],
      crosshairWidthUnit: "mm",
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      isOrientationTextVisible: false,
      isForceMouseClickToVoxelCenters: true,
      dragMode: niivue.DRAG_MODE.windowing,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
    });
    await view.attachToCanvas(el("planes"), false);
    view.setCustomSliceShader(SLICE_SHADER);
    view.onLocationChange = showPlace;
    el("planes").addEventListener("webglcontextlost", () => {
      fail(new Error("the graphics of this browser stopped: reload the page"));
    });
    return true;
  }

  async function showCase() {
    serial += 1;
    const mine = serial;
    ready = false;
    scan = null;
    lines = null;
    masks.clear();
    shown.clear();
    problem = "";
    if (tumor) shown.add(mapOf(tumor));
    // Without an image the organs show where one is.
    if (!hasImage() && one.files.includes(ALL_ORGANS)) shown.add(ALL_ORGANS);
    render();
    if (!view) return;
    view.volumes = [];
    view.overlays = [];
    view.drawScene();
    el("loading").hidden = false;
    try {
      const name = hasImage() ? "ct" : one.files[0];
      const buffer = await readVolume(name);
      const labels = emptyLabels(buffer);
      const [level, width] = WINDOWS[Number(el("window").value)].slice(1);
      const below = hasImage()
        ? await niivue.NVImage.new(buffer, "ct.nii", "gray", 1, null, level - width / 2, level + width / 2)
        : await niivue.NVImage.new(labels.slice(0), "grid.nii", "gray", 1, null, 0, 255);
      const above = await niivue.NVImage.new(labels, "masks.nii", "gray", 1, null, 0, 255);
      if (mine !== serial) return;
      scan = below;
      lines = above;
    } catch (error) {
      if (mine === serial) fail(error);
      return;
    }
    el("loading").hidden = true;
    lines.setColormapLabel(LABELS);
    view.volumes = [scan];
    view.addVolume(lines);
    layOut();
    goTo(tumor);
    await drawMasks();
  }

  // The crosshair goes to the voxel nearest to a tumor's centroid, or to the middle.
  function goTo(t) {
    if (!scan) return;
    const voxel = view.frac2vox(t ? view.mm2frac(t.centroid_ras_mm, 0, true) : [0.5, 0.5, 0.5]);
    view.scene.crosshairPos = view.vox2frac(voxel);
    frame();
    showPlace();
  }

  const tiles = () => (el("stage").clientWidth > el("stage").clientHeight ? LANDSCAPE : PORTRAIT);

  function layOut() {
    drawLetters();
    if (!scan) return;
    view.setCustomLayout(tiles().map(([sliceType, ...position]) => ({ sliceType, position })));
    frame();
  }

  // Zoomed, the crosshair's tumor fills about a fifth of the axial plane.
  function frame() {
    const { extentsMinOrtho: from, extentsMaxOrtho: to } = scan;
    const { width, height } = view.gl.canvas;
    const sizeMm = [0, 1, 2].map((i) => to[i] - from[i]);
    const axes = { [AXIAL]: [0, 1], [CORONAL]: [0, 2], [SAGITTAL]: [1, 2] };
    const fits = tiles().map(([plane, , , w, h]) => Math.min(
      (w * width) / sizeMm[axes[plane][0]], (h * height) / sizeMm[axes[plane][1]],
    ));
    const shownMm = Math.max(50, 5 * (tumor ? tumor.radius_mm : 20));
    const [, , , w, h] = tiles()[0];
    const scale = zoomed ? Math.max(1, Math.min(w * width, h * height) / shownMm / fits[0]) : 1;
    // Millimetres along the axes of the grid, which may be tilted.
    const at = view.frac2mm(view.scene.crosshairPos);
    view.scene.pan2Dxyzmm = [...[0, 1, 2].map((i) => (zoomed ? (from[i] + to[i]) / 2 - scale * at[i] : 0)), scale];
    // The crosshair points at the tumor and does not cover it. The viewer wants its width in mm
    // and its gap in radii of the line.
    const radiusMm = (0.8 * view.uiData.dpr) / (Math.min(...fits) * scale);
    view.opts.crosshairWidth = 2 * radiusMm;
    view.opts.crosshairGap = (tumor ? 1.5 * tumor.radius_mm + 3 : 8) / radiusMm;
    view.crosshairs3D = null;
    view.overlayOutlineWidth = outlines ? 0.75 * view.uiData.dpr : 0;
    view.drawScene();
  }

  function crosshairMm() {
    return scan && Array.from(view.frac2mm(view.scene.crosshairPos, 0, true)).slice(0, 3);
  }

  // ---------------------------------------------------------------- what is written on the page
  const digits = (value) => (Math.abs(value) < 0.05 ? 0 : value).toFixed(1);

  function showPlace() {
    const mm = crosshairMm();
    el("place").textContent = mm ? `R ${digits(mm[0])} A ${digits(mm[1])} S ${digits(mm[2])} mm` : "";
    el("hu").textContent = mm && hasImage() ? `${scan.getValue(...scan.mm2vox(mm))} HU` : "";
  }

  function fail(error) {
    problem = `${error.message}. \`python -m tumoratlas verify FOLDER\` tells whether the copy is whole.`;
    ready = true;
    el("loading").hidden = true;
    tell();
  }

  function message() {
    if (!one) return "No case of this release is named in the address: choose one in the list of all.";
    if (location.protocol === "file:") {
      return "A page opened as a file may not read images: run `python -m tumoratlas view FOLDER` with the release's folder, or put the folder on any web server.";
    }
    if (!view) {
      return "This browser cannot show the images, because WebGL 2 is missing or switched off: open the page in a current Chrome, Edge, Safari or Firefox.";
    }
    if (problem) return problem;
    return hasImage() ? "" : `The target ${RELEASE.target} of this release holds no image of this case: its masks are shown alone.`;
  }

  function toggle(name, text, label) {
    const box = document.createElement("input");
    const line = document.createElement("label");
    const sign = document.createElement("i");
    box.type = "checkbox";
    box.value = name;
    box.checked = shown.has(name);
    box.disabled = !view;
    box.addEventListener("change", () => {
      if (box.checked) shown.add(name);
      else shown.delete(name);
      drawMasks();
    });
    if (label) sign.style.setProperty("border-color", `rgb(${COLORS[label].join()})`);
    line.append(box, sign, text);
    return line;
  }

  function tumorButton(t) {
    const button = document.createElement("button");
    const size = document.createElement("span");
    button.type = "button";
    button.ariaCurrent = String(t === tumor);
    button.textContent = [t.map === t.organ ? "" : t.organ, t.side, t.kind, t.number].filter(Boolean).join(" ");
    size.textContent = [
      t.fragment ? "fragment" : t.size_class,
      `r ${digits(t.radius_mm)} mm`,
      t.longest_axial_mm === null ? "" : `longest ${digits(t.longest_axial_mm)} mm`,
      t.early && !t.fragment ? "early" : "",
    ].filter(Boolean).join(" · ");
    button.append(size);
    button.addEventListener("click", () => {
      if (t === tumor) goTo(t);
      else location.hash = addressOf(one, t);
    });
    const line = document.createElement("li");
    line.append(button);
    return line;
  }

  function tell() {
    const text = message();
    el("message").textContent = text;
    el("message").hidden = !text;
  }

  function render() {
    tell();
    for (const id of ["previous", "next"]) el(id).disabled = !one || CASES.length < 2;
    for (const id of ["zoom", "outlines"]) el(id).disabled = !view || !one;
    el("window").disabled = !view || !one || !hasImage();
    if (!one) return;
    document.title = `TumorAtlas: ${one.case_id}`;
    el("case-id").textContent = one.case_id;
    el("about").textContent = `${one.source}, ${one.slices} slices, release ${RELEASE.version}`;
    el("zoom").ariaPressed = String(zoomed);
    el("outlines").ariaPressed = String(outlines);
    const empty = [];
    const groups = mapFiles().flatMap((name) => {
      const map = name.slice(MAPS.length);
      const own = one.tumors.filter((t) => t.map === map);
      if (!own.length) empty.push(map);
      const head = document.createElement("li");
      head.append(toggle(name, map === "pooled" ? "lesions of an unnamed organ" : map, OTHER));
      return own.length ? [head, ...own.map(tumorButton)] : [];
    });
    el("tumors").replaceChildren(...groups);
    el("empty").textContent = empty.length ? `Looked for and none found: ${empty.join(", ")}.`
      : groups.length ? "" : "No tumor mask of this case is released.";
    const organs = organFiles().map((name) =>
      toggle(name, structureOf(name).replaceAll("_", " "), RELEASE.structures[structureOf(name)]));
    if (one.files.includes(ALL_ORGANS)) organs.unshift(toggle(ALL_ORGANS, "all organs", 0));
    el("masks").replaceChildren(...organs);
  }

  function drawLetters() {
    el("letters").replaceChildren(...tiles().map(([plane, x, y, width, height]) => {
      const box = document.createElement("div");
      const [name, west, east, north, south] = LETTERS[plane];
      box.className = `${x ? "right" : ""} ${y ? "lower" : ""}`;
      Object.assign(box.style, {
        left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * width}%`, height: `${100 * height}%`,
      });
      for (const [kind, text] of Object.entries({ name, west, east, north, south })) {
        const span = document.createElement("span");
        span.className = kind;
        span.textContent = text;
        box.append(span);
      }
      return box;
    }));
  }

  // ---------------------------------------------------------------- hands
  function follow() {
    const [found, chosen] = fromAddress();
    const isSame = found && found === one;
    one = found || null;
    tumor = chosen;
    if (!one) return render();
    if (!isSame) return showCase();
    if (tumor) shown.add(mapOf(tumor));
    render();
    if (tumor) goTo(tumor);
    return drawMasks();
  }

  function step(by) {
    const to = (CASES.indexOf(one) + by + CASES.length) % CASES.length;
    location.hash = addressOf(CASES[to], CASES[to].tumors[0]);
  }

  function stepTumor(by) {
    const { tumors } = one;
    if (!tumors.length) return;
    const from = tumor ? tumors.indexOf(tumor) : by > 0 ? -1 : 0;
    location.hash = addressOf(one, tumors[(from + by + tumors.length) % tumors.length]);
  }

  function setWindow() {
    if (!scan || !hasImage()) return;
    const [, level, width] = WINDOWS[Number(el("window").value)];
    scan.cal_min = level - width / 2;
    scan.cal_max = level + width / 2;
    view.refreshLayers(scan, 0);
    view.drawScene();
  }

  function toggleZoom() {
    zoomed = !zoomed;
    if (scan) frame();
    render();
  }

  function toggleOutlines() {
    outlines = !outlines;
    if (scan) frame();
    render();
  }

  const scroll = (by) => { if (scan) view.moveCrosshairInVox(0, 0, by); };
  const KEYS = {
    n: () => stepTumor(1), p: () => stepTumor(-1), z: toggleZoom, o: toggleOutlines,
    ArrowUp: () => scroll(1), ArrowDown: () => scroll(-1),
  };

  function onKey(event) {
    if (!one || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLSelectElement) return;
    // The viewer has keys of its own, which are not ours.
    event.stopPropagation();
    const act = KEYS[event.key];
    if (!act) return;
    act();
    event.preventDefault();
  }

  async function start() {
    WINDOWS.forEach(([name, level, width], i) => {
      el("window").append(new Option(`${name} ${level}/${width}`, String(i)));
    });
    el("window").addEventListener("change", setWindow);
    el("zoom").addEventListener("click", toggleZoom);
    el("outlines").addEventListener("click", toggleOutlines);
    el("previous").addEventListener("click", () => step(-1));
    el("next").addEventListener("click", () => step(1));
    window.addEventListener("keydown", onKey, true);
    window.addEventListener("keyup", (event) => event.stopPropagation(), true);
    window.addEventListener("hashchange", follow);
    window.addEventListener("resize", () => requestAnimationFrame(layOut));
    for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
    // A double click would reset the window.
    el("stage").addEventListener("dblclick", (event) => event.stopPropagation(), true);
    drawLetters();
    if (location.protocol !== "file:") {
      try {
        if (!await startImages()) view = null;
      } catch {
        view = null;
      }
    }
    await follow();
    if (!view || !one) ready = true;
  }

  window.viewer = Object.freeze({
    get ready() { return ready; },
    get case_id() { return one && one.case_id; },
    get tumor() { return tumor && `${tumor.map}/${tumor.number}`; },
    get crosshair_mm() { return crosshairMm(); },
    get shown() { return [...shown].sort(); },
    get webgl() { return Boolean(view); },
  });

  start();
})();
