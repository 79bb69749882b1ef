// Plots as SVG, each with a label for screen readers and a table of its figures that opens below it.
const unwanted = new Set();

function keyOf(model) {
  const { colour, symbol, dash } = style(model);
  const key = Plot.plot({
    width: 36, height: 16, margin: 0, axis: null, x: { domain: [0, 2] }, y: { domain: [0, 2] }, ariaHidden: "true",
    marks: [Plot.line([[0, 1], [2, 1]], { stroke: colour, strokeDasharray: dash, strokeWidth: 2 }),
      Plot.dot([[1, 1]], { fill: colour, symbol })],
  });
  key.setAttribute("aria-hidden", "true");
  return key;
}

function swatches(id, models) {
  return element("ul", { class: "swatches" }, ...models.map((model) => {
    const box = element("input", { type: "checkbox", id: `${id}-${data.models.indexOf(model)}` });
    box.checked = !unwanted.has(model);
    box.addEventListener("change", () => {
      unwanted[box.checked ? "delete" : "add"](model);
      drawPlots();
      byId(box.id).focus();
    });
    return element("li", {}, element("label", {}, box, keyOf(model), model));
  }));
}

// Draw a plot into `id`; models: those of its legend; lines and names: its figures and their columns.
function show(id, label, options, models, lines, names) {
  const target = byId(id);
  const plot = Plot.plot({ width: Math.max(280, Math.min(target.clientWidth, 1000)), grid: true, marginBottom: 42, style: { fontSize: "12px" }, ...options });
  const drawing = plot.matches("svg") ? plot : plot.querySelector("svg:last-of-type"); // the legend is an SVG too
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", label);
  for (const part of plot.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label"); // parts of one image
  const figure = element("figure", {}, ...(models.length ? [swatches(id, models)] : []), plot);
  const visible = models.filter((model) => !unwanted.has(model));
  target.replaceChildren(figure, element("div", { class: "downloads" },
    downloadButton("SVG", `Download as SVG: ${label}`, () => save(`${id}.svg`, "image/svg+xml", svgOf(figure, label, visible))),
    downloadButton("CSV", `Download as CSV: ${label}`, () => save(`${id}.csv`, "text/csv", csvOf(lines, names)))),
  figureTable(lines, names));
}

function absent(id, text) {
  byId(id).replaceChildren(element("p", {}, text));
}

function curves(models, lines, x, y) {
  return models.flatMap((model) => {
    const { colour, symbol, dash } = style(model);
    const mine = lines.filter((line) => line.model === model);
    return [
      Plot.areaY(mine, { x, y1: `${y}_low`, y2: `${y}_high`, fill: colour, fillOpacity: 0.15 }),
      Plot.line(mine, { x, y, stroke: colour, strokeWidth: 2, strokeDasharray: dash }),
      Plot.dot(mine, { x, y, fill: colour, symbol, r: 3.5, tip: true, title: (line) => `${model}\nposition ${line.position}, ${line.cost_steps} steps\n${number(line[y])} ${interval(line, y)}` }),
    ];
  });
}

function drawCurves(id, x, y, label, rules) {
  const lines = rows("rows").filter((row) => row.reference === choice.reference && row[y] !== null);
  if (!lines.length) return absent(id, `No ${heading(y)} in these results.`);
  const models = data.models.filter((model) => lines.some((line) => line.model === model));
  return show(id, label, {
    height: 360, x: { label: x === "position" ? "position (denoising steps done)" : "cost (denoising steps per prompt)" }, y: { label: heading(y) },
    marks: [Plot.ruleY(rules, { stroke: "currentColor", strokeOpacity: 0.6 }), ...curves(models.filter((model) => !unwanted.has(model)), lines, x, y)],
  }, models, lines, ["model", "position", "cost_steps", y]);
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function drawSkills() {
  const model = byId("skill-model").value;
  const lines = rows("skills").filter((row) => row.reference === choice.reference && row.model === model)
    .map((row) => ({ ...row, name: `${row.skill} (${row.level}, ${row.n_prompts})`, short: `${shortened(row.skill, 15)} (${row.n_prompts})` }));
  if (!lines.length) return absent("skills", "No skills in these results: the prompts have no tags.");
  const names = new Map([...lines].sort((a, b) => b.level.localeCompare(a.level) || a.skill.localeCompare(b.skill)).map((line) => [line.name, line.short]));
  const places = [...new Set(lines.map((line) => line.position))];
  const narrow = byId("skills").clientWidth < 560;
  const roomy = byId("skills").clientWidth / places.length > 52;
  const every = Math.ceil(places.length / (narrow ? 6 : 15));
  return show("skills", `Heat map of ${model}: Spearman with ${choice.reference} by skill and position`, {
    grid: false, height: 80 + 26 * names.size, marginLeft: narrow ? 130 : 220,
    x: { type: "band", label: "position", ticks: places.filter((_, index) => index % every === 0) },
    y: { label: null, domain: names.keys(), tickFormat: narrow ? (name) => names.get(name) : undefined },
    color: { scheme: "PuOr", domain: [-1, 1], legend: true, marginLeft: 16, label: heading("spearman"), clamp: true },
    marks: [
      Plot.cell(lines, { x: "position", y: "name", fill: "spearman", inset: 0.5, tip: true, title: (line) => `${line.name}\nposition ${line.position}\n${number(line.spearman)} ${interval(line, "spearman")}` }),
      ...(roomy ? [Plot.text(lines, { x: "position", y: "name", text: (line) => number(line.spearman, 2), fill: (line) => (Math.abs(line.spearman) > 0.6 ? "white" : "black") })] : []),
    ],
  }, [], lines, ["skill", "level", "n_prompts", "position", "spearman", "recovered_gain"]);
}

function drawSeparation() {
  const all = rows("separation");
  if (!all.length) return absent("separation", "Corrupted captions were not scored.");
  const lines = all.filter((row) => row.position === choice.position);
  if (!lines.length) return absent("separation", `No corrupted captions were scored at position ${choice.position}.`);
  const models = data.models.filter((model) => lines.some((line) => line.model === model));
  return show("separation", `AUROC of true against corrupted captions by kind at position ${choice.position}`, {
    height: 80 + 22 * lines.length, marginLeft: 110, marginRight: 20, x: { label: `${heading("auroc")} of true against corrupted caption` },
    y: { label: null, axis: null }, fy: { label: null },
    marks: [
      Plot.ruleX([0.5], { stroke: "currentColor", strokeOpacity: 0.6 }),
      ...models.filter((model) => !unwanted.has(model)).flatMap((model) => {
        const { colour, symbol } = style(model);
        const mine = lines.filter((line) => line.model === model);
        return [
          Plot.ruleY(mine, { fy: "kind", y: "model", x1: "auroc_low", x2: "auroc_high", stroke: colour, strokeWidth: 2 }),
          Plot.dot(mine, { fy: "kind", y: "model", x: "auroc", fill: colour, symbol, r: 4, tip: true, title: (line) => `${model}, ${line.kind}\n${number(line.auroc)} ${interval(line, "auroc")}` }),
        ];
      }),
      Plot.axisFy({ anchor: "left", label: null, frameAnchor: "left", dx: -100, textAnchor: "start" }),
    ],
  }, models, lines, ["kind", "model", "n_pairs", "auroc", "pairwise_accuracy"]);
}

byId("measure").append(...data.measures.filter((name) => rows("rows").some((row) => row[name] !== null)).map((name) => option(name, heading(name))));
byId("skill-model").append(...data.models.map((model) => option(model)));
const drawGain = () => drawCurves("gain", "cost_steps", "recovered_gain", `Recovered gain of each model against cost, by ${choice.reference}`, [0, 1]);
const drawAgreement = () => drawCurves("agreement", "position", byId("measure").value, `${heading(byId("measure").value)} of each model with ${choice.reference} against position`, [0]);
byId("measure").addEventListener("change", drawAgreement);
byId("skill-model").addEventListener("change", drawSkills);
const drawPlots = () => [drawGain, drawAgreement, drawSkills, drawSeparation].forEach((draw) => draw());
onChoice(drawPlots);
let width = document.body.clientWidth;
addEventListener("resize", () => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  document.querySelectorAll("table").forEach(fit);
  drawPlots();
});
