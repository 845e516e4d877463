// The zone editor. Points are fractions of the picture (0..1); the SVG's user units are the picture's pixels.
"use strict";

(() => {
  const holder = document.getElementById("zones-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const words = data.words;
  const $ = (id) => document.getElementById(id);
  const svg = $("z-svg"), image = $("z-image"), stage = $("z-stage");
  const NS = "http://www.w3.org/2000/svg";
  const COLOURS = ["#3fd0bd", "#ffb547", "#6fb6ff", "#d48cff", "#9be564", "#ff8f70"];
  const MASK = "#c9d3dd";
  const SNAP = 0.012; // of the picture's width: a finger's error, less than a kerb
  const STEP = 0.002;
  const FINGER = 12; // CSS pixels that a fingertip is off; a mouse is not
  const EPS = 1e-9;

  let size = { w: 1600, h: 900 };
  let sha256 = data.sha256;
  let regions = data.regions.map(own);
  let saved = snapshot();
  let chosen = regions.length ? 0 : -1;
  let point = -1;
  let drawing = null; // {field, points, cursor}
  let undone = [], done = [];
  let dirty = false, valid = true, busy = false;
  let asked = 0, timer = 0;

  function own(r) { return { ...r, points: r.points.map((p) => [...p]) }; }
  function snapshot() { return JSON.stringify(regions); }
  function say(key, values = {}) { return (words[key] || key).replace(/\{(\w+)\}/g, (_, name) => values[name]); }
  function fieldOf(r) { return data.fields.find((f) => f.scenario === r.scenario && f.field === r.field); }
  function round(v) { return Math.round(Math.min(1, Math.max(0, v)) * 1e4) / 1e4; }
  function colour(index) { return regions[index].scenario === "privacy" ? MASK : COLOURS[index % COLOURS.length]; }
  function titleOf(index) {
    const r = regions[index], f = fieldOf(r);
    if (f.shape === "named") return r.name || f.title;
    if (f.shape === "one") return f.title;
    return `${f.title} ${regions.slice(0, index + 1).filter((o) => fieldOf(o) === f).length}`;
  }

  // History

  function commit(before) {
    if (before === snapshot()) return;
    done.push(before);
    if (done.length > 200) done.shift();
    undone = [];
    changed();
  }
  function travel(from, to) {
    if (!from.length || drawing) return;
    to.push(snapshot());
    regions = JSON.parse(from.pop());
    chosen = Math.min(chosen, regions.length - 1);
    point = -1;
    changed();
  }

  // Validity: what pipeline.units.Polygon asks for

  function cross(o, a, b) { return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]); }
  function onSegment(a, b, p) {
    return Math.abs(cross(a, b, p)) < EPS && Math.min(a[0], b[0]) - EPS <= p[0] && p[0] <= Math.max(a[0], b[0]) + EPS
      && Math.min(a[1], b[1]) - EPS <= p[1] && p[1] <= Math.max(a[1], b[1]) + EPS;
  }
  function meet(a, b, c, d) {
    const d1 = cross(c, d, a), d2 = cross(c, d, b), d3 = cross(a, b, c), d4 = cross(a, b, d);
    if (((d1 > EPS && d2 < -EPS) || (d1 < -EPS && d2 > EPS)) && ((d3 > EPS && d4 < -EPS) || (d3 < -EPS && d4 > EPS))) return true;
    return onSegment(c, d, a) || onSegment(c, d, b) || onSegment(a, b, c) || onSegment(a, b, d);
  }
  function problemOf(points) {
    const n = points.length;
    if (n < 3) return "few";
    let area = 0;
    for (let i = 0; i < n; i++) {
      const a = points[i], b = points[(i + 1) % n];
      area += a[0] * b[1] - b[0] * a[1];
      for (let j = i + 1; j < n; j++) {
        const c = points[j], d = points[(j + 1) % n];
        if (j === i + 1 || (i === 0 && j === n - 1)) {
          // Neighbours share a point; they must not fold back over each other.
          const [p, q, r] = j === i + 1 ? [a, b, d] : [b, a, c];
          if (n > 3 && Math.abs(cross(q, p, r)) < EPS && (p[0] - q[0]) * (r[0] - q[0]) + (p[1] - q[1]) * (r[1] - q[1]) > 0) return "crossing";
          continue;
        }
        if (meet(a, b, c, d)) return "crossing";
      }
    }
    return Math.abs(area) < 1e-6 ? "flat" : null;
  }
  function check() {
    const faults = [];
    regions.forEach((r, i) => {
      const fault = problemOf(r.points);
      if (fault) faults.push(say(fault, { name: titleOf(i) }));
      if (fieldOf(r).shape !== "named") return;
      if (!r.name.trim()) faults.push(say("no_name"));
      else if (regions.some((o, j) => j < i && fieldOf(o) === fieldOf(r) && o.name === r.name)) faults.push(say("same_name", { name: r.name }));
    });
    valid = faults.length === 0;
    const line = $("z-valid");
    line.textContent = drawing ? say("drawing", { n: drawing.points.length }) : faults[0] || say("valid");
    line.classList.toggle("bad", !drawing && !valid);
  }

  // What would change

  function changed() {
    dirty = snapshot() !== saved;
    render();
    check();
    clearTimeout(timer);
    $("z-apply").disabled = true;
    $("z-problems").hidden = true;
    if (!dirty) { $("z-diff").textContent = say("unchanged"); return; }
    $("z-state").textContent = "";
    if (!valid) return;
    timer = setTimeout(askDiff, 250);
  }
  function body() { return JSON.stringify({ sha256, regions }); }
  function post(action) {
    return gw.fetch(`/zones/${encodeURIComponent(data.camera)}/${action}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: body() });
  }
  async function askDiff() {
    const number = ++asked;
    $("z-diff").textContent = say("checking");
    const answer = await post("diff");
    if (number !== asked) return;
    if (!answer.ok) { problems([(await answer.text()).trim()]); return; }
    const found = await answer.json();
    showDiff(found.diff || say("unchanged"));
    if (found.problems.length) problems(found.problems);
    else $("z-apply").disabled = !found.diff || busy;
  }
  function showDiff(text) {
    const box = $("z-diff");
    box.replaceChildren(...text.trimEnd().split("\n").map((line) => {
      const span = document.createElement("span");
      span.className = line.startsWith("+") ? "plus" : line.startsWith("-") ? "minus" : line.startsWith("@") ? "place" : "";
      if (line.startsWith("+++") || line.startsWith("---")) span.className = "place";
      span.textContent = line || " ";
      return span;
    }));
  }
  function problems(lines) {
    const list = $("z-problems");
    list.hidden = false;
    list.replaceChildren(...lines.map((line) => { const item = document.createElement("li"); item.textContent = line; return item; }));
  }
  async function apply() {
    if (busy) return;
    busy = true;
    $("z-apply").disabled = true;
    const state = $("z-state");
    state.className = "zones-state";
    try {
      const sent = snapshot();
      const answer = await post("apply");
      if (!answer.ok) { problems([(await answer.text()).trim()]); return; }
      const found = await answer.json();
      if (found.problems.length) { problems(found.problems); return; }
      sha256 = found.sha256;
      saved = sent;
      dirty = snapshot() !== saved;
      state.textContent = say("written");
      await follow(found.sha256, state);
    } finally { busy = false; }
  }
  async function follow(wanted, state) {
    for (let second = 0; second < 60; second++) {
      const answer = await gw.fetch(`/zones/active?sha256=${wanted}`);
      const found = answer.ok ? await answer.json() : {};
      if (found.active) { state.textContent = say("active"); state.classList.add("ok"); takePicture("camera"); return; }
      if (found.problem) { state.textContent = say("refused", found); state.classList.add("bad"); return; }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    state.textContent = say("waiting");
  }

  // The picture

  async function takePicture(source) {
    const line = $("z-source");
    if (source === "camera") line.textContent = say("opening");
    const answer = await gw.fetch(`/zones/${encodeURIComponent(data.camera)}/picture?source=${source}`);
    if (!answer.ok) {
      if (source === "camera") { line.title = (await answer.text()).trim(); if (!image.src) line.textContent = say("none"); else line.textContent = line.dataset.before || ""; }
      return false;
    }
    const time = new Date(1000 * Number(answer.headers.get("X-Picture-Time"))).toLocaleString(document.documentElement.lang, { hour12: false });
    const url = URL.createObjectURL(await answer.blob());
    await new Promise((resolve) => { image.onload = resolve; image.onerror = resolve; image.src = url; });
    size = { w: image.naturalWidth || 1600, h: image.naturalHeight || 900 };
    stage.style.aspectRatio = `${size.w} / ${size.h}`;
    svg.setAttribute("viewBox", `0 0 ${size.w} ${size.h}`);
    line.textContent = line.dataset.before = say(source === "camera" ? "live" : "ticket", { time });
    render();
    return true;
  }

  // Drawing

  function unit() { return size.w / Math.max(1, svg.clientWidth); } // user units per CSS pixel
  function make(name, attributes, parent = svg) {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  }
  function path(points, close = true) { return points.map(([x, y], i) => `${i ? "L" : "M"}${x * size.w} ${y * size.h}`).join("") + (close ? "Z" : ""); }

  function render() {
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.point : undefined;
    svg.replaceChildren();
    svg.classList.toggle("drawing", drawing !== null);
    const u = unit();
    regions.forEach((r, i) => {
      make("path", { class: "z-halo", d: path(r.points) });
      make("path", { class: `z-shape${i === chosen ? " chosen" : ""}${problemOf(r.points) ? " bad" : ""}`, d: path(r.points), fill: colour(i), stroke: colour(i), "data-shape": i });
      const top = r.points.reduce((a, b) => (b[1] < a[1] ? b : a), r.points[0]);
      const label = make("text", { class: "z-label", x: Math.min(top[0], 0.85) * size.w, y: Math.max(16 * u, top[1] * size.h - 10 * u), "font-size": 13 * u, "stroke-width": 3 * u });
      label.style.fontSize = `${13 * u}px`;
      label.textContent = titleOf(i);
    });
    if (chosen >= 0 && !drawing) handles(u);
    if (drawing) draft(u);
    list();
    $("z-undo").disabled = !done.length || drawing !== null;
    $("z-redo").disabled = !undone.length || drawing !== null;
    $("z-delete").disabled = drawing === null && point < 0;
    // A point that is gone must not take the keyboard's focus with it.
    if (focused !== undefined) (svg.querySelector(`[data-point="${focused}"]`) || svg).focus({ preventScroll: true });
  }
  function handles(u) {
    const r = regions[chosen], n = r.points.length;
    r.points.forEach((p, i) => {
      const q = r.points[(i + 1) % n];
      if (Math.hypot((p[0] - q[0]) * size.w, (p[1] - q[1]) * size.h) > 44 * u) {
        const at = { cx: (p[0] + q[0]) / 2 * size.w, cy: (p[1] + q[1]) / 2 * size.h };
        make("circle", { ...at, class: "z-hit", r: 12 * u, "data-middle": i });
        make("circle", { ...at, class: "z-middle", r: 5 * u, "data-middle": i });
      }
    });
    r.points.forEach((p, i) => {
      const at = { cx: p[0] * size.w, cy: p[1] * size.h };
      make("circle", { ...at, class: "z-hit", r: 18 * u, "data-hit": i });
      make("circle", { ...at, class: `z-point${i === point ? " on" : ""}`, r: 6.5 * u, tabindex: 0, role: "button", "data-point": i, "aria-label": say("point", { name: titleOf(chosen), n: i + 1, count: n }) });
    });
  }
  function draft(u) {
    const points = drawing.points;
    if (points.length) make("path", { class: "z-draft", d: path(drawing.cursor ? [...points, drawing.cursor] : points, false) });
    points.forEach((p, i) => make("circle", { class: `z-point${i === 0 ? " on" : ""}`, cx: p[0] * size.w, cy: p[1] * size.h, r: (i ? 5 : 8) * u }));
    if (drawing.cursor) {
      const [x, y] = [drawing.cursor[0] * size.w, drawing.cursor[1] * size.h], l = 14 * u;
      make("path", { class: "z-cross", d: `M${x - l} ${y}H${x + l}M${x} ${y - l}V${y + l}` });
    }
  }
  function list() {
    const box = $("z-fields");
    if (box.contains(document.activeElement) && document.activeElement.tagName === "INPUT") { refreshList(box); return; }
    const held = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    box.replaceChildren();
    let group = null;
    for (const f of data.fields) {
      if (f.group !== group) { group = f.group; add(box, "h3", "z-group", group); }
      regions.forEach((r, i) => { if (fieldOf(r) === f) box.append(row(r, i, f)); });
      const present = regions.filter((r) => fieldOf(r) === f).length;
      if (f.shape === "one" && present) continue;
      const button = add(box, "button", "button small quiet z-add", `+ ${say("add", f)}`);
      button.type = "button";
      button.title = f.hint;
      button.dataset.add = `${f.scenario}.${f.field}`;
      button.dataset.key = button.dataset.add;
      button.addEventListener("click", () => begin(f));
    }
    // Whoever works with keys goes on where they were.
    if (held !== undefined) (box.querySelector(`[data-key="${held}"]`) || svg).focus({ preventScroll: true });
  }
  function refreshList(box) {
    for (const item of box.querySelectorAll(".z-item")) item.classList.toggle("chosen", Number(item.dataset.index) === chosen);
  }
  function add(parent, name, className, text) {
    const element = document.createElement(name);
    element.className = className;
    element.textContent = text;
    parent.append(element);
    return element;
  }
  function row(r, i, f) {
    const item = document.createElement("div");
    item.className = `z-item${i === chosen ? " chosen" : ""}`;
    item.dataset.index = i;
    const dot = add(item, "i", "dot", "");
    dot.style.background = colour(i);
    if (f.shape === "named") {
      const input = document.createElement("input");
      input.value = r.name;
      input.maxLength = 64;
      input.setAttribute("aria-label", say("name"));
      const before = snapshot();
      input.addEventListener("focus", () => { choose(i); });
      input.addEventListener("input", () => { regions[i].name = input.value; changed(); });
      input.addEventListener("change", () => { done.push(before); undone = []; });
      item.append(input);
    } else {
      const pick = add(item, "button", "pick", titleOf(i));
      pick.type = "button";
      pick.dataset.key = `pick-${i}`;
      pick.addEventListener("click", () => choose(i));
    }
    add(item, "span", "count", String(r.points.length));
    const remove = add(item, "button", "icon-button", "×");
    remove.type = "button";
    remove.dataset.key = `remove-${i}`;
    remove.setAttribute("aria-label", `${titleOf(i)} ×`);
    remove.addEventListener("click", () => removeRegion(i));
    return item;
  }

  function choose(i) { chosen = i; point = -1; render(); }
  function removeRegion(i) {
    const before = snapshot();
    regions.splice(i, 1);
    chosen = Math.min(chosen, regions.length - 1);
    point = -1;
    commit(before);
  }
  function begin(f) {
    drawing = { field: f, points: [], cursor: [0.5, 0.5] };
    chosen = point = -1;
    svg.focus({ preventScroll: true });
    render();
    check();
  }
  function finish() {
    const { field, points } = drawing;
    if (points.length < 3) { check(); return; } // not thrown away: Esc does that
    drawing = null;
    const before = snapshot();
    let name = "";
    if (field.shape === "named") {
      for (let n = 1; !name; n++) if (!regions.some((r) => fieldOf(r) === field && r.name === `zone-${n}`)) name = `zone-${n}`;
    }
    regions.push({ scenario: field.scenario, field: field.field, name, points });
    chosen = regions.length - 1;
    commit(before);
    render();
    check();
  }
  function giveUp() { drawing = null; render(); check(); }
  function put(p, error = 0) {
    const points = drawing.points, u = unit();
    drawing.cursor = p; // where the keys and the next side go on from
    const away = (q) => Math.hypot((p[0] - q[0]) * size.w, (p[1] - q[1]) * size.h) / u;
    if (points.length >= 3 && away(points[0]) < 14 + error) { finish(); return; }
    if (!points.length || away(points[points.length - 1]) >= 3 + error) points.push([round(p[0]), round(p[1])]);
    render();
    check();
  }
  // The point in hand; of a drawing the last one, and with none left the drawing itself.
  function removePoint() {
    if (drawing) {
      if (!drawing.points.length) { giveUp(); return; }
      drawing.points.pop();
      render();
      check();
      return;
    }
    const before = snapshot();
    regions[chosen].points.splice(point, 1);
    point = -1;
    if (!regions[chosen].points.length) regions.splice(chosen, 1);
    chosen = Math.min(chosen, regions.length - 1);
    commit(before);
  }

  // To the picture's edges first, then to corners of the other polygons
  function snap(p, except = -1) {
    let [x, y] = p;
    const sy = SNAP * size.w / size.h;
    for (const edge of [0, 1]) {
      if (Math.abs(x - edge) < SNAP) x = edge;
      if (Math.abs(y - edge) < sy) y = edge;
    }
    regions.forEach((r, i) => {
      if (i === except) return;
      for (const q of r.points) if (Math.abs(q[0] - p[0]) < SNAP / 1.5 && Math.abs(q[1] - p[1]) < sy / 1.5) [x, y] = q;
    });
    return [round(x), round(y)];
  }
  function where(event) {
    const box = svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  // Pointer: mouse, pen and touch

  let drag = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const at = where(event), target = event.target.dataset;
    if (drawing) { put(event.altKey ? at : snap(at), event.pointerType === "touch" ? FINGER : 0); event.preventDefault(); return; }
    const before = snapshot();
    if (target.point !== undefined || target.hit !== undefined) {
      point = Number(target.point ?? target.hit);
      drag = { kind: "point", before };
    } else if (target.middle !== undefined) {
      point = Number(target.middle) + 1;
      regions[chosen].points.splice(point, 0, [round(at[0]), round(at[1])]);
      drag = { kind: "point", before };
    } else if (target.shape !== undefined) {
      const i = Number(target.shape);
      point = -1;
      drag = i === chosen ? { kind: "shape", before, from: at, points: regions[i].points.map((p) => [...p]) } : null;
      chosen = i;
    } else { chosen = point = -1; }
    if (drag) svg.setPointerCapture(event.pointerId);
    svg.focus({ preventScroll: true });
    render();
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => {
    const at = where(event);
    if (drawing) { drawing.cursor = event.altKey ? at : snap(at); render(); return; }
    if (!drag) return;
    if (drag.kind === "point") regions[chosen].points[point] = event.altKey ? at.map(round) : snap(at, chosen);
    else shift(drag.points, at[0] - drag.from[0], at[1] - drag.from[1]);
    render();
    check();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    svg.addEventListener(name, () => {
      if (!drag) return;
      const { before } = drag;
      drag = null;
      commit(before);
      render();
    });
  }
  svg.addEventListener("dblclick", () => { if (drawing) finish(); });
  function shift(points, dx, dy) {
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const mx = Math.min(1 - Math.max(...xs), Math.max(-Math.min(...xs), dx)), my = Math.min(1 - Math.max(...ys), Math.max(-Math.min(...ys), dy));
    regions[chosen].points = points.map(([x, y]) => [round(x + mx), round(y + my)]);
  }

  // Keys

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("focusin", (event) => {
    if (event.target.dataset && event.target.dataset.point !== undefined && !drag) {
      point = Number(event.target.dataset.point);
      for (const one of svg.querySelectorAll(".z-point")) one.classList.toggle("on", Number(one.dataset.point) === point);
    }
  });
  svg.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], step = STEP * (event.shiftKey ? 10 : 1);
    if (drawing) {
      if (arrow) { const c = drawing.cursor; drawing.cursor = [round(c[0] + arrow[0] * step * 2), round(c[1] + arrow[1] * step * 2)]; render(); }
      else if (event.key === " ") put(snap(drawing.cursor));
      else if (event.key === "Enter") finish();
      else if (event.key === "Escape") giveUp();
      else if (event.key === "Backspace") removePoint();
      else return;
      event.preventDefault();
      return;
    }
    if (event.key === "n" || event.key === "N") { const f = data.fields.find((one) => one.shape !== "one" || !regions.some((r) => fieldOf(r) === one)); if (f) begin(f); event.preventDefault(); return; }
    if (chosen < 0) return;
    if (arrow) {
      const before = snapshot(), r = regions[chosen];
      if (point >= 0) r.points[point] = [round(r.points[point][0] + arrow[0] * step), round(r.points[point][1] + arrow[1] * step)];
      else shift(r.points, arrow[0] * step, arrow[1] * step);
      commit(before);
      event.preventDefault();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      if (point >= 0) removePoint(); else removeRegion(chosen);
      event.preventDefault();
    } else if (event.key === "Escape") { choose(-1); }
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.tagName === "INPUT") return;
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) travel(done, undone);
    else if (key === "y" || (key === "z" && event.shiftKey)) travel(undone, done);
    else return;
    event.preventDefault();
  });

  $("z-undo").addEventListener("click", () => travel(done, undone));
  $("z-redo").addEventListener("click", () => travel(undone, done));
  $("z-delete").addEventListener("click", () => { removePoint(); svg.focus({ preventScroll: true }); });
  $("z-refresh").addEventListener("click", () => takePicture("camera"));
  $("z-apply").addEventListener("click", apply);
  $("z-reset").addEventListener("click", () => { const before = snapshot(); drawing = null; regions = JSON.parse(saved); chosen = regions.length ? 0 : -1; commit(before); changed(); });
  $("zones-camera").addEventListener("change", (event) => event.target.form.submit());
  addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });
  new ResizeObserver(() => render()).observe(svg);

  changed();
  takePicture("ticket").then(() => takePicture("camera"));
})();
