"use strict";
// The network as boxes in model order, filled as far as there is something left; lines go from what feeds to what is fed.

// Where things are: names to the left of the boxes, on narrow screens above them.
page.geometry = (room) => {
  const narrow = room < 560;
  const width = Math.max(300, Math.min(900, room));
  const left = narrow ? 2 : 190;
  return { narrow, width, left, inner: width - left - (narrow ? 56 : 270), height: 34, above: narrow ? 34 : 0, gap: 14 };
};

page.buildNetworks = (panel) => {
  const drawing = page.make("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": "Structure of the network" });
  const heading = page.make("h3", {}, "");
  const remark = page.make("p", { class: "note" });
  const now = { picture: null, title: "", room: 0 };
  const draw = () => {
    if (!now.picture || !drawing.offsetParent) return;
    now.room = drawing.clientWidth;
    drawing.replaceChildren(page.networkDrawing(now.picture, now.room));
    remark.textContent = page.networkNote(now.picture);
  };
  const save = (format) => page.button(format.toUpperCase(), () => page.saveDrawing(drawing.firstElementChild, now.title, format), { "aria-label": `Structure: save as ${format.toUpperCase()}` });
  page.chooser(panel, () => page.study.networks, [page.KEYS.problem, page.KEYS.method, page.KEYS.amount], (found, values) => {
    now.picture = found[0];
    now.title = `What was removed: ${values.method}, ${values.problem}, asked ${page.amount(values.amount)}`;
    heading.textContent = now.title;
    draw();
  });
  panel.append(page.make("div", { class: "card" }, page.make("div", { class: "head" }, heading, page.make("span", { class: "group small" }, save("png"), save("svg"))), drawing, remark));
  page.onChange(draw);
  new ResizeObserver(() => { if (Math.abs(drawing.clientWidth - now.room) > 20) draw(); }).observe(drawing);
  draw();
};

page.networkNote = (picture) => {
  const boxes = page.decode(picture.boxes);
  const sum = (key) => boxes.reduce((total, box) => total + box[key], 0);
  const edges = picture.edges.length ? "" : " What feeds what is not known.";
  const units = boxes.some((box) => box.units) ? " Thin bar below: share of the units." : "";
  return `Filled: share of the entries that is left; hatched: gone.${units} ${sum("entries_left").toLocaleString("en")} of ${sum("entries").toLocaleString("en")} entries are left.${edges}`;
};

page.networkDrawing = (picture, room) => {
  const shape = page.geometry(room);
  const boxes = page.decode(picture.boxes);
  const place = new Map(boxes.map((box, at) => [box.layer, at]));
  const top = (at) => 8 + shape.above + at * (shape.height + shape.above + shape.gap);
  const total = top(boxes.length) - shape.above + 2;
  const colors = { text: page.css("--text"), soft: page.css("--soft"), line: page.css("--line"), band: page.css("--band"), fill: page.color(0), units: page.color(4), ground: page.css("--card") };
  const root = page.svg("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${shape.width} ${total}`, width: shape.width, height: total, role: "img", "font-family": "system-ui, DejaVu Sans, sans-serif", "font-size": "12.5" },
    page.svg("title", {}, `${picture.method}, ${picture.problem}`), page.hatching(colors), page.svg("rect", { width: shape.width, height: total, fill: colors.ground }));
  for (const [from, to] of picture.edges) if (place.has(from) && place.has(to)) root.append(page.networkEdge(place.get(from), place.get(to), top, colors, shape));
  boxes.forEach((box, at) => root.append(page.networkBox(box, top(at), colors, shape)));
  return root;
};

page.hatching = (colors) => page.svg("defs", {},
  page.svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    page.svg("rect", { width: 6, height: 6, fill: colors.band }), page.svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, stroke: colors.line, "stroke-width": 2.5 })),
  page.svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, page.svg("path", { d: "M0,0L8,4L0,8Z", fill: colors.soft })));

// Neighbours are joined by a short arrow between them; others by an arc on the right, the wider the further.
page.networkEdge = (from, to, top, colors, { left, inner, height, narrow }) => {
  const middle = narrow ? left + inner - 18 : left + inner / 2;
  const right = left + inner;
  const far = Math.min(narrow ? 62 : 70, 16 + 9 * Math.abs(to - from));
  const straight = to === from + 1;
  const path = straight ? `M${middle},${top(from) + height}L${middle},${top(to) - 1}`
    : `M${right},${top(from) + height * 0.65}C${right + far},${top(from) + height} ${right + far},${top(to)} ${right + 1},${top(to) + height * 0.35}`;
  return page.svg("path", { d: path, fill: "none", stroke: colors.soft, "stroke-width": 1.4, "marker-end": "url(#tip)" });
};

page.networkBox = (box, y, colors, shape) => {
  const { left, inner, height } = shape;
  const share = box.entries ? box.entries_left / box.entries : 1;
  const units = box.units ? `, ${box.units_left}/${box.units} units` : "";
  const group = page.svg("g", { class: "box" }, page.svg("title", {}, `${box.layer}: ${box.kind} ${box.shape}\n${box.entries_left.toLocaleString("en")} of ${box.entries.toLocaleString("en")} entries left (${page.percent(share, 1)} %)${units}`));
  const bar = box.units ? height - 9 : height;
  group.append(
    page.svg("rect", { x: left, y, width: inner, height: bar, fill: "url(#hatch)" }),
    page.svg("rect", { x: left, y, width: (inner * share).toFixed(2), height: bar, fill: colors.fill }));
  if (box.units) {
    group.append(page.svg("rect", { x: left, y: y + bar, width: inner, height: 9, fill: colors.band }),
      page.svg("rect", { x: left, y: y + bar, width: ((inner * box.units_left) / box.units).toFixed(2), height: 9, fill: colors.units }));
  }
  group.append(page.svg("rect", { x: left, y, width: inner, height, fill: "none", stroke: colors.soft, "stroke-width": 1, rx: 3 }));
  group.append(...page.networkWords(box, y, colors, shape, { share: `${page.percent(share, 1)} %`, counts: `${page.short(box.entries_left)}/${page.short(box.entries)}${units}` }));
  return group;
};

page.networkWords = (box, y, colors, { narrow, left, inner }, { share, counts }) => {
  const cut = (text, most) => (text.length > most ? `\u2026${text.slice(1 - most)}` : text);
  const strong = (x, at, text, anchor) => page.svg("text", { x, y: at, fill: colors.text, "font-weight": 600, "text-anchor": anchor }, text);
  const soft = (x, at, text, anchor) => page.svg("text", { x, y: at, fill: colors.soft, "font-size": 11, "text-anchor": anchor }, text);
  if (!narrow) {
    return [strong(left - 10, y + 14, cut(box.layer, 25), "end"), soft(left - 10, y + 29, cut(`${box.kind} ${box.shape}`, 30), "end"),
      strong(left + inner + 80, y + 14, share, "start"), soft(left + inner + 80, y + 29, counts, "start")];
  }
  return [strong(left, y - 20, cut(box.layer, 28), "start"), strong(left + inner, y - 20, share, "end"), soft(left, y - 6, cut(`${box.kind} ${box.shape}, ${counts}`, 46), "start")];
};

page.saveDrawing = (drawing, title, format) => {
  const text = new XMLSerializer().serializeToString(drawing);
  const name = page.fileName(title);
  if (format === "svg") { page.save(`${name}.svg`, text, "image/svg+xml"); return; }
  const image = new Image();
  image.onload = () => {
    const canvas = page.make("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => page.save(`${name}.png`, blob));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
};
