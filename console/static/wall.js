// The camera wall: takes over only the cards that changed, so that pictures do not flicker and focus stays.
"use strict";

(() => {
  const LEAST_REM = 15; // a narrower card cannot be read from a chair
  const wall = document.getElementById("wall");
  if (!wall) return;

  function take(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const totals = fresh.getElementById("wall-totals");
    if (totals) document.getElementById("wall-totals").replaceWith(totals);
    const list = document.getElementById("wall-cards"), news = [...fresh.querySelectorAll(".wall-card")];
    const known = new Map([...list.children].map((card) => [card.id, card]));
    news.forEach((card, place) => {
      const old = known.get(card.id);
      known.delete(card.id);
      const keep = old && old.dataset.hash === card.dataset.hash ? old : card;
      if (old && keep !== old) old.replaceWith(keep);
      if (list.children[place] !== keep) list.insertBefore(keep, list.children[place] || null);
    });
    for (const gone of known.values()) gone.remove();
    ages();
    fit();
  }
  wall.addEventListener("htmx:beforeSwap", (event) => { if (event.detail.target === wall) take(event.detail.xhr.responseText); });

  const lang = document.documentElement.lang;
  const relative = new Intl.RelativeTimeFormat(lang, { numeric: "always", style: "short" });
  function ages() {
    const now = Date.now() / 1000;
    for (const time of wall.querySelectorAll("time[data-t]")) {
      const age = Math.max(0, now - Number(time.dataset.t));
      const [value, unit] = age < 90 ? [age, "second"] : age < 5400 ? [age / 60, "minute"] : age < 129600 ? [age / 3600, "hour"] : [age / 86400, "day"];
      time.textContent = relative.format(-Math.round(value), unit);
    }
  }
  ages();
  setInterval(ages, 5000);

  // On a wall nobody scrolls: as few columns, hence as large cards, as let all of them be seen at once.
  function fit() {
    const list = document.getElementById("wall-cards"), count = list.children.length;
    if (!document.body.classList.contains("wall") || !count) return;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const most = Math.max(1, Math.floor(list.clientWidth / (LEAST_REM * rem)));
    for (let columns = 1; columns <= most; columns++) {
      list.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
      if (document.documentElement.scrollHeight <= innerHeight) return;
    }
  }
  fit();
  addEventListener("resize", fit);

  wall.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-look]");
    if (!button || button.disabled) return;
    button.disabled = true;
    const answer = await gw.fetch(`/wall/${encodeURIComponent(button.dataset.look)}/look`, { method: "POST" });
    button.disabled = false;
    if (!answer.ok) gw.toast((await answer.text()).trim(), "critical");
    else take(await (await gw.fetch(wall.dataset.part)).text());
  });
  for (const select of document.querySelectorAll("#wall-form select")) select.addEventListener("change", () => select.form.submit());
})();
