// Every text and every form control that a page shows, with the contrast of its colour to what lies beneath it.
// WCAG 2.2: relative luminance and contrast ratio as defined there; 1.4.3 (AA) for text, 1.4.11 for the edges of
// fields and for icons. What is disabled is exempt there. Gives what falls short, one line each.
() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  function rgba(colour) { // whatever notation the browser computed
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  }
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  function ratio(a, b) {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  }
  const meets = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

  // The colours that may lie beneath an element: one, or black and white where a picture is.
  function beneath(element, box) {
    const layers = [];
    let bases = null;
    for (let at = element; at && !bases; at = at.parentElement) {
      const style = getComputedStyle(at);
      const fill = rgba(style.backgroundColor);
      if (fill[3] > 0) layers.push(fill);
      if (fill[3] === 1) bases = [fill];
      else if ([...at.querySelectorAll(":scope > img, :scope > video")].some((one) => !one.contains(element) && meets(one.getBoundingClientRect(), box))) bases = [[0, 0, 0, 1], [255, 255, 255, 1]];
    }
    bases ||= [rgba(getComputedStyle(document.documentElement).backgroundColor)];
    return bases.map((base) => layers.reduceRight((below, layer) => over(layer, below), base));
  }
  function opacity(element) {
    let all = 1;
    for (let at = element; at; at = at.parentElement) all *= Number(getComputedStyle(at).opacity);
    return all;
  }
  function worst(element, colour, box, below = element) {
    const [r, g, b, a] = rgba(colour);
    return Math.min(...beneath(below, box).map((base) => ratio(over([r, g, b, a * opacity(element)], base), base)));
  }
  function seen(element, box) {
    return box.width > 1 && box.height > 1 && element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })
      && !element.closest(":disabled, [aria-disabled=true], .visually-hidden, .skip, svg");
  }
  const name = (element) => `${element.localName}${element.className && typeof element.className === "string" ? `.${element.className.trim().split(/\s+/).join(".")}` : ""}`;
  const failures = new Map();
  let looked = 0;
  function judge(what, element, found, needed) {
    looked += 1;
    if (found < needed - 0.005) failures.set(`${what} ${name(element)} in ${name(element.parentElement)}`, `${found.toFixed(2)} < ${needed}: ${what} in ${name(element.parentElement)} > ${name(element)}: ${element.textContent.trim().slice(0, 30)}`);
  }

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, noscript, option, datalist")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!seen(element, box)) continue;
    const style = getComputedStyle(element);
    const px = parseFloat(style.fontSize);
    judge("text", element, worst(element, style.color, box), px >= 24 || (px >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5);
  }
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    const box = field.getBoundingClientRect();
    if (!seen(field, box)) continue;
    const style = getComputedStyle(field);
    if (field.localName === "select" || field.value) judge("value", field, worst(field, style.color, box), 4.5);
    else if (field.placeholder) judge("placeholder", field, worst(field, getComputedStyle(field, "::placeholder").color, box), 4.5);
    // A field is known by its edge or by its own ground, against the ground that it stands on.
    if (field.type !== "file") {
      const [edge, ground] = [parseFloat(style.borderTopWidth) ? style.borderTopColor : style.backgroundColor, style.backgroundColor];
      judge("edge", field, Math.max(worst(field, edge, box, field.parentElement), worst(field, ground, box, field.parentElement)), 3);
    }
  }
  for (const icon of document.querySelectorAll("button svg, summary svg, a.back svg")) {
    const box = icon.getBoundingClientRect();
    const holder = icon.parentElement;
    if (seen(holder, box) && getComputedStyle(icon).fill !== "none") judge("icon", holder, worst(holder, getComputedStyle(icon).fill, box), 3);
  }
  for (const mark of document.querySelectorAll(".sev, .wall-health i, .link-state i, .dot, .key")) {
    const box = mark.getBoundingClientRect();
    const { backgroundColor: fill, borderTopColor: rim, borderTopWidth } = getComputedStyle(mark);
    const inks = parseFloat(borderTopWidth) ? [fill, rim] : [fill];
    if (box.width > 1 && rgba(fill)[3] > 0) judge("mark", mark, Math.max(...inks.map((ink) => worst(mark, ink, box, mark.parentElement))), 3);
  }
  if (typeof Chart !== "undefined") for (const canvas of document.querySelectorAll("canvas")) {
    for (const set of Chart.getChart(canvas)?.data.datasets ?? []) {
      const ink = set.borderWidth ? set.borderColor : set.backgroundColor;
      if (typeof ink === "string" && rgba(ink)[3] === 1) judge(`chart ${set.label}`, canvas, worst(canvas, ink, canvas.getBoundingClientRect()), 3);
    }
  }
  return { looked, failures: [...failures.values()] };
}
