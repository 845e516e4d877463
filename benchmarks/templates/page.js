"use strict";
(() => {
  const root = document.documentElement;
  const keep = (key, value) => { try { localStorage.setItem("gridwatch-" + key, value); } catch { /* a page from a file may not */ } };
  const kept = (key) => { try { return localStorage.getItem("gridwatch-" + key); } catch { return null; } };

  const speak = (language) => {
    root.lang = language;
    document.title = root.dataset[language === "en" ? "titleEn" : "titleZh"];
    for (const button of document.querySelectorAll("[data-speak]")) {
      button.setAttribute("aria-pressed", String(button.dataset.speak === language));
    }
  };
  for (const button of document.querySelectorAll("[data-speak]")) {
    button.addEventListener("click", () => { speak(button.dataset.speak); keep("language", button.dataset.speak); });
  }
  const asked = new URLSearchParams(location.search).get("lang");
  speak(asked === "en" || asked === "zh-CN" ? asked : kept("language") || root.lang);

  const theme = kept("theme");
  if (theme) { root.dataset.theme = theme; }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("theme", root.dataset.theme);
  });
  document.getElementById("print").addEventListener("click", () => print());
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) { one.open = true; } });

  for (const group of document.querySelectorAll("[data-filters]")) {
    const items = document.querySelectorAll(group.dataset.filters);
    for (const button of group.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        for (const other of group.querySelectorAll("button")) { other.setAttribute("aria-pressed", String(other === button)); }
        for (const item of items) { item.hidden = button.dataset.only !== "" && !item.dataset.is.split(" ").includes(button.dataset.only); }
      });
    }
  }
})();
