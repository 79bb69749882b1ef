// The leaderboard: one row per model at the chosen position, sorted by the column selected last.
const order = { column: data.leaderboard.find((name) => rows("rows").some((row) => (row[name] ?? null) !== null)), ascending: false };
const ascendingFirst = (name) => name === "model" || !data.figures[name].higher_is_better;

function compared(a, b) {
  const [x, y] = [a[order.column] ?? null, b[order.column] ?? null];
  if (x === null || y === null) return (x === null) - (y === null); // missing values come last either way
  const difference = typeof x === "string" ? x.localeCompare(y) : x - y;
  return order.ascending ? difference : -difference;
}

function leaderboardHead(name) {
  const cell = columnHead("");
  if (order.column === name) cell.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
  const button = element("button", { type: "button", "data-column": name }, title(name));
  button.addEventListener("click", () => {
    order.ascending = order.column === name ? !order.ascending : ascendingFirst(name);
    order.column = name;
    drawLeaderboard();
    byId("leaderboard").querySelector(`button[data-column="${name}"]`).focus();
  });
  cell.append(button);
  return cell;
}

function leaderboardLines() {
  const areas = rows("summaries").filter((row) => row.reference === choice.reference);
  return rows("rows")
    .filter((row) => row.reference === choice.reference && row.position === choice.position)
    .map((row) => ({ ...row, ...areas.find((area) => area.model === row.model) }))
    .concat(data.yardsticks[choice.reference] ?? []).sort(compared);
}

function drawLeaderboard() {
  const lines = leaderboardLines();
  const absent = data.models.filter((model) => !lines.some((line) => line.model === model));
  const shown = (byId("all-figures").checked ? data.leaderboard : data.core).filter((name) => lines.some((line) => (line[name] ?? null) !== null));
  const body = lines.map((line) => ({
    ...(line.yardstick ? { class: "yardstick" } : {}),
    cells: [line.model, ...shown.map((name) => ({ content: [shownValue(line, name), element("small", {}, interval(line, name))] }))],
  }));
  const caption = `Position ${choice.position} against ${choice.reference}${absent.length ? `; not scored there: ${absent.join(", ")}` : ""}`;
  byId("leaderboard").replaceChildren(...tableOf(caption, ["model", ...shown].map(leaderboardHead), body));
  fit(byId("leaderboard"));
}

const lacking = Object.entries(data.lacking);
byId("lacking").hidden = !lacking.length;
byId("lacking").textContent = `Scored at some positions only: ${lacking.map(([model, places]) => `${model} at ${places}`).join("; ")}.`;
byId("all-figures").addEventListener("change", drawLeaderboard);
onChoice(drawLeaderboard);
