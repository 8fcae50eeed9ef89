"use strict";
// The lineage of all cases, unpacked when it is first asked for; nothing is fetched.
const MOST = 24;
const byId = (id) => document.getElementById(id);
let unpacked;

async function rows() {
  if (!unpacked) {
    const bytes = Uint8Array.from(atob(PACKED.split(",")[1]), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const { columns, rows: cells } = await new Response(stream).json();
    unpacked = cells.map((row) => Object.fromEntries(row.map((cell, n) => [columns[n], cell])));
    for (const row of unpacked) row.text = Object.values(row).join(" ").toLowerCase();
  }
  return unpacked;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function item(list, parts) {
  const made = list.appendChild(element("li"));
  for (const [text, isCode] of parts) if (text) made.append(isCode ? element("code", text) : text);
}

function sourceOf(row) {
  return row.source_file || (row.source ? "file withheld: the source is internal" : "");
}

function showScans(place, scans) {
  place.append(element("h3", "Image"));
  const list = place.appendChild(element("ul"));
  for (const row of scans) {
    item(list, [[`${row.state}: `], [row.id, true], [`, source ${row.source}, `],
      [sourceOf(row), true], [", sha256 "], [row.file_sha256, true]]);
    if (row.released_file)
      item(list, [["released as "], [row.released_file, true], [", sha256 "], [row.released_sha256, true]]);
  }
}

function showMask(place, mask, tumors) {
  place.append(element("h3", `${mask.organ}: ${(mask.state || "not settled").replace("_", " ")}`));
  const list = place.appendChild(element("ul"));
  if (mask.source)
    item(list, [[`labelled by source ${mask.source} on `], [sourceOf(mask), true],
      [", sha256 "], [mask.file_sha256, true]]);
  if (mask.model_id)
    item(list, [["model "], [mask.model_id, true],
      [` at threshold ${mask.threshold} proposed ${mask.candidates} candidates`]]);
  if (mask.decisions) item(list, [[`decided: ${mask.decisions} (${mask.people})`]]);
  for (const row of tumors) {
    const parts = [[`${row.state} ${row.number}, `], [row.id, true], [`: origin ${row.origin}`]];
    if (row.candidates) parts.push([", candidate "], [row.candidates, true]);
    if (row.decisions) parts.push([`; ${row.decisions}`]);
    item(list, parts);
  }
  if (mask.released_file)
    item(list, [["released as "], [mask.released_file, true], [", sha256 "], [mask.released_sha256, true]]);
}

async function show(caseId) {
  const own = (await rows()).filter((row) => row.case_id === caseId);
  const place = byId("found");
  place.replaceChildren(element("h3", caseId));
  showScans(place, own.filter((row) => row.what === "scan"));
  const unasked = [];
  for (const mask of own.filter((row) => row.what === "mask")) {
    const tumors = own.filter((row) => row.what === "tumor" && row.organ === mask.organ);
    if (mask.released_file || mask.model_id || mask.decisions || tumors.length) showMask(place, mask, tumors);
    else unasked.push(mask.organ);
  }
  if (unasked.length)
    place.append(element("p", `Nothing is known of tumors of: ${unasked.join(", ")}.`, "soft"));
}

async function search() {
  const words = byId("query").value.trim().toLowerCase();
  const hits = byId("hits");
  hits.replaceChildren();
  if (words.length < 2) return;
  const cases = [...new Set((await rows()).filter((row) => row.text.includes(words)).map((row) => row.case_id))];
  if (!cases.length) hits.append(element("span", "no released case", "soft"));
  if (cases.length === 1) return show(cases[0]);
  for (const caseId of cases.slice(0, MOST)) {
    const button = hits.appendChild(element("button", caseId));
    button.type = "button";
    button.addEventListener("click", () => show(caseId));
  }
  if (cases.length > MOST) hits.append(element("span", `and ${cases.length - MOST} more`, "soft"));
  const exact = cases.find((caseId) => caseId.toLowerCase() === words);
  if (exact) show(exact);
}

function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}

byId("query").addEventListener("input", search);
addEventListener("hashchange", openTarget);
openTarget();
const wanted = new URLSearchParams(location.search).get("case");
if (wanted) {
  byId("query").value = wanted;
  search();
}
