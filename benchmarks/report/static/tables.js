// Tables of figures, also as CSV: side by side where there is room, else every row a card of names and values.
const OTHER_HEADINGS = { n_pairs: "pairs", n_prompts: "prompts" };
const title = (name) => (name in data.figures ? heading(name) : OTHER_HEADINGS[name] ?? name);

// Roles are stated since a table that is laid out as cards would lose them.
function tableOf(caption, heads, lines) {
  const labels = heads.map((head) => head.textContent);
  const row = ({ cells: [first, ...rest], ...attributes }) => element("tr", { role: "row", ...attributes },
    element("th", { scope: "row", role: "rowheader" }, first),
    ...rest.map((cell, index) => {
      const place = element("td", { role: "cell", "data-label": labels[index + 1], ...cell.attributes }, ...[cell.content ?? cell].flat());
      place.classList.toggle("none", place.textContent === NONE);
      return place;
    }));
  return [
    ...(caption ? [element("caption", {}, caption)] : []),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
    element("tbody", { role: "rowgroup" }, ...lines.map(row)),
  ];
}

const columnHead = (text) => element("th", { scope: "col", role: "columnheader" }, text);

// Lay a table out as cards if it is wider than its place.
function fit(table) {
  table.setAttribute("role", "table");
  table.classList.remove("cards");
  table.classList.toggle("cards", table.scrollWidth > table.parentElement.clientWidth);
}

const withInterval = (lines, name) => lines.some((line) => (line[`${name}_low`] ?? null) !== null);
const shownValue = (line, name) => (typeof line[name] === "number" ? number(line[name], name in data.figures && !data.figures[name].whole ? 3 : 0) : line[name] ?? NONE);

function figureTable(lines, names) {
  const details = element("details", {}, element("summary", {}, "These figures as a table"));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const heads = names.flatMap((name) => [title(name), ...(withInterval(lines, name) ? ["95 % interval"] : [])]).map(columnHead);
    const cells = (line) => names.flatMap((name) => [shownValue(line, name), ...(withInterval(lines, name) ? [interval(line, name)] : [])]);
    const table = element("table", {}, ...tableOf(null, heads, lines.map((line) => ({ cells: cells(line) }))));
    details.append(element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Figures" }, table));
    fit(table);
  });
  return details;
}

// A text that a spreadsheet would calculate begins with an apostrophe.
function csvCell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvOf(lines, names) {
  const columns = names.flatMap((name) => [name, ...(withInterval(lines, name) ? [`${name}_low`, `${name}_high`] : [])]);
  return [columns, ...lines.map((line) => columns.map((column) => line[column]))].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}
