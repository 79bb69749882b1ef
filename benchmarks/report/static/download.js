// Downloads: a plot as one SVG file with its legend, on white in any mode, and its figures as CSV.
const SVG = "http://www.w3.org/2000/svg";
const INK = "#1b1f24";
const MARGIN = 12;

function drawn(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The models' keys in rows below the heading, as [node, height].
function legendOf(models, width) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "12px system-ui, sans-serif";
  let [x, y] = [0, 0];
  const keys = models.map((model) => {
    const size = 44 + pen.measureText(model).width + 20;
    if (x && x + size > width) [x, y] = [0, y + 20];
    const key = drawn("g", { transform: `translate(${x},${y})` }, keyOf(model), drawn("text", { x: 42, y: 12 }, model));
    x += size;
    return key;
  });
  return [drawn("g", {}, ...keys), models.length ? y + 26 : 0];
}

function svgOf(figure, label, models) {
  const parts = [...figure.querySelectorAll("svg")].filter((part) => !part.closest(".swatches")).map((part) => part.cloneNode(true));
  const width = Math.max(...parts.map((part) => Number(part.getAttribute("width"))));
  const [legend, height] = legendOf(models, width);
  legend.setAttribute("transform", "translate(0,32)");
  let top = 36 + height;
  for (const part of parts) {
    part.setAttribute("y", top);
    part.setAttribute("overflow", "visible");
    part.removeAttribute("role");
    top += Number(part.getAttribute("height"));
  }
  const style = `color:${INK};background:#fff;font:12px system-ui,sans-serif;--plot-background:#fff`;
  const box = { width: width + 2 * MARGIN, height: top + MARGIN };
  const whole = drawn("svg", { xmlns: SVG, ...box, viewBox: `${-MARGIN} 0 ${box.width} ${box.height}`, fill: "currentColor", style },
    drawn("title", {}, label), drawn("rect", { x: -MARGIN, ...box, fill: "#fff" }),
    drawn("text", { y: 20, "font-weight": "bold" }, label), legend, ...parts);
  return new XMLSerializer().serializeToString(whole);
}

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: `${data.bench}-${name}`.replace(/[^\w.-]+/g, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function downloadButton(text, label, write) {
  const button = element("button", { type: "button", "aria-label": label }, text);
  button.addEventListener("click", write);
  return button;
}
