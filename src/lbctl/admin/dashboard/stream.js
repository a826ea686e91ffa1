// The one stream that feeds the page. It comes back by itself, and says how old what is shown is.

const STALE_AFTER_MS = 3000; // the port speaks once a second
const DEAD_AFTER_MS = 8000; // a connection that says nothing for so long is given up
const AGAIN_MS = [250, 500, 1000, 2000, 4000];
// A browser opens six connections to one server, for all its tabs: one that nobody sees gives its back.
const HIDDEN_MS = 30000;

export class Stream {
  /** `onstatus` gets everything, `onchange` what has changed since; `onlink` "live" or not. */
  constructor(path, { onstatus, onchange, onlink }) {
    this.path = path;
    this.handlers = { status: onstatus, change: onchange };
    this.onlink = onlink;
    this.heardAt = null;
    this.failures = 0;
    this.timer = 0;
    this.source = null;
    this.state = "connecting";
    this.open();
    setInterval(() => this.watch(), 500);
    document.addEventListener("visibilitychange", () => this.look());
  }

  look() {
    clearTimeout(this.hiding);
    if (document.visibilityState === "hidden") this.hiding = setTimeout(() => this.rest(), HIDDEN_MS);
    else if (!this.source && !this.timer) this.open();
  }

  rest() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.source?.close();
    this.source = null;
    this.say("resting");
  }

  open() {
    this.timer = 0;
    this.openedAt = performance.now();
    let whole = false; // a change means nothing before the whole
    const source = this.source = new EventSource(this.path);
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        whole = whole || name === "status";
        if (!whole) return;
        this.heardAt = this.openedAt = performance.now();
        this.failures = 0;
        this.say("live");
        handle(JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => source === this.source && this.again());
  }

  // EventSource comes back by itself after some failures and not after others: here after all.
  again() {
    this.source.close();
    this.source = null;
    if (this.timer) return;
    const pause = AGAIN_MS[Math.min(this.failures++, AGAIN_MS.length - 1)];
    this.timer = setTimeout(() => this.open(), pause);
    this.say("lost");
  }

  watch() {
    const silent = performance.now() - this.openedAt;
    if (this.source && silent > DEAD_AFTER_MS) this.again();
    else if (this.source && this.heardAt !== null && silent > STALE_AFTER_MS) this.say("lost");
    else if (this.state !== "live") this.say(this.state);
  }

  say(state) {
    if (this.state === state && state === "live") return;
    this.state = state;
    this.onlink(state, this.heardAt === null ? null : performance.now() - this.heardAt);
  }
}
