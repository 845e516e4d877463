// What every page does: the CSRF header, the theme, the state of the live connection, toasts.
"use strict";

const gw = {
  csrf: () => document.querySelector("meta[name=csrf]").content,

  fetch(url, options = {}) {
    const headers = new Headers(options.headers || {});
    headers.set("X-CSRF-Token", gw.csrf());
    return fetch(url, { ...options, headers, credentials: "same-origin" });
  },

  toast(text, kind = "") {
    const box = document.createElement("div");
    box.className = `toast ${kind}`;
    box.textContent = text;
    document.getElementById("toasts").append(box);
    setTimeout(() => box.remove(), 6000);
  },
};
window.gw = gw;

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRF-Token"] = gw.csrf();
});

document.addEventListener("htmx:responseError", (event) => {
  const text = event.detail.xhr.responseText;
  gw.toast(text && text.length < 300 ? text.trim() : `${event.detail.xhr.status}`, "critical");
});

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
  try { localStorage.setItem("gridwatch.theme", root.dataset.theme); } catch { /* private mode */ }
  document.dispatchEvent(new CustomEvent("gw:theme"));
});

const linkState = document.getElementById("link-state");
function showLink(up) {
  if (!linkState) return;
  linkState.classList.toggle("up", up);
  linkState.classList.toggle("down", !up);
  linkState.querySelector("span").textContent = up ? linkState.dataset.live : linkState.dataset.lost;
}
document.addEventListener("htmx:sseOpen", () => showLink(true));
document.addEventListener("htmx:sseError", () => showLink(false));
document.addEventListener("htmx:sseClose", () => showLink(false));

// A menu closes when one clicks elsewhere or presses Escape.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.who[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
