// The tiles: what is now, and how it was in the last minutes.

import { milliseconds, percent, rate, write } from "./text.js";

const HEIGHT = 40;
const TOP = 3;
const SHOWN = { requests_per_second: rate, error_ratio: percent, p50_ms: milliseconds, p99_ms: milliseconds };
const LEAST = { requests_per_second: 1, error_ratio: 0.01, p50_ms: 0.1, p99_ms: 0.1 };

export class Figures {
  constructor(root) {
    this.tiles = [...root.querySelectorAll("[data-series]")].map((tile) => ({
      name: tile.dataset.series,
      tile,
      figure: tile.querySelector(".figure span"),
      aside: tile.querySelector(".aside"),
      area: tile.querySelector(".area"),
      line: tile.querySelector(".line"),
      values: [],
    }));
  }

  /** The series as they are. */
  begin(series) {
    for (const tile of this.tiles) tile.values = series[tile.name].slice();
  }

  /** One more sample, which takes the oldest one's place. */
  add(summary) {
    for (const tile of this.tiles) {
      tile.values.push(summary[tile.name]);
      tile.values.shift();
    }
  }

  show(summary) {
    for (const tile of this.tiles) {
      const say = SHOWN[tile.name];
      const known = tile.values.filter((value) => value !== null);
      const peak = known.length ? Math.max(...known) : null;
      write(tile.figure, say(summary[tile.name]));
      write(tile.aside, peak === null ? "nothing in 3 min" : "3 min peak " + say(peak));
      draw(tile, Math.max(peak || 0, LEAST[tile.name]));
      if (tile.name === "error_ratio") tile.tile.classList.toggle("bad", summary.error_ratio > 0);
    }
  }
}

/** One line, broken where nothing was measured. */
function draw(tile, top) {
  const runs = [];
  let run = null;
  tile.values.forEach((value, x) => {
    if (value === null) { run = null; return; }
    if (!run) runs.push(run = []);
    run.push(x + " " + (HEIGHT - (value / top) * (HEIGHT - TOP)).toFixed(1));
  });
  const lines = runs.map((points) => "M" + points.join("L") + (points.length === 1 ? "h0.5" : ""));
  const areas = runs.map((points, n) => {
    const from = points[0].split(" ")[0];
    const to = points[points.length - 1].split(" ")[0];
    return lines[n] + "L" + to + " " + HEIGHT + "L" + from + " " + HEIGHT + "Z";
  });
  set(tile.line, lines.join(""));
  set(tile.area, areas.join(""));
}

function set(path, d) {
  if (path.getAttribute("d") !== d) path.setAttribute("d", d);
}

