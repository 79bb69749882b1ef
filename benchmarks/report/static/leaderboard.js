// The leaderboard: one row a model at the chosen position, sorted by the column whose button was pressed last.
const COLUMNS = ["spearman", "kendall", "pairwise_accuracy", "top1", "best_of_n", "recovered_gain", "retention",
  "oracle_gain", "regret", "misaligned_auroc", "gain_area", "cost_steps", "n_scored", "n_unscored"];
const ASCENDING_FIRST = new Set(["model", "regret", "cost_steps", "n_unscored"]);
const order = { column: "spearman", ascending: false };

function yardsticks() {
  const mark = data.yardsticks[choice.reference];
  if (!mark) return [];
  const every = data.n_candidates * data.steps;
  const share = (value, whole) => (Math.abs(whole) > 1e-12 ? value / whole : null);
  return [
    ["random pick", "random", data.steps],
    [`final-image selection${mark.chooser ? ` by ${mark.chooser}` : ""}`, "final", every],
    ["oracle", "oracle", every],
  ].filter(([, key]) => mark[key] !== null).map(([model, key, cost_steps]) => ({
    model, yardstick: true, cost_steps, best_of_n: mark[key],
    best_of_n_low: mark[`${key}_ci`]?.[0], best_of_n_high: mark[`${key}_ci`]?.[1],
    retention: mark.final === null ? null : share(mark[key], mark.final),
    recovered_gain: mark.final === null || mark.random === null ? null : share(mark[key] - mark.random, mark.final - mark.random),
    oracle_gain: mark.oracle === null || mark.random === null ? null : share(mark[key] - mark.random, mark.oracle - mark.random),
  }));
}

function compared(a, b) {
  const [x, y] = [a[order.column] ?? null, b[order.column] ?? null];
  if (x === null || y === null) return (x === null) - (y === null); // unknown comes last either way
  const difference = typeof x === "string" ? x.localeCompare(y) : x - y;
  return order.ascending ? difference : -difference;
}

function drawLeaderboard() {
  const areas = rows("summaries").filter((row) => row.reference === choice.reference);
  const lines = rows("rows")
    .filter((row) => row.reference === choice.reference && row.position === choice.position)
    .map((row) => ({ ...row, ...areas.find((area) => area.model === row.model) }))
    .concat(yardsticks()).sort(compared);
  const shown = COLUMNS.filter((name) => lines.some((line) => (line[name] ?? null) !== null));
  const head = element("tr", {}, ...["model", ...shown].map((name) => {
    const heading = element("th", { scope: "col" });
    if (order.column === name) heading.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
    const button = element("button", { type: "button", "data-column": name }, NAMES[name] ?? name);
    button.addEventListener("click", () => {
      order.ascending = order.column === name ? !order.ascending : ASCENDING_FIRST.has(name);
      order.column = name;
      drawLeaderboard();
      byId("leaderboard").querySelector(`button[data-column="${name}"]`).focus();
    });
    heading.append(button);
    return heading;
  }));
  const body = lines.map((line) => element("tr", line.yardstick ? { class: "yardstick" } : {},
    element("th", { scope: "row" }, line.model),
    ...shown.map((name) => element("td", {}, number(line[name]), element("small", {}, interval(line, name))))));
  byId("leaderboard").replaceChildren(
    element("caption", {}, `Position ${choice.position} against ${choice.reference}`),
    element("thead", {}, head), element("tbody", {}, ...body));
}
onChoice(drawLeaderboard);
