// Before the first paint, so that the page does not flash in the other theme.
const kept = (() => { try { return localStorage.getItem("gridwatch.theme"); } catch { return null; } })();
if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
