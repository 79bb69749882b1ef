// The trajectory viewer: a prompt's candidates at a position, each scorer's scores of them, and its pick.
const shown = data.viewer;
const picture = { previews: new Image(), images: new Image() };

const finite = (values) => (values ?? []).map((value, index) => [value, index]).filter(([value]) => value !== null);
const best = (values) => finite(values).reduce((top, item) => (top === null || item[0] > top[0] ? item : top), null)?.[1] ?? null;
const rank = (values, index) => 1 + finite(values).filter(([value]) => value > values[index]).length;

function tile(image, [width, height], column, row, label) {
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label, class: width < 96 ? "blocks" : "" });
  canvas.getContext("2d").drawImage(image, column * width, row * height, width, height, 0, 0, width, height);
  return canvas;
}

function scoreTable(prompt, index) {
  const judges = [
    ...Object.entries(prompt.scores).map(([model, places]) => [model, places[index]]),
    ...Object.entries(prompt.references).map(([label, values]) => [`reference ${label} (final image)`, values]),
  ];
  const truth = prompt.references[choice.reference];
  const heads = ["scorer", ...prompt.present.map((_, candidate) => `candidate ${candidate}`), "picks", `${choice.reference} of the pick`].map(columnHead);
  const score = (values, candidate, pick) => {
    const value = values?.[candidate] ?? null;
    const text = `${candidate === pick ? "★ " : ""}${number(value, 4)}`;
    return {
      attributes: candidate === pick ? { class: "pick" } : {},
      content: value === null ? text : [text, element("small", {}, `rank ${rank(values, candidate)}`)],
    };
  };
  const lines = judges.map(([name, values]) => {
    const pick = best(values);
    return { cells: [name, ...prompt.present.map((_, candidate) => score(values, candidate, pick)),
      pick === null ? NONE : `candidate ${pick}`, pick === null || !truth ? NONE : number(truth[pick])] };
  });
  return tableOf("Score and rank of each candidate; ★: the pick", heads, lines);
}

const current = () => {
  const index = Number(byId("slider").value);
  return { prompt: shown.prompts[Number(byId("prompt").value)], index, place: shown.positions[index] };
};

function pictures(candidate) {
  const { prompt, index, place } = current();
  return [
    ...(prompt.previews ? [tile(picture.previews, prompt.preview_size, index, candidate, `Preview of candidate ${candidate} at position ${place}`)] : []),
    tile(picture.images, prompt.image_size, 0, candidate, `Final image of candidate ${candidate}`),
  ];
}

// One candidate's pictures as large as the window.
let zoomed = 0;

function drawZoom() {
  const { prompt, index, place } = current();
  const there = prompt.present.flatMap((present, candidate) => (present ? [candidate] : []));
  byId("zoom-title").textContent = `Candidate ${zoomed}, position ${place} of ${data.steps}`;
  byId("zoom-pictures").replaceChildren(...pictures(zoomed));
  byId("zoom-previous").disabled = zoomed === there[0];
  byId("zoom-next").disabled = zoomed === there.at(-1);
  byId("zoom-earlier").disabled = index === 0;
  byId("zoom-later").disabled = index === shown.positions.length - 1;
}

function zoom(candidate) {
  zoomed = candidate;
  drawZoom();
  if (!byId("zoom").open) byId("zoom").showModal();
}

function neighbour(step) {
  const { present } = current().prompt;
  let candidate = zoomed + step;
  while (present[candidate] === false) candidate += step;
  return candidate in present ? candidate : zoomed;
}

function move(step) {
  byId("slider").value = Number(byId("slider").value) + step;
  drawCandidates();
}

function drawCandidates() {
  const { prompt, index, place } = current();
  const progress = `${place} of ${data.steps}`;
  byId("slider").setAttribute("aria-valuetext", `position ${progress}`);
  byId("slider-value").textContent = progress;
  const picks = Object.entries(prompt.scores).map(([model, places]) => [model, best(places[index])]).filter(([, pick]) => pick !== null);
  const truth = best(prompt.references[choice.reference]);
  byId("picks").textContent = `Position ${place}: ${picks.map(([model, pick]) => `${model} picks ${pick}`).join(", ") || "nothing was scored"}` +
    `${truth === null ? "" : `; ${choice.reference} of the final images picks ${truth}`}.`;
  byId("candidates").replaceChildren(...prompt.present.map((present, candidate) => {
    const by = picks.filter(([, pick]) => pick === candidate).map(([model]) => model);
    const caption = element("figcaption", {}, element("strong", {}, `Candidate ${candidate}`),
      !present ? " failed" : `${by.length ? ` ★ ${by.join(", ")}` : ""}${candidate === truth ? ` ◎ ${choice.reference}` : ""}`);
    if (!present) return element("figure", {}, caption);
    const button = element("button", { type: "button", class: "tile", "aria-label": `Enlarge candidate ${candidate}` }, ...pictures(candidate));
    button.addEventListener("click", () => zoom(candidate));
    return element("figure", by.length ? { class: "picked" } : {}, button, caption);
  }));
  byId("scores").replaceChildren(...scoreTable(prompt, index));
  fit(byId("scores"));
  if (byId("zoom").open) drawZoom();
}

async function drawPrompt() {
  const selected = byId("prompt").value;
  const prompt = shown.prompts[Number(selected)];
  byId("prompt-text").textContent = prompt.text;
  byId("previous").disabled = selected === "0";
  byId("next").disabled = Number(selected) === shown.prompts.length - 1;
  const loaded = await Promise.all(["previews", "images"].filter((name) => prompt[name]).map(async (name) => {
    const image = new Image();
    image.src = prompt[name];
    await image.decode();
    return [name, image];
  }));
  if (byId("prompt").value !== selected) return; // the user has selected another one meanwhile
  Object.assign(picture, Object.fromEntries(loaded));
  drawCandidates();
}

if (shown?.prompts.length) {
  byId("viewer").hidden = false;
  byId("viewer-about").textContent = `${shown.prompts.length} of ${shown.of} prompts, evenly spread over the bench. Left: the latent at the position by a linear map to colours; ` +
    "right: the finished image. ★: picked by a scorer; ◎: the reference's own pick. A click enlarges pictures; arrow keys move the slider.";
  byId("prompt").append(...shown.prompts.map((prompt, index) => option(index, `${prompt.id}: ${prompt.text.slice(0, 90)}`)));
  byId("slider").max = shown.positions.length - 1;
  byId("slider").value = Math.max(0, shown.positions.findLastIndex((place) => place <= choice.position));
  byId("prompt").addEventListener("change", drawPrompt);
  byId("slider").addEventListener("input", drawCandidates);
  byId("zoom-previous").addEventListener("click", () => zoom(neighbour(-1)));
  byId("zoom-next").addEventListener("click", () => zoom(neighbour(1)));
  byId("zoom-earlier").addEventListener("click", () => move(-1));
  byId("zoom-later").addEventListener("click", () => move(1));
  const keys = { ArrowUp: "previous", ArrowDown: "next", ArrowLeft: "earlier", ArrowRight: "later" };
  byId("zoom").addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    byId(`zoom-${keys[event.key]}`).click(); // does nothing where the button is disabled
  });
  byId("zoom-close").addEventListener("click", () => byId("zoom").close());
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => { byId("prompt").value = Number(byId("prompt").value) + step; drawPrompt(); });
  }
  drawPrompt();
  listeners.push(drawCandidates);
} else {
  byId("viewer-about").textContent = "This page was made without the bench's pictures.";
}
