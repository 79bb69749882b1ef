"use strict";
// Data, names and small helpers that all parts use. Text written by users is set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const heading = (name) => data.figures[name].heading;
// Okabe and Ito's colours without yellow, distinct for any colour vision; symbols and dashes carry the same meaning
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.map((child) => child ?? ""));
  return node;
}

function rows(name) {
  const { columns, values } = data[name];
  return values.map((line) => Object.fromEntries(columns.map((column, index) => [column, line[index]])));
}

const NONE = "–";
const number = (value, digits = 3) => (value === null || value === undefined ? NONE : value.toFixed(digits));
const interval = (row, name) => (row[`${name}_low`] === null || row[`${name}_low`] === undefined ? "" : `[${number(row[`${name}_low`])}, ${number(row[`${name}_high`])}]`);
const option = (value, text) => element("option", { value }, text ?? String(value));
const style = (model) => {
  const index = data.models.indexOf(model);
  return { colour: COLOURS[index % COLOURS.length], symbol: SYMBOLS[index % SYMBOLS.length], dash: DASHES[index % DASHES.length] };
};

const listeners = [];
const choice = {
  get reference() { return byId("reference").value; },
  get position() { return Number(byId("position").value); },
};
const onChoice = (draw) => { listeners.push(draw); draw(); };
const redraw = () => listeners.forEach((draw) => draw());

byId("reference").append(...data.references.map((label) => option(label)));
if (data.references.includes("vqascore")) byId("reference").value = "vqascore";
byId("position").append(...data.positions.map((place) => option(place)));
byId("position").value = String(data.position ?? data.positions[0]);
byId("reference").addEventListener("change", redraw);
byId("position").addEventListener("change", redraw);
byId("facts").textContent = `${data.n_prompts} prompts × ${data.n_candidates} candidates, ${data.steps} steps, ` +
  `${data.n_failed} failed; bench ${data.fingerprint.slice(0, 12)}. Position 0 is pure noise, ${data.steps} the finished latent.`;
byId("made").append(...data.made.map((text) => element("li", {}, text)));
