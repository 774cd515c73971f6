// [what, ratio] of every kind of text that is seen: WCAG 2.2's relative luminance of its colour and of its ground.
(() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const bend = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * bend(r / 255) + 0.7152 * bend(g / 255) + 0.0722 * bend(b / 255);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const name = (element) => `${element.tagName}.${element.className.baseVal ?? element.className}`;
  const found = new Map();
  const kinds = "p, li, a, th, td, caption, h1, h2, h3, button, figcaption, code, svg text";
  for (const element of document.querySelectorAll(kinds)) {
    if (!element.textContent.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const front = light(parse(element.closest("svg") ? style.fill : style.color)), back = light(ground(element));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.set(`${name(element.parentElement)} ${name(element)}`, Math.round(100 * ratio) / 100);
  }
  return [...found];
})()
