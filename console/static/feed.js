// The feed moves by itself: rows from the live stream are put where they belong, the open ticket follows, keys and sound.
"use strict";

const list = document.getElementById("list");
const pane = document.getElementById("pane");
const single = document.querySelector(".desk.single") !== null;
const narrow = matchMedia("(max-width: 1023px)");
const MOST_ROWS = 300; // an open page must not grow for days
const MOST_MOVING = 8; // no eye follows more, and each is painted anew with every frame while it glows

const feedOf = () => document.getElementById("feed");
const rowsOf = () => (feedOf() ? [...feedOf().querySelectorAll(".row:not(.leaving)")] : []);
const rowOf = (id) => document.getElementById(`t-${id}`);
const selected = () => document.querySelector(".row.selected");
const paneTicket = () => pane && pane.querySelector("[data-ticket]");

// -- rows ------------------------------------------------------------------------------------------------------------

function place(fresh) {
  const feed = feedOf();
  if (!feed) return;
  const id = fresh.dataset.id;
  const before = rowOf(id);
  if ("gone" in fresh.dataset) {
    if (before) leave(before);
    return;
  }
  if (before) {
    if (Number(before.dataset.version) > Number(fresh.dataset.version)) return;
    const held = before.contains(document.activeElement);
    fresh.classList.toggle("selected", before.classList.contains("selected"));
    before.replaceWith(fresh);
    if (held) fresh.querySelector(".row-link").focus({ preventScroll: true });
  } else {
    // Ids sort by the time of the alarm, the newest on top.
    const below = rowsOf().find((row) => row.dataset.id < id);
    if (feed.querySelectorAll(".row.new").length < MOST_MOVING) fresh.classList.add("new");
    feed.insertBefore(fresh, below || feed.querySelector(".more"));
    arrived(fresh);
    const rows = rowsOf();
    for (const old of rows.slice(MOST_ROWS)) old.remove();
  }
  htmx.process(fresh);
}

document.addEventListener("animationend", (event) => {
  if (event.animationName === "glow") event.target.classList.remove("new");
});

function leave(row) {
  row.classList.add("leaving");
  const wasSelected = row.classList.contains("selected");
  const next = wasSelected ? row.nextElementSibling || row.previousElementSibling : null;
  setTimeout(() => row.remove(), 450);
  if (next && next.classList.contains("row")) select(next, false);
}

function arrived(row) {
  if (row.dataset.state !== "warned") return;
  const live = document.getElementById("announce");
  const title = row.querySelector(".row-title").textContent.trim();
  if (live) live.textContent = `${live.dataset.text}: ${title}, ${row.querySelector(".row-place").textContent}`;
  if (row.dataset.severity !== "minor") chime(row.dataset.severity);
}

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const message = event.detail;
  if (message.type !== "rows") return;
  event.preventDefault();
  takeRows(message.data);
});

function takeRows(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const open = paneTicket();
  let touched = false;
  for (const fresh of [...holder.content.children]) {
    touched = touched || (open && fresh.dataset.id === open.dataset.ticket);
    place(fresh);
  }
  if (touched) refreshPane();
}

// Elements that listen, because the extension binds event names to elements.
const listener = document.createElement("div");
listener.hidden = true;
listener.setAttribute("sse-swap", "rows,reload,answer");
document.body.append(listener);

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (event.detail.type === "reload") {
    event.preventDefault();
    reloadList();
    refreshPane();
  } else if (event.detail.type === "answer") {
    event.preventDefault();
    const { kind, text } = JSON.parse(event.detail.data);
    gw.toast(text, kind);
  }
});

function reloadList() {
  if (list) htmx.ajax("GET", location.pathname + location.search, { target: "#list", swap: "innerHTML" });
}

let opened = false;
document.addEventListener("htmx:sseOpen", () => {
  if (opened) { reloadList(); refreshPane(); } // what came while we were away
  opened = true;
});

// -- the open ticket -------------------------------------------------------------------------------------------------

const isWriting = () => pane && [...pane.querySelectorAll("textarea, input:not([type=hidden]), select")].some((one) =>
  one.type === "file" ? one.files.length > 0 : one.value !== one.defaultValue && one.value !== "");

function refreshPane() {
  const open = paneTicket();
  if (!open) return;
  if (isWriting()) {
    open.querySelector(".stale").hidden = false;
    return;
  }
  const video = pane.querySelector("video");
  if (video && !video.paused && !video.ended) { later = true; return; } // not under one's eyes
  loadPane(open.dataset.ticket);
}
let later = false;
document.addEventListener("pause", () => { if (later) { later = false; refreshPane(); } }, true);

function loadPane(id) {
  htmx.ajax("GET", `/tickets/${id}`, { target: "#pane", swap: "innerHTML" });
}

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target?.id === "list") mark(); // the stream's own swaps name no target
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-open-ticket]");
  if (link) select(link.closest(".row"), false);
  const toggle = event.target.closest("[data-panel]");
  if (toggle) togglePanel(toggle.dataset.panel);
  const medium = event.target.closest("[data-media]");
  if (medium) showMedium(medium);
  if (event.target.closest("[data-reload]")) loadPane(paneTicket().dataset.ticket);
});

// On a phone a ticket is a page of its own, with its own address and the browser's way back.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches("[data-open-ticket]") && narrow.matches) {
    event.preventDefault();
    location.assign(event.target.href);
  }
});

function togglePanel(name) {
  for (const button of pane.querySelectorAll("[data-panel]")) {
    const box = document.getElementById(`panel-${button.dataset.panel}`);
    const show = button.dataset.panel === name && box.hidden;
    box.hidden = !show;
    button.setAttribute("aria-expanded", String(show));
    if (show) box.querySelector("textarea, input:not([type=hidden]), select").focus();
  }
}

function showMedium(button) {
  const stage = document.getElementById("stage");
  const { media, url } = button.dataset;
  const shown = document.createElement(media === "clip" ? "video" : "img");
  shown.src = url;
  if (media === "clip") Object.assign(shown, { controls: true, muted: true, autoplay: true, playsInline: true });
  else shown.alt = button.textContent;
  stage.replaceChildren(shown);
  for (const one of button.parentElement.children) one.setAttribute("aria-pressed", String(one === button));
}

// A picture whose host is away gives way to the thumbnail that came with the ticket.
document.addEventListener("error", (event) => {
  const image = event.target;
  if (image.dataset && image.dataset.fallback) {
    image.src = image.dataset.fallback;
    delete image.dataset.fallback;
  }
}, true);

document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.target.closest && event.target.closest(".ticket form");
  if (form && event.detail.successful && event.detail.requestConfig.verb === "post") {
    form.reset();
    for (const box of pane.querySelectorAll(".act-panel")) box.hidden = true;
    refreshPane();
  }
});

// -- keys ------------------------------------------------------------------------------------------------------------

function select(row, focus = true) {
  for (const one of document.querySelectorAll(".row.selected")) one.classList.remove("selected");
  if (!row) return;
  row.classList.add("selected");
  if (focus) row.querySelector(".row-link").focus();
  row.scrollIntoView({ block: "nearest" });
}

function mark() {
  const open = paneTicket();
  if (open) select(rowOf(open.dataset.ticket), false);
}

function move(step) {
  const rows = rowsOf();
  if (rows.length === 0) return;
  const at = rows.indexOf(selected());
  select(rows[Math.max(0, Math.min(rows.length - 1, at + step))]);
}

function actOn(name) {
  const row = selected();
  const open = paneTicket();
  if (row && (!open || open.dataset.ticket !== row.dataset.id)) {
    const button = row.querySelector(`[data-act=${name}]`);
    if (button) button.click();
    else if (name === "dispose") openThen(row, () => actOn("dispose"));
    return;
  }
  const button = open && open.querySelector(`[data-act=${name}]`);
  if (button) button.click();
}

function openThen(row, then) {
  htmx.ajax("GET", `/tickets/${row.dataset.id}`, { target: "#pane", swap: "innerHTML" }).then(then);
}

document.addEventListener("keydown", (event) => {
  const writing = event.target.closest("input, textarea, select");
  if (event.key === "Escape" && writing) { writing.blur(); return; }
  if (writing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const does = {
    j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
    a: () => actOn("acknowledge"), g: () => actOn("go"), d: () => actOn("dispose"),
    m: () => setSound(!sounding),
    "/": () => document.querySelector("#filters [name=q]")?.focus(),
    "?": () => document.getElementById("keys")?.showModal(),
  }[event.key];
  const arrows = event.key.startsWith("Arrow") && !event.target.closest(".feed");
  if (!does || arrows) return;
  event.preventDefault();
  does();
});
document.getElementById("keys-button")?.addEventListener("click", () => document.getElementById("keys").showModal());

// -- filters ---------------------------------------------------------------------------------------------------------

const filters = document.getElementById("filters");
if (filters) {
  const go = () => {
    const asked = new URLSearchParams(new FormData(filters));
    for (const [name, value] of [...asked]) if (!value) asked.delete(name);
    location.assign(`/?${asked}`); // a page of its own: the address can be kept, and the stream follows the filters
  };
  document.getElementById("filter-toggle").addEventListener("click", () => filters.classList.toggle("open"));
  filters.addEventListener("change", go);
  filters.addEventListener("submit", (event) => { event.preventDefault(); go(); });
}

// -- sound -----------------------------------------------------------------------------------------------------------

const soundButton = document.getElementById("sound");
let sounding = (() => { try { return localStorage.getItem("gridwatch.sound") !== "off"; } catch { return true; } })();
let audio;

function setSound(on) {
  sounding = on;
  try { localStorage.setItem("gridwatch.sound", on ? "on" : "off"); } catch { /* private mode */ }
  soundButton?.setAttribute("aria-pressed", String(on));
  if (on) chime("major");
}
soundButton?.setAttribute("aria-pressed", String(sounding));
soundButton?.addEventListener("click", () => setSound(!sounding));

let lastChime = 0;
function chime(severity) {
  const now = performance.now();
  if (!sounding || !soundButton || now - lastChime < 1500) return; // a burst is one chime
  if (!navigator.userActivation?.hasBeenActive) return; // browsers keep silent until the page was touched
  lastChime = now;
  audio = audio || new AudioContext();
  const tones = severity === "critical" ? [880, 660, 880, 660] : [660, 880];
  tones.forEach((frequency, index) => {
    const start = audio.currentTime + index * 0.18;
    const tone = audio.createOscillator();
    const level = audio.createGain();
    tone.frequency.value = frequency;
    level.gain.setValueAtTime(0, start);
    level.gain.linearRampToValueAtTime(0.2, start + 0.02);
    level.gain.exponentialRampToValueAtTime(0.001, start + 0.16);
    tone.connect(level).connect(audio.destination);
    tone.start(start);
    tone.stop(start + 0.17);
  });
}

// -- what passes with time -------------------------------------------------------------------------------------------

function inWords(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600);
  const minutes = Math.floor(s / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}
const title = document.title;
setInterval(() => {
  const now = Date.now() / 1000;
  for (const age of document.querySelectorAll(".age[data-since]")) {
    const text = inWords(now - Number(age.dataset.since));
    if (age.textContent !== text) age.textContent = text;
  }
  const fresh = Number(document.querySelector("[data-warned]")?.dataset.warned || 0);
  document.title = fresh ? `(${fresh}) ${title}` : title;
}, 1000);
mark();
