// The parts of the page: elements, tables that keep their rows, numbers and times for people.
// No function parses strings as markup, so nothing that a client sends can become markup.

/** Make an element; children are elements or text. */
export function element(name, attributes = {}, children = []) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Change a text only when it differs, so as not to disturb a selection or a screen reader. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const PRECISE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => WHOLE.format(value);
export const short = (value) => (Math.abs(value) < 10_000 ? PRECISE.format(value) : SHORT.format(value));

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${PRECISE.format(value)} ${units[unit]}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.000_5) return `${PRECISE.format(value * 1_000_000)} µs`;
  if (value < 1) return `${PRECISE.format(value * 1000)} ms`;
  if (value < 60) return `${PRECISE.format(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 86_400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86_400)} d ${Math.floor((value % 86_400) / 3600)} h`;
}

export const milliseconds = (value) => `${PRECISE.format(value)} ms`;

export function time(text) {
  return text ? new Date(text).toLocaleTimeString("en-GB") : "–";
}

export function moment(text) {
  return text ? `${new Date(text).toLocaleString("sv-SE")}` : "–";
}

/**
 * A table whose rows stay the same elements while their contents change: focus, selection and
 * scrolling survive an update. `cells` are functions from an entry to {text, label, className,
 * onOpen}; `key` tells entries apart.
 */
export class Table {
  #body;
  #key;
  #cells;
  #headings;
  #rows = new Map();

  constructor(table, key, cells) {
    this.#body = table.tBodies[0];
    this.#key = key;
    this.#cells = cells;
    this.#headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  }

  show(entries) {
    const wanted = new Set(entries.map(this.#key));
    for (const [key, row] of this.#rows) {
      if (!wanted.has(key)) {
        row.remove();
        this.#rows.delete(key);
      }
    }
    entries.forEach((entry, place) => {
      const key = this.#key(entry);
      let row = this.#rows.get(key);
      if (!row) {
        row = this.#make();
        this.#rows.set(key, row);
      }
      if (this.#body.rows[place] !== row) {
        this.#body.insertBefore(row, this.#body.rows[place] ?? null);
      }
      this.#fill(row, entry);
    });
  }

  #make() {
    return element(
      "tr",
      { role: "row" },
      this.#cells.map((_, index) => {
        // Each cell repeats its heading, since on a phone it is on a line of its own, and its role,
        // since browsers drop the roles of a table that is not displayed as one.
        const heading = this.#headings[index];
        return index
          ? element("td", { role: "cell", "data-heading": heading })
          : element("th", { role: "rowheader", scope: "row", "data-heading": heading });
      }),
    );
  }

  #fill(row, entry) {
    this.#cells.forEach((cell, index) => {
      const { text, label, className = "", onOpen } = cell(entry);
      const place = row.cells[index];
      if (place.className !== className) place.className = className;
      if (!onOpen) {
        write(place, text);
        return;
      }
      let button = place.querySelector("button");
      if (!button) {
        button = element("button", { type: "button", class: "link" });
        place.replaceChildren(button);
      }
      write(button, text);
      button.setAttribute("aria-label", label ?? text);
      button.onclick = onOpen;
    });
  }
}

/** Show a list of names and values; rows stay while their names do. */
export function showFields(list, fields) {
  const names = fields.map(([name]) => name);
  const present = [...list.querySelectorAll("dt")].map((node) => node.textContent);
  if (names.join() !== present.join()) {
    list.replaceChildren(
      ...names.map((name) => element("div", {}, [element("dt", {}, [name]), element("dd")])),
    );
  }
  [...list.querySelectorAll("dd")].forEach((node, index) => write(node, fields[index][1]));
}
