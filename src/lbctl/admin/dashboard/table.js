// The backends: a row in the page is a place in the order, and shows whichever backend has that place.
//
// So another order moves no element. Of five hundred rows some twenty are in sight; the others are
// written as they come into sight, or by and by, some in each frame, so that none is old for long.

import { NONE, age, element, milliseconds, percent, rate, write } from "./text.js";

const text = (key) => (row) => row[key] || NONE;
const ms = (key) => (row) => milliseconds(row[key], "");
const SHOW = {
  name: text("name"),
  ip: text("ip"),
  state: text("state"),
  since: (row, table) => age(Date.parse(row.since), table.nowMs),
  in_flight: (row) => String(row.in_flight),
  requests_per_second: (row) => rate(row.requests_per_second),
  error_ratio: (row) => percent(row.error_ratio),
  p50_ms: ms("p50_ms"),
  p99_ms: ms("p99_ms"),
  weight: (row) => String(row.weight),
  published_generation: (row) => String(row.published_generation),
  last_check: text("last_check"),
  reason: (row) => row.reason,
};
const COLUMNS = [
  { key: "name", title: "Backend", head: true },
  { key: "ip", title: "Address" },
  { key: "state", title: "State, why", also: "reason" },
  { key: "since", title: "For", number: true },
  { key: "in_flight", title: "In flight", number: true },
  { key: "requests_per_second", title: "Req/s", number: true },
  { key: "error_ratio", title: "Errors", number: true },
  { key: "p50_ms", title: "p50 ms", number: true },
  { key: "p99_ms", title: "p99 ms", number: true },
  { key: "weight", title: "Weight", number: true },
  { key: "published_generation", title: "List", number: true },
  { key: "last_check", title: "Last check" },
];
const SEARCHED = ["name", "ip", "state", "reason", "id"];
const STATES = ["down", "ejected", "invalid", "draining", "probing", "enrolling", "joining", "up"]; // the worst first
const NEAR = "400px"; // so far outside of the window a row counts as in sight
const BY_AND_BY = 25; // rows out of sight that are written in a frame
const AT_HAND_MS = 4000; // the order stays, so long after the pointer moved over the rows
const natural = new Intl.Collator("en", { numeric: true });

export class Table {
  /** `onaction(row, verb)` is called for a button; `verb` is "drain" or "undrain". */
  constructor(root, onaction) {
    this.table = root.querySelector("table");
    this.body = root.querySelector("tbody");
    this.count = root.querySelector("#count");
    this.empty = root.querySelector("#empty");
    this.filter = root.querySelector("#filter");
    this.select = root.querySelector("#sort");
    this.onaction = onaction;
    this.rows = new Map(); // by id: { data, searched, changed }
    this.order = []; // of those that the filter lets through
    this.slots = []; // the rows in the page
    this.sort = { key: "name", down: false };
    this.generation = 0;
    this.nowMs = Date.now();
    this.unsorted = false;
    this.movedMs = -AT_HAND_MS;
    this.sight = new IntersectionObserver((entries) => this.look(entries), { rootMargin: NEAR });
    this.body.addEventListener("pointermove", () => { this.movedMs = performance.now(); });
    this.body.addEventListener("pointerleave", () => { this.movedMs = -AT_HAND_MS; });
    this.filter.addEventListener("input", () => this.arrange());
    this.makeHead();
  }

  makeHead() {
    const head = this.table.tHead.rows[0];
    const group = this.table.querySelector("colgroup");
    this.heads = new Map();
    for (const { key, title, number } of COLUMNS) {
      group.append(element("col", "col-" + key));
      const cell = header("col", "columnheader", number ? "number" : "");
      const button = element("button", "", title);
      button.type = "button";
      button.addEventListener("click", () => this.sortBy(key));
      cell.append(button);
      head.append(cell);
      this.heads.set(key, cell);
      const option = element("option", "", title);
      option.value = key;
      this.select.append(option);
    }
    group.append(element("col", "col-action"));
    const last = header("col", "columnheader", "");
    last.append(element("span", "unseen", "Action"));
    head.append(last);
    this.select.addEventListener("change", () => this.sortBy(this.select.value, false));
    this.markSort();
  }

  // What the stream says

  replace(rows) {
    const present = new Set(rows.map((row) => row.id));
    this.change(rows, [...this.rows.keys()].filter((id) => !present.has(id)));
  }

  /** Rows or cells of rows that are others, and ids of rows that are gone. `frame` shows them. */
  change(changed, removed) {
    for (const id of removed) this.rows.delete(id);
    for (const cells of changed) {
      const row = this.rows.get(cells.id);
      if (row) this.update(row, cells);
      else this.rows.set(cells.id, { data: { ...cells }, searched: searched(cells), changed: true });
      if (!row || this.sort.key in cells) this.unsorted = true;
    }
    if (removed.length) this.unsorted = true;
  }

  update(row, cells) {
    Object.assign(row.data, cells);
    row.changed = true;
    if (!SEARCHED.some((key) => key in cells)) return;
    row.searched = searched(row.data);
    this.unsorted = true; // the filter may let it through now, or no more
  }

  /** A frame: everything in sight says what is now. */
  frame(generation, nowMs) {
    this.nowMs = nowMs;
    const all = generation !== this.generation;
    this.generation = generation;
    if (this.unsorted) this.arrange(this.isAtHand());
    else this.show(all);
  }

  /** Whether somebody points at the rows, or is in them by keyboard: another must not slip under. */
  isAtHand() {
    return performance.now() - this.movedMs < AT_HAND_MS || this.body.contains(document.activeElement);
  }

  // The order

  /** Where rows `stay`, they keep their places; who is new comes last. */
  arrange(stay = false) {
    const wanted = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const through = [...this.rows.values()].filter((row) => wanted.every((word) => row.searched.includes(word)));
    if (stay) {
      const placed = new Set(this.order);
      const present = new Set(through);
      this.order = [...this.order.filter((row) => present.has(row)), ...through.filter((row) => !placed.has(row))];
    } else {
      this.unsorted = false;
      this.order = through.sort(this.comparison());
    }
    this.show(false);
    const all = this.rows.size;
    write(this.count, through.length === all ? all + " known" : through.length + " of " + all);
    this.empty.hidden = all > 0;
  }

  comparison() {
    const { key, down } = this.sort;
    const sign = down ? -1 : 1;
    return ({ data: one }, { data: other }) =>
      sign * compare(key, one[key], other[key]) || natural.compare(one.name, other.name) || natural.compare(one.id, other.id);
  }

  sortBy(key, turn = true) {
    const column = COLUMNS.find((one) => one.key === key);
    const same = turn && this.sort.key === key;
    this.sort = { key, down: same ? !this.sort.down : Boolean(column.number) };
    this.markSort();
    this.arrange();
  }

  markSort() {
    for (const [key, cell] of this.heads) {
      if (key === this.sort.key) cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.select.value = this.sort.key;
  }

  // The rows in the page

  show(all) {
    while (this.slots.length > this.order.length) this.drop(this.slots.pop());
    while (this.slots.length < this.order.length) this.slots.push(this.makeSlot());
    let left = BY_AND_BY;
    this.slots.forEach((slot, place) => {
      const row = this.order[place];
      if (slot.row !== row || row.changed || all) slot.late = true;
      slot.row = row;
      if (slot.near || (slot.late && left-- > 0)) this.fill(slot);
    });
    for (const row of this.order) row.changed = false;
  }

  /** Rows have come into sight, or left it. */
  look(entries) {
    for (const { target, isIntersecting } of entries) {
      const slot = this.slots[target.sectionRowIndex];
      if (!slot || slot.tr !== target) continue;
      slot.near = isIntersecting;
      if (slot.near) this.fill(slot);
    }
  }

  makeSlot() {
    const tr = element("tr");
    tr.setAttribute("role", "row");
    const slot = { tr, parts: new Map(), row: null, near: true, late: true, said: new Map() };
    for (const { key, title, number, head, also } of COLUMNS) {
      const name = "cell-" + key + (number ? " number" : "");
      const cell = head ? header("row", "rowheader", name) : element("td", name);
      if (!head) cell.setAttribute("role", "cell");
      cell.dataset.title = title;
      for (const part of also ? [key, also] : [key]) {
        const inner = element("span", "part-" + part);
        cell.append(inner);
        slot.parts.set(part, inner);
      }
      tr.append(cell);
    }
    slot.button = this.makeButton(slot);
    this.body.append(tr);
    this.sight.observe(tr);
    return slot;
  }

  makeButton(slot) {
    const cell = element("td", "cell-action");
    cell.setAttribute("role", "cell");
    const button = element("button");
    button.type = "button";
    button.addEventListener("click", () => this.onaction(slot.row.data, verbOf(slot.row.data)));
    cell.append(button);
    slot.tr.append(cell);
    return button;
  }

  drop(slot) {
    this.sight.unobserve(slot.tr);
    slot.tr.remove();
  }

  /** One that is not late has aged all the same. */
  fill(slot) {
    const { data } = slot.row;
    say(slot, "since", SHOW.since(data, this), put);
    if (!slot.late) return;
    slot.late = false;
    for (const key of slot.parts.keys()) say(slot, key, SHOW[key](data, this), put);
    const verb = verbOf(data);
    const behind = data.state === "up" && data.published_generation !== this.generation;
    say(slot, ".state", data.state, (text) => { slot.tr.dataset.state = text; });
    say(slot, ".behind", String(behind), () => slot.parts.get("published_generation").classList.toggle("behind", behind));
    say(slot, ".verb", verb, () => { slot.button.textContent = verb === "drain" ? "Drain" : "Undrain"; });
    say(slot, ".label", (verb === "drain" ? "Drain " : "Undrain ") + data.name, (text) => slot.button.setAttribute("aria-label", text));
    say(slot, ".at", "since " + data.since, (text) => { slot.parts.get("since").title = text; });
    say(slot, ".id", data.id, (text) => { slot.parts.get("name").title = text; });
  }
}

/** Does it only where it was not said before: the page is not even asked. */
function say(slot, key, text, how) {
  if (slot.said.get(key) === text) return;
  slot.said.set(key, text);
  how(text, slot, key);
}

function put(text, slot, key) {
  slot.parts.get(key).textContent = text;
}

function header(scope, role, className) {
  const cell = element("th", className);
  cell.scope = scope;
  cell.setAttribute("role", role);
  return cell;
}

function verbOf(data) {
  return data.reason.startsWith("drained by hand") ? "undrain" : "drain";
}

function searched(data) {
  return SEARCHED.map((key) => data[key]).join(" ").toLowerCase();
}

function compare(key, one, other) {
  if (key === "state") return STATES.indexOf(one) - STATES.indexOf(other);
  if (key === "since") return Date.parse(other) - Date.parse(one); // by age
  if (typeof one === "string") return natural.compare(one, other);
  return (one ?? -1) - (other ?? -1);
}
