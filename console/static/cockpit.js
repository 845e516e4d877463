// Draws the cockpit's charts from the data block beside them. The same figures stand on the page as tables.
"use strict";

(() => {
  const COLOURS = { ebike_in_elevator: "--minor", illegal_parking: "--major", fire: "--critical", river_discoloration: "--accent", camera_health: "--faint", critical: "--critical", major: "--major", minor: "--minor" };
  const SPARE = ["--info", "--ok", "--focus", "--muted"];
  let charts = [];
  let tab = "weekday";

  function token(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function colour(id, place) { return token(COLOURS[id] || SPARE[place % SPARE.length]); }

  function draw() {
    for (const chart of charts) chart.destroy();
    charts = [];
    const holder = document.getElementById("cockpit-data");
    if (!holder || typeof Chart === "undefined") return;
    const data = JSON.parse(holder.textContent);
    const wall = document.body.classList.contains("wall");
    Chart.defaults.color = token("--muted");
    Chart.defaults.borderColor = token("--line");
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    Chart.defaults.font.size = rem * (wall ? 0.9 : 0.75);
    Chart.defaults.animation = false;
    Chart.defaults.maintainAspectRatio = false;
    const legend = { position: "bottom", labels: { boxWidth: 12, boxHeight: 12, padding: 14 } };
    const whole = { beginAtZero: true, ticks: { precision: 0 } };

    stacked("c-bins", data.bins, { x: { stacked: true, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } }, y: { stacked: true, ...whole } }, "x", legend);
    stacked("c-ages", data.ages, { y: { stacked: true, grid: { display: false }, ticks: { autoSkip: false } }, x: { stacked: true, ...whole } }, "y", legend);

    const w = data.weekly, accent = token("--accent");
    const shown = [...w.lower, w.target].filter((v) => v !== null);
    add("c-weekly", {
      type: "line",
      data: {
        labels: w.labels,
        datasets: [
          { label: data.words.lower, data: w.lower, borderColor: accent, borderWidth: 1, borderDash: [3, 3], pointRadius: 0, tension: 0 },
          { label: data.words.interval, data: w.upper, borderWidth: 0, pointRadius: 0, fill: "-1", backgroundColor: `${accent}2e`, tension: 0 },
          { label: data.words.accuracy, data: w.value, borderColor: accent, backgroundColor: accent, borderWidth: 2.5, pointRadius: 3, tension: 0 },
          { label: `${data.words.target} ${w.target} %`, data: w.labels.map(() => w.target), borderColor: token("--critical"), borderWidth: 1.5, borderDash: [6, 4], pointRadius: 0 },
        ],
      },
      options: {
        interaction: { mode: "index", intersect: false },
        scales: { x: { grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } }, y: { max: 100, suggestedMin: Math.max(0, Math.floor(Math.min(...shown, 95)) - 1), ticks: { callback: (v) => `${v} %` } } },
        plugins: { legend, tooltip: { callbacks: { footer: (items) => `${data.words.n} = ${w.n[items[0].dataIndex]}` } } },
      },
    });
  }
  function stacked(id, part, scales, axis, legend) {
    add(id, {
      type: "bar",
      data: { labels: part.labels, datasets: part.series.map((s, i) => ({ label: s.name, data: s.counts, backgroundColor: colour(s.id, i), borderWidth: 0, borderRadius: 2, maxBarThickness: 46 })) },
      options: { indexAxis: axis, scales, interaction: { mode: "index", axis, intersect: false }, plugins: { legend } },
    });
  }
  function add(id, config) {
    const canvas = document.getElementById(id);
    if (canvas) charts.push(new Chart(canvas, config));
  }
  function show(name) {
    tab = name;
    for (const button of document.querySelectorAll("[data-heat]")) button.setAttribute("aria-selected", String(button.dataset.heat === name));
    for (const panel of document.querySelectorAll(".heat [role=tabpanel]")) panel.hidden = panel.id !== `heat-${name}`;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-heat]");
    if (button) show(button.dataset.heat);
  });
  document.addEventListener("htmx:afterSettle", (event) => { if (event.target.id === "cockpit") { draw(); show(tab); } });
  document.addEventListener("htmx:beforeSwap", (event) => { if (event.target.id === "cockpit" && document.querySelector("#cockpit details[open]")) event.preventDefault(); });
  document.addEventListener("gw:theme", draw);
  for (const select of document.querySelectorAll("#cockpit-form select")) select.addEventListener("change", () => select.form.submit());
  draw();
})();
