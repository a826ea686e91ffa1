// In the place of the stream and of the history: changes as fast as the page takes them.

const THEN = "2026-11-22T10:00:00Z";
const IDLE = { requests_per_second: 0, error_ratio: null, p50_ms: null, p99_ms: null };
const COLUMN = Array(180).fill(null);
const row = (n) => ({
  id: "id-" + n, name: "b-" + n, ip: "10.0.0." + n, port: 8080, weight: 1, state: "up", reason: "",
  since: THEN, in_flight: 0, published_generation: 7, last_check: "passed", ...IDLE,
});

window.EventSource = class {
  constructor() {
    this.on = {};
    this.count = 0;
    window.stream = this;
    setTimeout(() => this.begin());
  }

  addEventListener(name, handler) { this.on[name] = handler; }

  close() {}

  say(name, data) { this.on[name]({ data: JSON.stringify(data) }); }

  begin() {
    const summary = {
      project: "shop", runtime: "local", version: "1", address: "", leader: "", replicas: 5,
      generation: 7, updated_at: THEN, in_rotation: 5, known: 5, in_flight: 0, rollout: null,
      healing: { state: "idle", message: "" }, history: { state: "kept" }, ...IDLE,
    };
    const series = Object.fromEntries(Object.keys(IDLE).map((name) => [name, COLUMN]));
    this.say("status", { now: THEN, processes: [], backends: [1, 2, 3, 4, 5].map(row), summary, series });
  }
};

// With every change there are a hundred more events, and a list.
const event = (seq) => ({ seq, at: THEN, kind: "join", subject: "b", text: "", data: {} });
const list = (seq) => ({
  seq, generation: seq, at: THEN, reason: "", joined: ["b"], left: [], members: [row(1)],
});
window.fetch = async (path) => {
  const asked = new URL(path, location).searchParams;
  const many = Number(asked.get("limit"));
  const newest = stream.count * (path.includes("events") ? 100 : 1);
  const first = asked.has("after") ? Number(asked.get("after")) + 1 : newest - many + 1;
  const numbers = [];
  for (let n = Math.max(first, 0); n <= newest && numbers.length < many; n++) numbers.push(n);
  const found = path.includes("events") ? { events: numbers.map(event) } : { generations: numbers.map(list) };
  return new Response(JSON.stringify(found));
};

function change(count) {
  const value = (count * 37) % 1000;
  const said = {
    now: new Date(Date.parse(THEN) + count * 1000).toISOString(),
    summary: { requests_per_second: value, error_ratio: value / 1000, p50_ms: value / 10, p99_ms: value / 5 },
    backends: [1, 2, 3, 4, 5].map((n) => ({ id: "id-" + n, in_flight: (value + n) % 90, p99_ms: value / n })),
  };
  if (count % 20 === 0) {
    said.backends.push(row(count));
    said.summary.generation = count;
  }
  if (count % 20 === 10 && count > 20) said.removed = ["id-" + (count - 10)];
  return said;
}

window.pushChanges = async (many) => {
  for (let n = 0; n < many; n++) {
    stream.say("change", change(++stream.count));
    if (stream.count % 200 === 0) await new Promise((done) => setTimeout(done, 0));
  }
  await new Promise((done) => setTimeout(done, 400));
};
