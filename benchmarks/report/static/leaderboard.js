// The leaderboard: one row per model at the chosen position, sorted by the column selected last.
const order = { column: "spearman", ascending: false };
const ascendingFirst = (name) => name === "model" || !data.figures[name].higher_is_better;

function compared(a, b) {
  const [x, y] = [a[order.column] ?? null, b[order.column] ?? null];
  if (x === null || y === null) return (x === null) - (y === null); // missing values come last either way
  const difference = typeof x === "string" ? x.localeCompare(y) : x - y;
  return order.ascending ? difference : -difference;
}

function drawLeaderboard() {
  const areas = rows("summaries").filter((row) => row.reference === choice.reference);
  const lines = rows("rows")
    .filter((row) => row.reference === choice.reference && row.position === choice.position)
    .map((row) => ({ ...row, ...areas.find((area) => area.model === row.model) }))
    .concat(data.yardsticks[choice.reference] ?? []).sort(compared);
  const absent = data.models.filter((model) => !lines.some((line) => line.model === model));
  const shown = data.leaderboard.filter((name) => lines.some((line) => (line[name] ?? null) !== null));
  const head = element("tr", {}, ...["model", ...shown].map((name) => {
    const cell = element("th", { scope: "col" });
    if (order.column === name) cell.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
    const button = element("button", { type: "button", "data-column": name }, name === "model" ? name : heading(name));
    button.addEventListener("click", () => {
      order.ascending = order.column === name ? !order.ascending : ascendingFirst(name);
      order.column = name;
      drawLeaderboard();
      byId("leaderboard").querySelector(`button[data-column="${name}"]`).focus();
    });
    cell.append(button);
    return cell;
  }));
  const body = lines.map((line) => element("tr", line.yardstick ? { class: "yardstick" } : {},
    element("th", { scope: "row" }, line.model),
    ...shown.map((name) => element("td", {}, number(line[name], data.figures[name].whole ? 0 : 3), element("small", {}, interval(line, name))))));
  byId("leaderboard").replaceChildren(
    element("caption", {}, `Position ${choice.position} against ${choice.reference}${absent.length ? `; not scored there: ${absent.join(", ")}` : ""}`),
    element("thead", {}, head), element("tbody", {}, ...body));
}
onChoice(drawLeaderboard);
