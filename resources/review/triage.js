"use strict";
// The offline triage page: shows candidates, takes decisions, keeps them, gives them out.
//
// Ids of what can be used or read (tests and people rely on them):
//   header   batch kind reviewer role progress progress-bar unexported storage banner message
//   files    export-json export-csv import import-file show-table show-help
//   images   stage planes zoom letters convention no-webgl nothing loading
//   about    candidate organ case-id radius volume max-p centroid decision crosshair hu window-name
//   decide   accept reject uncertain next previous undo missed marks sign-off organ-state
//   reasons  reasons reason-cyst reason-vessel reason-normal reason-artefact reason-other
//            reason-cancel
//   comment  comment
//   view     windows window-1 .. window-5 outline center legend
//   dialogs  table close-table rows row-0 .. row-N help close-help
//
// The log of decisions is append-only: undo adds a line. window.triage tells the state.

(() => {
  const el = (id) => document.getElementById(id);
  const DATA = JSON.parse(el("content").textContent);
  const FULL = DATA.kind === "full";
  const SENIOR = DATA.role === "senior";
  const KEY = `tumoratlas/${DATA.batch}/${DATA.content}`;
  const FORMAT = "tumoratlas-decisions";
  const COLUMNS = [
    "case_id", "organ", "candidate_id", "decision", "reviewer_id", "time", "seconds", "reason",
    "comment", "tool", "base_sha256", "mask",
  ];
  const REASONS = { c: "cyst", v: "vessel", n: "normal", x: "artefact", o: "other" };
  const DECISIONS = ["accept", "reject", "uncertain", "contest", "sign_off", "undo"];
  // Level and width in HU.
  const WINDOWS = [
    ["abdomen", 40, 400], ["liver", 90, 150], ["lung", -600, 1500], ["bone", 400, 1800],
    ["pancreas", 50, 250],
  ];
  const LONGEST_PAUSE_MS = 60000;
  const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

  // ---------------------------------------------------------------- what there is to read
  const items = [];
  for (const organ of DATA.organs) {
    if (FULL || organ.candidates.length === 0) {
      // Only a signature ends an organ without candidates.
      if (FULL || SENIOR) items.push({ organ, candidate: null });
    } else {
      for (const candidate of organ.candidates) items.push({ organ, candidate });
    }
  }
  const place = (organ, candidateId) => `${organ.case_id}\n${organ.organ}\n${candidateId}`;
  const target = (item) => place(item.organ, item.candidate ? item.candidate.candidate_id : "");
  const organTarget = (organ) => place(organ, "");
  const rowTarget = (row) => `${row.case_id}\n${row.organ}\n${row.candidate_id}`;
  const organs = new Map(DATA.organs.map((organ) => [organTarget(organ), organ]));
  const organOf = (row) => organs.get(`${row.case_id}\n${row.organ}\n`);
  const known = new Set(organs.keys());
  for (const item of items) known.add(target(item));

  let index = 0;
  const current = () => items[index];

  // ---------------------------------------------------------------- the log
  const log = new Map(); // JSON of a row -> { row, exported }
  let sorted = [];
  let stacks = new Map(); // target -> its decisions that are not undone
  let lastOfOrgan = new Map(); // target of an organ -> its last row
  let comments = {};
  const warnings = new Map();

  function replay() {
    sorted = [...log.values()].map((entry) => entry.row);
    sorted.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
    stacks = new Map();
    lastOfOrgan = new Map();
    for (const row of sorted) {
      const stack = stacks.get(rowTarget(row)) || [];
      if (row.decision === "undo") stack.pop();
      else stack.push(row);
      stacks.set(rowTarget(row), stack);
      lastOfOrgan.set(organTarget(organOf(row)), row);
    }
  }

  function addRows(rows, exported) {
    let added = 0;
    for (const row of rows) {
      const name = JSON.stringify(row);
      const entry = log.get(name);
      if (!entry) added += 1;
      log.set(name, { row, exported: exported || Boolean(entry && entry.exported) });
    }
    return added;
  }

  const stackOf = (name) => stacks.get(name) || [];
  const standing = (item) => stackOf(target(item)).at(-1);
  const marks = (organ) => stackOf(organTarget(organ)).filter((row) => row.decision === "contest");
  const isSigned = (organ) => lastOfOrgan.get(organTarget(organ))?.decision === "sign_off";
  const verdict = (organ, candidate) => stackOf(place(organ, candidate.candidate_id)).at(-1);
  const settled = (organ) =>
    organ.candidates.filter((c) => ["accept", "reject"].includes(verdict(organ, c)?.decision));
  const isDone = (item) =>
    item.candidate ? Boolean(standing(item)) : isSigned(item.organ) || marks(item.organ).length > 0;
  const unexported = () => [...log.values()].filter((entry) => !entry.exported).length;

  function whyNotSigned(organ) {
    if (!SENIOR) return "Only seniors sign off";
    if (isSigned(organ)) return "Signed off already";
    if (marks(organ).length) return "A missed tumor is marked: the organ goes back to be drawn";
    if (!FULL && settled(organ).length < organ.candidates.length) {
      return "Each candidate has to be accepted or rejected first";
    }
    return "";
  }

  // The organ that the sign-off button is about: the one whose last candidate was just decided,
  // until the reader goes elsewhere, else the one shown.
  let finished = null;
  const organToSign = () => finished || current()?.organ;

  function record(name, decision, details = {}) {
    const [case_id, organ, candidate_id] = name.split("\n");
    const last = sorted.length ? Date.parse(sorted.at(-1).time) : 0;
    const row = {
      case_id,
      organ,
      candidate_id,
      decision,
      time: new Date(Math.max(Date.now(), last + 1)).toISOString(),
      seconds: details.seconds ?? takeSeconds(),
      reason: details.reason ?? "",
      comment: details.comment ?? "",
      base_sha256: organs.get(`${case_id}\n${organ}\n`).base_sha256,
      mask: "",
    };
    addRows([row], false);
    replay();
    save();
  }

  // ---------------------------------------------------------------- keeping it
  let storage = null;
  try {
    storage = window.localStorage;
    storage.setItem(`${KEY}/test`, "1");
    storage.removeItem(`${KEY}/test`);
  } catch {
    storage = null;
  }

  // Another window may have this page open: its decisions are taken in before ours are written.
  function restore() {
    const text = storage && storage.getItem(KEY);
    if (!text) return;
    try {
      const kept = JSON.parse(text);
      for (const [row, exported] of kept.events) if (!problemOf(row)) addRows([row], exported);
      comments = { ...kept.comments, ...comments };
    } catch {
      storage.setItem(`${KEY}/damaged`, text);
      storage.removeItem(KEY);
      warnings.set("damaged", "What this browser kept of the batch was damaged: import your last export.");
    }
    replay();
  }

  function save() {
    warnings.delete("storage");
    try {
      if (!storage) throw new Error("no storage");
      restore();
      const events = [...log.values()].map((entry) => [entry.row, entry.exported]);
      storage.setItem(KEY, JSON.stringify({ events, comments }));
    } catch {
      warnings.set("storage", "This browser does not keep your decisions when the page closes: export before you close it.");
    }
  }

  // ---------------------------------------------------------------- time
  const spentMs = new Map();
  let since = null; // last sign of life, null while nobody can be reading

  const isFront = () => !document.hidden && document.hasFocus();

  function tick() {
    if (since === null) return;
    const now = performance.now();
    if (now - since <= LONGEST_PAUSE_MS) {
      const name = target(current());
      spentMs.set(name, (spentMs.get(name) || 0) + now - since);
    }
    since = now;
  }

  function restartClock() {
    tick();
    since = ready && items.length && isFront() ? performance.now() : null;
  }

  function secondsNow() {
    if (!items.length) return 0;
    tick();
    return Math.round(spentMs.get(target(current())) || 0) / 1000;
  }

  function takeSeconds() {
    const seconds = secondsNow();
    spentMs.delete(target(current()));
    return seconds;
  }

  // ---------------------------------------------------------------- images
  const AXIAL = 0, CORONAL = 1, SAGITTAL = 2;
  const TILES = FULL
    ? [[AXIAL, 0, 0, 0.62, 1], [CORONAL, 0.62, 0, 0.38, 0.5], [SAGITTAL, 0.62, 0.5, 0.38, 0.5]]
    : [[AXIAL, 0, 0, 0.5, 0.54], [CORONAL, 0, 0.54, 0.5, 0.46], [SAGITTAL, 0.5, 0.54, 0.5, 0.46]];
  // Name, then the letters at left, right, top and bottom of the screen.
  const LETTERS = {
    [AXIAL]: ["axial", "R", "L", "A", "P"],
    [CORONAL]: ["coronal", "R", "L", "S", "I"],
    [SAGITTAL]: ["sagittal", "A", "P", "S", "I"],
  };
  const COLORS = { this: "1.0, 0.85, 0.29", other: "1.0, 0.56, 0.35", organ: "0.31, 0.76, 0.71" };

  // Outlines run along the borders of voxels, in screen pixels whatever the voxels' size. The
  // colours of the overlay are flags: red this candidate, green another one, blue the organ.
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
vec3 flags(vec3 where) {
  ivec3 size = textureSize(overlay, 0);
  return texelFetch(overlay, clamp(ivec3(floor(where * vec3(size))), ivec3(0), size - 1), 0).rgb;
}
void main() {
  vec3 right = dFdx(texPos) * overlayOutlineWidth;
  vec3 up = dFdy(texPos) * overlayOutlineWidth;
  color = vec4(texture(volume, texPos).rgb, opacity);
  if (overlays < 1.0 || overlayOutlineWidth <= 0.0) return;
  vec3 here = flags(texPos);
  vec3 low = here;
  vec3 high = here;
  for (int i = -1; i <= 1; i += 2) {
    for (int j = -1; j <= 1; j += 2) {
      vec3 there = flags(texPos + float(i) * right + float(j) * up);
      low = min(low, there);
      high = max(high, there);
    }
  }
  vec3 edge = step(vec3(0.5), high - low);
  color.rgb = mix(color.rgb, vec3(${COLORS.organ}), 0.75 * edge.b);
  color.rgb = mix(color.rgb, vec3(${COLORS.other}), 0.9 * edge.g);
  color.rgb = mix(color.rgb, vec3(${COLORS.this}), edge.r);
}`;
  const FLAGS = {
    R: [0, 255, 0, 255, 0, 255, 0, 255],
    G: [0, 0, 255, 255, 0, 0, 255, 255],
    B: [0, 0, 0, 0, 255, 255, 255, 255],
    A: [0, 255, 255, 255, 255, 255, 255, 255],
    I: [0, 1, 2, 3, 4, 5, 6, 7],
    labels: ["", "", "", "", "", "", "", ""],
  };

  let planes = null;
  let zoom = null;
  let ct = null;
  let shownCt = "";
  let ready = false;
  let serial = 0;
  let outline = true;
  let chosenWindow = 0;
  let low = 0;
  let high = 0;

  const views = () => [planes, zoom].filter(Boolean);
  // What holds the volumes of the item that is shown; an organ without candidates has none.
  const source = () => current()?.candidate || (FULL && current()?.organ) || null;

  async function makeView(canvas) {
    const view = new niivue.Niivue({
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
    await view.attachToCanvas(canvas, false);
    view.setCustomSliceShader(SLICE_SHADER);
    canvas.addEventListener("webglcontextlost", () => {
      warnings.set("graphics", "The graphics of this browser stopped: reload the page. Your decisions are kept.");
      ready = false;
      render();
    });
    return view;
  }

  async function startImages() {
    if (!document.createElement("canvas").getContext("webgl2")) return false;
    planes = await makeView(el("planes"));
    planes.setCustomLayout(
      TILES.map(([sliceType, ...position]) => ({ sliceType, position })),
    );
    if (!FULL) {
      zoom = await makeView(el("zoom"));
      zoom.setSliceType(zoom.sliceTypeAxial);
    }
    for (const view of views()) {
      view.onLocationChange = () => {
        for (const other of views()) {
          if (other === view) continue;
          other.scene.crosshairPos = [...view.scene.crosshairPos];
          other.drawScene();
        }
        showPlace();
      };
    }
    return true;
  }

  async function decode(id, color) {
    const text = atob(el(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    const limits = color ? [low, high] : [0, 7];
    return niivue.NVImage.new(bytes.buffer, `${id}.nii.gz`, "gray", 1, null, ...limits);
  }

  async function show() {
    tick();
    since = null;
    ready = false;
    serial += 1;
    const mine = serial;
    const wanted = source();
    el("nothing").hidden = Boolean(wanted) || !planes;
    el("loading").hidden = !wanted || !planes;
    showPlace();
    render();
    if (!planes || !wanted) {
      ready = true;
      restartClock();
      return;
    }
    const isSame = wanted.ct === shownCt;
    let scan = ct;
    let lines = null;
    try {
      if (!isSame) scan = await decode(wanted.ct, true);
      lines = await decode(wanted.outlines, false);
    } catch {
      scan = null;
    }
    if (mine !== serial) return;
    el("loading").hidden = true;
    if (!scan || !lines) {
      say("This candidate's images cannot be read: leave it and tell who sent the page.");
      return;
    }
    ct = scan;
    shownCt = wanted.ct;
    ct.cal_min = low;
    ct.cal_max = high;
    lines.setColormapLabel(FLAGS);
    const before = FULL && isSame ? crosshairMm() : null;
    for (const view of views()) {
      view.overlayOutlineWidth = outlineWidth(view);
      if (isSame) {
        // The scan stays on the graphics card.
        view.volumes = [ct, lines];
        view.overlays = [lines];
        view.refreshLayers(lines, 1);
      } else {
        view.volumes = [ct];
        view.addVolume(lines);
      }
    }
    fitViews();
    goTo(before || wanted.start_ras_mm);
    ready = true;
    restartClock();
    render();
  }

  const outlineWidth = (view) => (outline ? 0.75 * view.uiData.dpr : 0);

  function goTo(mm) {
    for (const view of views()) {
      const voxel = view.frac2vox(view.mm2frac(mm, 0, true));
      view.scene.crosshairPos = view.vox2frac(voxel);
      view.drawScene();
    }
    showPlace();
  }

  // The zoom has the candidate in the middle and its surroundings as wide as it is on each side.
  function fitViews() {
    if (!planes || !planes.volumes.length) return;
    const candidate = current()?.candidate;
    const { extentsMinOrtho: from, extentsMaxOrtho: to } = ct;
    const sizeMm = [0, 1, 2].map((i) => to[i] - from[i]);
    const fit = ([width, height], across, down) => Math.min(width / sizeMm[across], height / sizeMm[down]);
    const { width, height } = planes.gl.canvas;
    const axes = { [AXIAL]: [0, 1], [CORONAL]: [0, 2], [SAGITTAL]: [1, 2] };
    const scales = TILES.map(([plane, , , w, h]) => fit([w * width, h * height], ...axes[plane]));
    drawCrosshair(planes, Math.min(...scales), candidate);
    if (!zoom || !candidate) return;
    const canvas = [zoom.gl.canvas.width, zoom.gl.canvas.height];
    const shownMm = Math.min(90, Math.max(32, 5 * candidate.radius_mm));
    const pixelsPerMm = Math.min(...canvas) / shownMm;
    const scale = pixelsPerMm / fit(canvas, 0, 1);
    const middle = zoom.frac2mm(zoom.mm2frac(candidate.start_ras_mm, 0, true));
    zoom.scene.pan2Dxyzmm = [...[0, 1, 2].map((i) => (from[i] + to[i]) / 2 - scale * middle[i]), scale];
    drawCrosshair(zoom, pixelsPerMm, candidate);
  }

  // The crosshair points at the candidate and does not cover it. The viewer wants its width in mm
  // and its gap in radii of the line.
  function drawCrosshair(view, pixelsPerMm, candidate) {
    const radiusMm = (0.8 * view.uiData.dpr) / pixelsPerMm;
    view.opts.crosshairWidth = 2 * radiusMm;
    view.opts.crosshairGap = (candidate ? 1.5 * candidate.radius_mm + 3 : 8) / radiusMm;
    view.crosshairs3D = null;
    view.drawScene();
  }

  function crosshairMm() {
    if (!planes || !planes.volumes.length || !source()) return null;
    return Array.from(planes.frac2mm(planes.scene.crosshairPos, 0, true)).slice(0, 3);
  }

  function scroll(x, y, z) {
    if (crosshairMm()) planes.moveCrosshairInVox(x, y, z);
  }

  function setWindow(number) {
    chosenWindow = number;
    const [, level, width] = WINDOWS[number - 1];
    applyWindow(level - width / 2, level + width / 2);
  }

  function applyWindow(from, to) {
    low = from;
    high = to;
    if (ct) {
      ct.cal_min = low;
      ct.cal_max = high;
      for (const view of views()) {
        view.refreshLayers(ct, 0);
        view.drawScene();
      }
    }
    render();
  }

  function toggleOutline() {
    outline = !outline;
    for (const view of views()) {
      view.overlayOutlineWidth = outlineWidth(view);
      view.drawScene();
    }
    render();
  }

  // ---------------------------------------------------------------- decisions
  let asking = false; // for the reason of a rejection

  function open(to) {
    if (!items.length) return;
    tick();
    asking = false;
    finished = null;
    index = Math.min(items.length - 1, Math.max(0, to));
    show();
  }

  function openNextUndone() {
    const count = items.length;
    for (let step = 1; step <= count; step += 1) {
      const to = (index + step) % count;
      if (!isDone(items[to])) return open(to);
    }
    const unsigned = items.findIndex((item) => !whyNotSigned(item.organ));
    if (unsigned < 0) say("All is decided. Export your decisions and send the file back.");
    else {
      const { organ, case_id } = items[unsigned].organ;
      say(`All candidates are decided. The ${organ} of ${case_id} can be signed off: f.`);
    }
    return open(unsigned < 0 ? index : unsigned);
  }

  function canDecide() {
    if (FULL) say("Here you look for missed tumors: the candidates are decided elsewhere.");
    else if (!current()?.candidate) say("This organ has no candidate to decide on.");
    else if (!planes) say("Without its images nothing can be decided.");
    else if (ready) return true;
    return false;
  }

  function decide(decision, reason = "") {
    asking = false;
    if (!canDecide()) return render();
    const name = target(current());
    const { organ, candidate } = current();
    record(name, decision, { reason, comment: takeComment(name) });
    const done = `Candidate ${candidate.number}: ${inWords({ decision, reason })}.`;
    const isFinished = !whyNotSigned(organ);
    say(done);
    openNextUndone();
    if (isFinished) {
      finished = organ;
      say(`${done} The ${organ.organ} of ${organ.case_id} can be signed off: f.`);
    }
    return render();
  }

  function askReason() {
    if (!canDecide()) return;
    asking = true;
    render();
  }

  function markMissed() {
    const item = current();
    const mm = crosshairMm();
    if (!ready || !mm || !item) return say("There is no image to mark a tumor on.");
    const text = takeComment(target(item));
    const comment = `missed tumor at ${inMm(mm)}${text ? `; ${text}` : ""}`;
    record(organTarget(item.organ), "contest", { reason: "missed", comment });
    say(`Marked for the ${item.organ.organ}: ${comment}.`);
    return render();
  }

  function signOff() {
    const organ = organToSign();
    if (!organ) return;
    const why = whyNotSigned(organ);
    if (why) return say(`${why}.`);
    if (FULL && !(ready && planes)) return;
    const isShown = organ === current().organ;
    // Reading time goes with the signature only where there is no candidate to carry it.
    const seconds = isShown && !current().candidate ? takeSeconds() : 0;
    const comment = isShown && !current().candidate ? takeComment(organTarget(organ)) : "";
    record(organTarget(organ), "sign_off", { seconds, comment });
    finished = null;
    say(`The ${organ.organ} of ${organ.case_id} is signed off.`);
    return isDone(current()) ? openNextUndone() : render();
  }

  function undo() {
    asking = false;
    finished = null;
    const tops = [...stacks.values()].map((stack) => stack.at(-1)).filter(Boolean);
    if (!tops.length) return say("There is nothing to undo.");
    const last = tops.reduce((a, b) => (a.time > b.time ? a : b));
    record(rowTarget(last), "undo", { seconds: 0 });
    say(`Undone: ${last.organ} of ${last.case_id}, ${inWords(last)}.`);
    const to = items.findIndex((item) =>
      last.candidate_id ? target(item) === rowTarget(last) : item.organ === organOf(last));
    return to < 0 || items[index].organ === items[to].organ && !last.candidate_id ? render() : open(to);
  }

  function takeComment(name) {
    const text = el("comment").value.trim();
    delete comments[name];
    el("comment").value = "";
    return text;
  }

  function keepComment() {
    if (!items.length) return;
    comments[target(current())] = el("comment").value;
    save();
  }

  // A comment that comes after its decision: the decision is taken once more, with it.
  function commentDone() {
    const item = current();
    const row = item && item.candidate && standing(item);
    el("comment").blur();
    if (!row || !el("comment").value.trim() || !canDecide()) return;
    record(target(item), row.decision, { reason: row.reason, comment: takeComment(target(item)) });
    say("The comment is added to the decision.");
    render();
  }

  // ---------------------------------------------------------------- files out and in
  const stem = () => `decisions-${DATA.batch}-${DATA.reviewer_id}`.replace(/[^\w.-]+/g, "_");

  function give(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    for (const entry of log.values()) entry.exported = true;
    save();
    say(`${sorted.length} lines exported as ${name}.`);
    render();
  }

  function exportJson() {
    const value = {
      format: FORMAT,
      schema: 1,
      batch: DATA.batch,
      reviewer_id: DATA.reviewer_id,
      tool: DATA.tool,
      exported: new Date().toISOString(),
      decisions: sorted,
    };
    give(`${stem()}.json`, "application/json", `${JSON.stringify(value, null, 1)}\n`);
  }

  function exportCsv() {
    const quoted = (value) => (/[",;\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const lines = sorted.map((row) => {
      const cells = { ...row, reviewer_id: DATA.reviewer_id, tool: DATA.tool };
      return COLUMNS.map((column) => quoted(String(cells[column]))).join(",");
    });
    give(`${stem()}.csv`, "text/csv", `${[COLUMNS.join(","), ...lines].join("\n")}\n`);
  }

  function problemOf(row) {
    const organ = row && organs.get(`${row.case_id}\n${row.organ}\n`);
    if (!organ || !known.has(rowTarget(row))) return "a case, organ or candidate that is not in this page";
    if (row.base_sha256 !== organ.base_sha256) return "another version of the candidates";
    const texts = ["reason", "comment", "mask"].every((name) => typeof row[name] === "string");
    if (!texts || !DECISIONS.includes(row.decision) || !TIME.test(row.time) || !(row.seconds >= 0)) {
      return "a line that this page did not write";
    }
    return "";
  }

  async function takeIn(file) {
    let value = null;
    try {
      value = JSON.parse(await file.text());
    } catch {
      return say(`${file.name} is not a whole JSON file: nothing is taken in.`);
    }
    const wanted = { format: FORMAT, schema: 1, batch: DATA.batch, reviewer_id: DATA.reviewer_id };
    for (const [name, expected] of Object.entries(wanted)) {
      if (value?.[name] !== expected) {
        return say(`${file.name} does not belong here: its ${name} is not ${expected}. Nothing is taken in.`);
      }
    }
    const rows = Array.isArray(value.decisions) ? value.decisions : [];
    const problems = rows.map(problemOf);
    const good = rows.filter((_, i) => !problems[i]);
    const added = addRows(good, true);
    replay();
    save();
    const left = problems.filter(Boolean);
    const parts = [`${added} taken in`, `${good.length - added} known already`];
    if (left.length) parts.push(`${left.length} left out: ${[...new Set(left)].join("; ")}`);
    say(`${file.name}: ${parts.join(", ")}.`);
    return added && items.length ? openFirstUndone() : render();
  }

  function openFirstUndone() {
    const to = items.findIndex((item) => !isDone(item));
    open(to < 0 ? 0 : to);
  }

  // ---------------------------------------------------------------- what is written on the page
  const fixed = (value, digits) => {
    const text = Number(value).toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text;
  };
  const inMm = (mm) => `R ${fixed(mm[0], 1)} A ${fixed(mm[1], 1)} S ${fixed(mm[2], 1)} mm`;

  function inWords(row) {
    const words = {
      accept: "accepted", reject: "rejected", uncertain: "uncertain", contest: "missed tumor",
      sign_off: "signed off",
    };
    return words[row.decision] + (row.decision === "reject" && row.reason ? `, ${row.reason}` : "");
  }

  function organInWords(organ) {
    const missed = marks(organ).length;
    if (missed) return `${missed} missed ${missed > 1 ? "tumors" : "tumor"} marked`;
    if (isSigned(organ)) return "signed off";
    const wasSigned = stackOf(organTarget(organ)).some((row) => row.decision === "sign_off");
    if (wasSigned) return "changed after it was signed off: sign again";
    if (FULL) return "not read to the end";
    if (!organ.candidates.length) return "no candidates";
    const open = organ.candidates.length - settled(organ).length;
    return open ? `${open} of ${organ.candidates.length} open` : "all candidates decided";
  }

  function say(text) {
    el("message").textContent = text;
  }

  function setText(values) {
    for (const [id, text] of Object.entries(values)) el(id).textContent = text;
  }

  function showPlace() {
    const mm = crosshairMm();
    const hu = mm ? ct.getValue(...ct.mm2vox(mm)) : null;
    setText({ crosshair: mm ? inMm(mm) : "", hu: mm ? `${hu} HU` : "" });
  }

  function render() {
    const item = current();
    const done = items.filter(isDone).length;
    const total = sorted.reduce((sum, row) => sum + row.seconds, 0);
    const mean = done ? `, ${fixed(total / done, 1)} s each` : "";
    const waiting = unexported();
    setText({
      progress: `${done} of ${items.length}${mean}`,
      unexported: waiting ? `${waiting} not exported` : log.size ? "all exported" : "",
      storage: storage && !warnings.has("storage") ? "kept in this browser" : "not kept",
    });
    el("progress-bar").value = items.length ? done / items.length : 0;
    el("unexported").className = waiting ? "some" : "";
    el("storage").className = storage && !warnings.has("storage") ? "kept" : "lost";
    const ahead = sorted.length ? Date.parse(sorted.at(-1).time) - Date.now() : 0;
    if (ahead > LONGEST_PAUSE_MS) {
      warnings.set("clock", "The clock of this computer is behind your last decision: check date and time.");
    } else warnings.delete("clock");
    el("banner").textContent = [...warnings.values()].join("\n");
    el("banner").hidden = warnings.size === 0;
    renderItem(item);
    renderControls(item);
    if (el("table").open) renderTable();
  }

  function renderItem(item) {
    if (!item) {
      setText({ nothing: "There is nothing to read in this batch.", candidate: "Nothing to read" });
      el("nothing").hidden = false;
      return;
    }
    const { organ, candidate } = item;
    const row = candidate && standing(item);
    const number = candidate && organ.candidates.indexOf(candidate) + 1;
    setText({
      candidate: candidate ? `Candidate ${candidate.number}` : FULL ? "Whole scan" : "No candidate",
      organ: organ.organ + (candidate ? `, ${number} of ${organ.candidates.length}` : ""),
      "case-id": organ.case_id,
      radius: candidate ? `${fixed(candidate.radius_mm, 1)} mm` : "–",
      volume: candidate ? inVolume(candidate.volume_mm3) : "–",
      "max-p": candidate ? fixed(candidate.max_p, 2) : "–",
      centroid: candidate ? `centre at ${inMm(candidate.centroid_ras_mm)}` : "",
      decision: row ? inWords(row) + (row.comment ? `: ${row.comment}` : "") : candidate ? "not decided" : "",
      nothing: `The model found nothing in the ${organ.organ} of this scan. Signing off says that there is no tumor: look at the scan before you do (scans/${organ.case_id}.nii.gz).`,
    });
    el("decision").className = row ? row.decision : "open";
    if (document.activeElement !== el("comment")) el("comment").value = comments[target(item)] ?? "";
    renderMarks(organ);
    renderLegend(organ, item);
  }

  const inVolume = (mm3) => (mm3 < 1000 ? `${fixed(mm3, 0)} mm³` : `${fixed(mm3 / 1000, 1)} ml`);

  function renderMarks(organ) {
    const list = [];
    if (FULL) {
      for (const c of organ.candidates) {
        list.push([`Candidate ${c.number}, radius ${fixed(c.radius_mm, 1)} mm`, "", c.start_ras_mm]);
      }
    }
    for (const row of marks(organ)) {
      const mm = row.comment.match(/R (\S+) A (\S+) S (\S+) mm/);
      if (mm) list.push([row.comment, "missed", mm.slice(1).map(Number)]);
    }
    el("marks").replaceChildren(
      ...list.map(([text, kind, mm]) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.className = kind;
        button.addEventListener("click", () => { if (ready && crosshairMm()) goTo(mm); });
        const line = document.createElement("li");
        line.append(button);
        return line;
      }),
    );
  }

  function renderLegend(organ, item) {
    const parts = [];
    if (FULL && organ.candidates.length) parts.push(["--this", "candidates"]);
    if (item.candidate) parts.push(["--this", "this candidate"]);
    if (item.candidate && organ.candidates.length > 1) parts.push(["--other", "others"]);
    if (organ.organ_known && (FULL || item.candidate)) parts.push(["--organ", organ.organ]);
    el("legend").replaceChildren(
      ...parts.flatMap(([color, text]) => {
        const sign = document.createElement("i");
        sign.style.borderColor = `var(${color})`;
        return [sign, text];
      }),
    );
  }

  function renderControls(item) {
    const canUse = Boolean(item && item.candidate && planes && !FULL);
    for (const id of ["accept", "reject", "uncertain"]) el(id).disabled = !canUse;
    for (const id of ["missed", "outline", "center"]) el(id).disabled = !planes || !source();
    el("undo").disabled = ![...stacks.values()].some((stack) => stack.length);
    for (const id of ["next", "previous"]) el(id).disabled = items.length < 2;
    el("reasons").hidden = !asking;
    el("outline").ariaPressed = String(outline);
    WINDOWS.forEach((_, i) => { el(`window-${i + 1}`).ariaPressed = String(chosenWindow === i + 1); });
    const name = chosenWindow ? WINDOWS[chosenWindow - 1][0] : "own";
    el("window-name").textContent = `${name} window ${Math.round((low + high) / 2)}/${Math.round(high - low)}`;
    const organ = organToSign();
    if (!organ) return;
    const why = whyNotSigned(organ);
    const state = organInWords(organ);
    el("organ-state").textContent = `${organ.organ} of ${organ.case_id}: ${state}`;
    el("organ-state").className = isSigned(organ) ? "signed" : marks(organ).length ? "contest" : "";
    el("sign-off-name").textContent = FULL
      ? `Read, nothing missed: sign off ${organ.organ}`
      : `Sign off ${organ.organ}`;
    el("sign-off").disabled = Boolean(why);
    el("sign-off").title = why;
    el("sign-off").hidden = !SENIOR;
    el("sign-off").className = why || FULL ? "" : "due";
  }

  function renderTable() {
    const cell = (text, kind = "") => {
      const td = document.createElement("td");
      td.textContent = text;
      td.className = kind;
      return td;
    };
    el("rows").replaceChildren(
      ...items.map((item, i) => {
        const { organ, candidate } = item;
        const row = candidate && standing(item);
        const all = sorted.filter((r) => rowTarget(r) === target(item));
        const seconds = all.reduce((sum, r) => sum + r.seconds, 0);
        const tr = document.createElement("tr");
        tr.id = `row-${i}`;
        tr.ariaCurrent = String(i === index);
        tr.append(
          cell(organ.case_id), cell(organ.organ), cell(candidate ? candidate.number : "", "n"),
          cell(candidate ? fixed(candidate.radius_mm, 1) : "", "n"),
          cell(candidate ? fixed(candidate.max_p, 2) : "", "n"),
          cell(row ? inWords(row) : candidate ? "not decided" : "", row ? row.decision : "open"),
          cell(row ? row.comment : ""), cell(all.length ? fixed(seconds, 1) : "", "n"),
          cell(organInWords(organ), isSigned(organ) ? "signed" : "open"),
        );
        tr.addEventListener("click", () => {
          el("table").close();
          open(i);
        });
        return tr;
      }),
    );
  }

  // ---------------------------------------------------------------- hands
  const toggle = (id) => (el(id).open ? el(id).close() : el(id).showModal());
  const showTable = () => { toggle("table"); render(); };
  const center = () => {
    if (ready && crosshairMm()) goTo(source().start_ras_mm);
  };
  const cancelReason = () => { asking = false; render(); };
  const sideways = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0] };
  const axially = { ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1] };
  const coronally = { ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0] };

  const ACTIONS = {
    accept: () => decide("accept"),
    reject: askReason,
    uncertain: () => decide("uncertain"),
    next: () => open(index + 1),
    previous: () => open(index - 1),
    undo,
    missed: markMissed,
    "sign-off": signOff,
    outline: toggleOutline,
    center,
    "export-json": exportJson,
    "export-csv": exportCsv,
    import: () => el("import-file").click(),
    "show-table": showTable,
    "show-help": () => toggle("help"),
    "reason-cancel": cancelReason,
  };
  for (const reason of Object.values(REASONS)) ACTIONS[`reason-${reason}`] = () => decide("reject", reason);
  const KEYS = {
    a: "accept", r: "reject", u: "uncertain", n: "next", " ": "next", p: "previous", z: "undo",
    m: "missed", f: "sign-off", o: "outline", home: "center", e: "export-json", t: "show-table",
    "?": "show-help",
  };

  function onKey(event) {
    tick();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.target === el("comment")) {
      if (key === "Escape") el("comment").blur();
      if (key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        commentDone();
      }
      return;
    }
    // The viewer has keys of its own, which are not ours.
    event.stopPropagation();
    const dialog = ["table", "help"].find((id) => el(id).open);
    if (dialog) {
      if (key === { table: "t", help: "?" }[dialog]) toggle(dialog);
      return;
    }
    if (event.target instanceof HTMLButtonElement && key === "Enter") return;
    const steps = (event.shiftKey ? coronally : axially)[key] || sideways[key];
    const name = KEYS[key.toLowerCase()];
    if (asking && !event.repeat && (REASONS[key] || key === "Escape")) {
      ACTIONS[key === "Escape" ? "reason-cancel" : `reason-${REASONS[key]}`]();
    } else if (steps) {
      if (ready) scroll(...steps);
    } else if (WINDOWS[Number(key) - 1]) {
      setWindow(Number(key));
    } else if (name) {
      // A key that is held down must not decide a second candidate.
      if (!event.repeat || name === "next" || name === "previous") ACTIONS[name]();
    } else {
      return;
    }
    event.preventDefault();
  }

  function listen() {
    for (const [id, act] of Object.entries(ACTIONS)) {
      el(id).addEventListener("click", () => {
        el(id).blur();
        act();
      });
    }
    WINDOWS.forEach(([name], i) => {
      const button = document.createElement("button");
      const key = document.createElement("kbd");
      button.type = "button";
      button.id = `window-${i + 1}`;
      button.append(name, key);
      key.textContent = i + 1;
      button.addEventListener("click", () => {
        button.blur();
        setWindow(i + 1);
      });
      el("windows").append(button);
    });
    el("import-file").addEventListener("change", async () => {
      const [file] = el("import-file").files;
      if (file) await takeIn(file);
      el("import-file").value = "";
    });
    el("comment").addEventListener("input", keepComment);
    window.addEventListener("keydown", onKey, true);
    window.addEventListener("keyup", (event) => {
      if (event.target === el("comment")) return;
      event.stopPropagation();
      if (event.key === " ") event.preventDefault();
    }, true);
    for (const name of ["pointerdown", "pointermove", "wheel"]) {
      window.addEventListener(name, tick, { capture: true, passive: true });
    }
    for (const name of ["focus", "blur"]) window.addEventListener(name, restartClock);
    document.addEventListener("visibilitychange", restartClock);
    window.addEventListener("resize", () => requestAnimationFrame(fitViews));
    // A double click would reset the window; a dropped file would replace the page.
    el("stage").addEventListener("dblclick", (event) => event.stopPropagation(), true);
    for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
    window.addEventListener("pointerup", (event) => {
      if (event.button === 2 && ct && (ct.cal_min !== low || ct.cal_max !== high)) {
        chosenWindow = 0;
        applyWindow(ct.cal_min, ct.cal_max);
      }
    });
    window.addEventListener("storage", (event) => {
      if (event.key !== KEY) return;
      restore();
      render();
    });
    window.addEventListener("beforeunload", (event) => {
      if (unexported()) event.preventDefault();
    });
  }

  function drawLetters() {
    const tiles = FULL ? TILES : [...TILES, [AXIAL, 0.5, 0, 0.5, 0.54, "zoom"]];
    for (const [plane, x, y, width, height, extra] of tiles) {
      const box = document.createElement("div");
      const [name, west, east, north, south] = LETTERS[plane];
      box.className = `${x ? "right" : ""} ${y ? "lower" : ""}`;
      Object.assign(box.style, {
        left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * width}%`, height: `${100 * height}%`,
      });
      for (const [kind, text] of Object.entries({ name: extra || name, west, east, north, south })) {
        const span = document.createElement("span");
        span.className = kind;
        span.textContent = text;
        box.append(span);
      }
      el("letters").append(box);
    }
  }

  async function start() {
    const kinds = { candidates: "candidates", full: "full read", adjudicate: "contested cases" };
    setText({
      batch: DATA.batch, kind: kinds[DATA.kind], reviewer: DATA.reviewer_id, role: DATA.role,
    });
    listen();
    drawLetters();
    setWindow(1);
    save();
    replay();
    let works = false;
    try {
      works = await startImages();
    } catch {
      planes = null;
    }
    el("no-webgl").hidden = works;
    if (items.length) openFirstUndone();
    else {
      ready = true;
      el("loading").hidden = true;
      render();
    }
  }

  const copy = (value) => JSON.parse(JSON.stringify(value));
  window.triage = Object.freeze({
    get ready() { return ready; },
    get index() { return index; },
    get count() { return items.length; },
    get item() {
      const item = current();
      return item && {
        case_id: item.organ.case_id,
        organ: item.organ.organ,
        candidate_id: item.candidate ? item.candidate.candidate_id : "",
      };
    },
    get crosshair_mm() { return crosshairMm(); },
    get window() { return { name: chosenWindow ? WINDOWS[chosenWindow - 1][0] : "own", low, high }; },
    get outline() { return outline; },
    get decisions() {
      const rows = [...stacks.values()].flatMap((stack) =>
        stack.at(-1)?.candidate_id ? [stack.at(-1)] : stack);
      return copy(rows);
    },
    get events() { return copy(sorted); },
    get unexported() { return unexported(); },
    get seconds() { return secondsNow(); },
    get storage() { return storage && !warnings.has("storage") ? "kept" : "not kept"; },
    get kind() { return DATA.kind; },
    get batch() { return DATA.batch; },
    get reviewer_id() { return DATA.reviewer_id; },
    get webgl() { return Boolean(planes); },
  });

  start();
})();
