// Puts the page together: one stream in, one frame a second out.

import { Actions } from "./actions.js";
import { Figures } from "./figures.js";
import { Past } from "./past.js";
import { Stream } from "./stream.js";
import { Table } from "./table.js";
import { age, element, moment, write } from "./text.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
// More than a figure has changed: there is news for the timeline.
const NEWS = ["state", "reason", "since", "published_generation"];
const SUMMARY_NEWS = ["history", "generation", "rollout", "healing", "leader", "replicas"];

const LINK = {
  live: "Live", lost: "Connection lost, trying again", connecting: "Connecting", resting: "At rest while nobody looks",
};

let summary = {};
let skewMs = 0; // how far the lb's clock is ahead of this one
const nowMs = () => Date.now() + skewMs;

const actions = new Actions(document);
const figures = new Figures($("figures"));
const table = new Table($("backends"), (row, verb) => actions.carryOut(row, verb));
const timeline = new Timeline(document);
const past = new Past($("past"), (id) => table.rows.get(id)?.data);
const processes = new Map(); // by row: the cell of its age, and since when it runs

new Stream("/api/v1/live", { onstatus: begin, onchange: go, onlink: sayLink });

function begin(status) {
  summary = status.summary;
  skewMs = Date.parse(status.now) - Date.now();
  figures.begin(status.series);
  table.replace(status.backends);
  showProcesses(status.processes);
  timeline.begin();
  past.begin();
  frame();
}

function go(change) {
  const began = performance.now();
  skewMs = Date.parse(change.now) - Date.now();
  const said = change.summary || {};
  const rows = change.backends || [];
  const removed = change.removed || [];
  Object.assign(summary, said);
  figures.add(summary);
  table.change(rows, removed);
  if (change.processes) showProcesses(change.processes);
  const news = removed.length || change.processes || SUMMARY_NEWS.some((key) => key in said) ||
    rows.some((row) => NEWS.some((key) => key in row));
  if (news) timeline.look();
  if ("generation" in said) past.look();
  frame();
  performance.measure("frame", { start: began });
  performance.clearMeasures("frame"); // a watcher has it by now; it must not pile up
}

function frame() {
  showSummary();
  figures.show(summary);
  table.frame(summary.generation, nowMs());
  for (const row of processes.values()) write(row.up, age(row.startedMs, nowMs()));
}

function showSummary() {
  const { in_rotation: up, replicas, known } = summary;
  write($("project"), summary.project);
  write($("address"), summary.address);
  write($("runtime"), summary.runtime);
  write($("version"), summary.version);
  $("leads").hidden = !summary.leader;
  write($("leader"), "lb " + summary.leader);
  write($("in-rotation"), String(up));
  write($("wanted"), replicas === null ? "of " + known + " known" : "of " + replicas + " wanted");
  write($("generation"), "generation " + summary.generation + ", " + age(Date.parse(summary.updated_at), nowMs()) + " old");
  $("in-rotation").closest(".tile").classList.toggle("bad", up < (replicas ?? known));
  document.title = up + "/" + (replicas ?? known) + " up · " + summary.project + " · lbctl";
  showStates();
  showNotices();
}

/** How many are in which state, as one bar. */
function showStates() {
  const counts = new Map();
  for (const { data } of table.rows.values()) counts.set(data.state, (counts.get(data.state) || 0) + 1);
  const said = JSON.stringify([...counts]);
  const bar = $("states");
  if (bar.dataset.said === said) return;
  bar.dataset.said = said;
  bar.replaceChildren(...[...counts].map(([state, count]) => {
    const part = element("i");
    part.dataset.state = state;
    part.style.flexGrow = String(count);
    return part;
  }));
}

/** The rollout unless it went well, healing and the history unless all is well. */
function showNotices() {
  const { rollout, healing, history } = summary;
  const lines = [];
  if (rollout && rollout.state !== "done") {
    const count = rollout.state === "rolled back" ? "" : ", " + rollout.replaced + " of " + rollout.total + " replaced";
    lines.push(["rollout " + rollout.revision + (rollout.image ? " to " + rollout.image : "") + ": " + rollout.state +
      count + ". " + rollout.message, rollout.state === "running" ? "" : "bad"]);
  }
  if (healing.state !== "idle" && healing.state !== "off") {
    lines.push(["healing: " + healing.state + ". " + healing.message, healing.state === "gave up" ? "bad" : ""]);
  }
  if (history.state === "failing") lines.push(["The history is not written down for now. " + history.message, "bad"]);
  const said = JSON.stringify(lines);
  const box = $("notices");
  if (box.dataset.said === said) return;
  box.dataset.said = said;
  box.replaceChildren(...lines.map(([text, kind]) => {
    const notice = element("p", "notice", text);
    notice.dataset.kind = kind;
    return notice;
  }));
}

function showProcesses(list) {
  processes.clear();
  $("processes").tBodies[0].replaceChildren(...list.map((one) => {
    const tr = element("tr");
    const up = element("td", "number");
    up.title = "since " + one.started_at;
    const lb = one.lb ? one.lb + (one.lb === summary.leader ? " (leads)" : "") : "–";
    const name = element("th", "", one.name);
    name.scope = "row";
    tr.append(element("td", "", lb), name, element("td", "", one.role), element("td", "number", String(one.pid)), up,
      element("td", one.restarts ? "number some" : "number", String(one.restarts)));
    processes.set(tr, { up, startedMs: Date.parse(one.started_at) });
    return tr;
  }));
}

function sayLink(state, silentMs) {
  const link = $("link");
  link.dataset.state = state;
  document.body.classList.toggle("stale", state !== "live");
  write($("link-word"), LINK[state]);
  write($("link-age"), state === "live" || silentMs === null ? "" :
    ", as of " + moment(new Date(Date.now() - silentMs).toISOString(), Date.now()) + " (" + Math.round(silentMs / 1000) + " s ago)");
}
