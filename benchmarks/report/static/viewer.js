// The trajectory viewer: a prompt's candidates at a position, each scorer's scores of them, and its pick.
const shown = data.viewer;
const picture = { previews: new Image(), images: new Image() };

const finite = (values) => (values ?? []).map((value, index) => [value, index]).filter(([value]) => value !== null);
const best = (values) => finite(values).reduce((top, item) => (top === null || item[0] > top[0] ? item : top), null)?.[1] ?? null;
const rank = (values, index) => 1 + finite(values).filter(([value]) => value > values[index]).length;

function tile(image, [width, height], column, row, label) {
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  canvas.getContext("2d").drawImage(image, column * width, row * height, width, height, 0, 0, width, height);
  return canvas;
}

function scoreTable(prompt, index) {
  const judges = [
    ...Object.entries(prompt.scores).map(([model, places]) => [model, places[index]]),
    ...Object.entries(prompt.references).map(([label, values]) => [`reference ${label} (final image)`, values]),
  ];
  const truth = prompt.references[choice.reference];
  const head = element("tr", {}, element("th", { scope: "col" }, "scorer"),
    ...prompt.present.map((_, candidate) => element("th", { scope: "col" }, `candidate ${candidate}`)),
    element("th", { scope: "col" }, "picks"), element("th", { scope: "col" }, `${choice.reference} of the pick`));
  const body = judges.map(([name, values]) => {
    const pick = best(values);
    return element("tr", {}, element("th", { scope: "row" }, name),
      ...prompt.present.map((_, candidate) => {
        const value = values?.[candidate] ?? null;
        const cell = element("td", candidate === pick ? { class: "pick" } : {}, candidate === pick ? "★ " : "", number(value, 4));
        if (value !== null) cell.append(element("small", {}, `rank ${rank(values, candidate)}`));
        return cell;
      }),
      element("td", {}, pick === null ? "–" : `candidate ${pick}`),
      element("td", {}, pick === null || !truth ? "–" : number(truth[pick])));
  });
  return [element("caption", {}, "Score and rank of each candidate; ★: the pick"), element("thead", {}, head), element("tbody", {}, ...body)];
}

function drawCandidates() {
  const prompt = shown.prompts[Number(byId("prompt").value)];
  const index = Number(byId("slider").value);
  const place = shown.positions[index];
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
    const pictures = !present ? [] : [
      ...(prompt.previews ? [tile(picture.previews, prompt.preview_size, index, candidate, `Preview of candidate ${candidate} at position ${place}`)] : []),
      tile(picture.images, prompt.image_size, 0, candidate, `Final image of candidate ${candidate}`),
    ];
    return element("figure", by.length ? { class: "picked" } : {}, ...pictures, caption);
  }));
  byId("scores").replaceChildren(...scoreTable(prompt, index));
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
    "right: the finished image. ★: picked by a scorer; ◎: the reference's own pick. Arrow keys move the slider.";
  byId("prompt").append(...shown.prompts.map((prompt, index) => option(index, `${prompt.id}: ${prompt.text.slice(0, 90)}`)));
  byId("slider").max = shown.positions.length - 1;
  byId("slider").value = Math.max(0, shown.positions.findLastIndex((place) => place <= data.steps / 2));
  byId("prompt").addEventListener("change", drawPrompt);
  byId("slider").addEventListener("input", drawCandidates);
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => { byId("prompt").value = Number(byId("prompt").value) + step; drawPrompt(); });
  }
  drawPrompt();
  listeners.push(drawCandidates);
} else {
  byId("viewer-about").textContent = "This page was made without the bench's pictures.";
}
