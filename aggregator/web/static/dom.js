// Builds elements. Text is always text: nothing here or elsewhere on the page reads markup from a string.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Columns are [title, how to read a cell from a row, "number"?].
export function table(caption, columns, rows) {
  const kind = (column) => (column[2] === "number" ? { class: "number" } : {});
  const head = columns.map((column) => h("th", { scope: "col", ...kind(column) }, column[0]));
  const line = (row) => h("tr", {}, columns.map((column) => h("td", kind(column), column[1](row))));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map(line))),
  );
}

// Puts new content in place and leaves what a person opened, scrolled or focused as it was.
export function replace(place, ...children) {
  const keyed = (root) => [...root.querySelectorAll("[data-key]")];
  const open = new Set(keyed(place).filter((one) => one.open).map((one) => one.dataset.key));
  const scrolls = [...place.querySelectorAll(".scroll")].map((one) => one.scrollTop);
  const focused = place.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  for (const one of keyed(place)) {
    if (open.has(one.dataset.key)) one.open = true;
    if (focused && one.dataset.key === focused) (one.querySelector("summary") ?? one).focus({ preventScroll: true });
  }
  [...place.querySelectorAll(".scroll")].forEach((one, i) => { one.scrollTop = scrolls[i] ?? 0; });
}
