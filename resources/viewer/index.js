"use strict";
// The table of a release's tumors or cases; every row opens its case. Works from a file too.

(() => {
  const MOST_ROWS = 500;
  const SIZES = ["tiny", "small", "medium", "large"];
  const el = (id) => document.getElementById(id);
  const { CASES, RELEASE } = window;

  const tumors = CASES.flatMap((one) => one.tumors.map((tumor) => ({ ...tumor, one })));
  const tumorName = (t) => `${t.organ} ${t.number}${t.map === t.organ ? "" : ` (${t.map})`}`;
  const kindOf = (t) => (t.fragment ? "fragment" : t.kind);
  const mm = (value) => (value === null ? "–" : value.toFixed(1));
  const organsOf = (one) => one.files
    .filter((name) => name.startsWith("instances/"))
    .map((name) => name.slice("instances/".length));
  const address = (one, tumor) => {
    const parts = tumor ? [one.case_id, tumor.map, tumor.number] : [one.case_id];
    return `case.html#${parts.map(encodeURIComponent).join("/")}`;
  };

  // Name, title, text or number to sort by, text to show, class.
  const TUMOR_COLUMNS = [
    ["case", "Case", (t) => t.one.case_id, null, ""],
    ["tumor", "Tumor", (t) => `${t.organ} ${String(t.number).padStart(6)}`, tumorName, ""],
    ["side", "Side", (t) => t.side, null, "wide"],
    ["kind", "Kind", kindOf, null, "wide"],
    ["size", "Size", (t) => SIZES.indexOf(t.size_class), (t) => t.size_class, ""],
    ["radius", "Radius (mm)", (t) => t.radius_mm, (t) => mm(t.radius_mm), "n"],
    ["longest", "Longest axial (mm)", (t) => t.longest_axial_mm, (t) => mm(t.longest_axial_mm), "n wide"],
    ["early", "Early", (t) => Number(t.early), (t) => (t.early ? "early" : ""), "wide"],
    ["source", "Source", (t) => t.one.source, null, "wide"],
  ];
  const CASE_COLUMNS = [
    ["case", "Case", (c) => c.case_id, null, ""],
    ["source", "Source", (c) => c.source, null, ""],
    ["tumors", "Tumors", (c) => c.tumors.length, null, "n"],
    ["organs", "Tumor masks", (c) => organsOf(c).join(", "), null, "wide"],
    ["slices", "Slices", (c) => c.slices, null, "n wide"],
    ["image", "Image", (c) => (c.files.includes("ct") ? "CT" : "none"), null, "wide"],
  ];
  const isCases = () => el("rows-of").value === "cases";
  const columns = () => (isCases() ? CASE_COLUMNS : TUMOR_COLUMNS);
  let sortedBy = "case";
  let isDown = false;

  function wanted() {
    const text = el("text").value.trim().toLowerCase();
    const [organ, size, kind] = ["organ", "size", "kind"].map((id) => el(id).value);
    const hasText = (one) => `${one.case_id} ${one.source}`.toLowerCase().includes(text);
    if (isCases()) {
      return CASES.filter((one) => hasText(one) && (!organ || organsOf(one).includes(organ)));
    }
    return tumors.filter((t) => hasText(t.one) && (!organ || t.organ === organ)
      && (!size || t.size_class === size) && (!kind || kindOf(t) === kind));
  }

  function ordered(rows) {
    const key = columns().find(([name]) => name === sortedBy)[2];
    const sign = isDown ? -1 : 1;
    // Equal ones stay by case and number.
    return rows.map((row) => [key(row), row])
      .sort(([a], [b]) => (a < b ? -sign : a > b ? sign : 0))
      .map(([, row]) => row);
  }

  function cell(text, kind) {
    const td = document.createElement("td");
    td.className = kind;
    td.append(text);
    return td;
  }

  function rowOf(item) {
    const tr = document.createElement("tr");
    columns().forEach(([, , key, show, kind], i) => {
      const text = String((show || key)(item));
      if (i) return tr.append(cell(text, kind));
      const link = document.createElement("a");
      link.href = isCases() ? address(item) : address(item.one, item);
      link.textContent = text;
      return tr.append(cell(link, kind));
    });
    return tr;
  }

  function render() {
    const rows = ordered(wanted());
    const all = isCases() ? CASES.length : tumors.length;
    const what = isCases() ? "cases" : "tumors, cysts and lesions";
    const cut = rows.length > MOST_ROWS ? `; the first ${MOST_ROWS} are listed, narrow the choice` : "";
    el("count").textContent = `${rows.length} of ${all} ${what}${cut}`;
    el("rows").replaceChildren(...rows.slice(0, MOST_ROWS).map(rowOf));
    const head = document.createElement("tr");
    for (const [name, title, , , kind] of columns()) {
      const th = document.createElement("th");
      const button = document.createElement("button");
      th.className = kind;
      th.ariaSort = name !== sortedBy ? "none" : isDown ? "descending" : "ascending";
      button.type = "button";
      button.id = `by-${name}`;
      button.textContent = title;
      button.addEventListener("click", () => {
        isDown = name === sortedBy && !isDown;
        sortedBy = name;
        render();
        el(button.id).focus();
      });
      th.append(button);
      head.append(th);
    }
    el("columns").replaceChildren(head);
    for (const label of document.querySelectorAll(".of-tumors")) label.hidden = isCases();
  }

  function addOptions(id, values) {
    for (const value of values) el(id).append(new Option(value, value));
  }

  function start() {
    const { definitions, target, version } = RELEASE;
    const [tiny, small, medium] = definitions.size_edges_mm;
    el("version").textContent = version;
    const images = CASES.filter((one) => one.files.includes("ct")).length;
    el("summary").textContent = `${CASES.length} cases, ${images} with their image; target ${target}`;
    el("definitions").textContent = `Size by the radius of the sphere of equal volume: tiny ≤ ${tiny} mm < small ≤ ${small} mm < medium ≤ ${medium} mm < large. `
      + `Early: diameter of that sphere < ${definitions.early_diameter_mm} mm. Fragment: smaller than ${definitions.minimum_volume_mm3} mm³, in no count.`;
    addOptions("organ", [...new Set(CASES.flatMap((one) => [...organsOf(one), ...one.tumors.map((t) => t.organ)]))]
      .filter((name) => name !== "pooled").sort());
    addOptions("size", SIZES);
    addOptions("kind", [...new Set(tumors.map(kindOf))].sort());
    el("how").hidden = location.protocol !== "file:";
    el("filter").addEventListener("input", (event) => {
      if (event.target.id === "rows-of") sortedBy = "case";
      render();
    });
    el("filter").addEventListener("submit", (event) => event.preventDefault());
    render();
  }

  start();
})();
