// Back in time: the generations of the list, and who was in each.
//
// Some generations are loaded, in one row without gaps; more of them as somebody comes to its end.

import { element, json, moment, soon, write } from "./text.js";

const AT_ONCE = 20; // a generation of 500 members is some 70 kB
const MOST = 200;
const CUT = 10_000; // members: an answer is cut short at twice that, and no list has more
const AGAIN_MS = 2000;

export class Past {
  /** `today` tells what is known now of the backend with an id: its row, or nothing. */
  constructor(root, today) {
    this.today = today;
    this.range = root.querySelector("#generations");
    this.at = root.querySelector("#at");
    this.then = root.querySelector("#then");
    this.body = root.querySelector("tbody");
    this.older = root.querySelector("#older");
    this.newer = root.querySelector("#newer");
    this.generations = []; // oldest first
    this.chosen = null; // `seq` of one, as generations may begin anew; null: the newest, whichever it is
    this.atStart = false; // the oldest that is loaded is the first there is
    this.atEnd = true; // the newest that is loaded is the one in force
    this.look = soon(() => this.ask(), 200);
    this.range.addEventListener("input", () => this.choose(Number(this.range.value)));
    this.older.addEventListener("click", () => this.choose(this.place - 1));
    this.newer.addEventListener("click", () => this.choose(this.place + 1));
    this.at.addEventListener("change", () => this.goTo(this.at.value));
    root.querySelector("#present").addEventListener("click", () => this.goTo(""));
  }

  get place() {
    const place = this.generations.findIndex((one) => one.seq === this.chosen);
    return place >= 0 ? place : this.generations.length - 1;
  }

  /** The stream has begun anew: who looks at the present gets it afresh. */
  begin() {
    if (this.chosen === null) {
      this.generations = [];
      this.atStart = false;
      this.atEnd = true;
    }
    this.look();
  }

  /** There may be newer ones. */
  async ask() {
    if (!this.atEnd) return;
    const last = this.generations[this.generations.length - 1];
    try {
      const fresh = await ask(last ? { after: last.seq } : {});
      this.keep(fresh);
      if (last && !whole(fresh)) this.look();
      this.show();
    } catch (error) {
      if (!last) write(this.then, "The history cannot be had: " + error.message);
      setTimeout(this.look, AGAIN_MS);
    }
  }

  /** To the generation that was in force at a time of the reader's own clock; "": the one now. */
  async goTo(local) {
    this.at.value = local;
    try {
      const moment = local ? new Date(local).toISOString() : "";
      const [there, before, after] = local
        ? await Promise.all([ask({ at: moment }), ask({ until: moment }), ask({ since: moment })])
        : [await ask({}), [], []];
      if (!there.length) return this.say("Nothing is known of that time.");
      this.generations = [];
      this.atStart = false;
      this.atEnd = whole(after);
      this.chosen = null;
      this.keep([...there, ...before, ...after]);
      if (local) this.choose(this.generations.findIndex((one) => one.seq === there[0].seq));
      else this.show();
    } catch (error) {
      this.say("That time cannot be had: " + error.message);
    }
  }

  async choose(place) {
    if (place <= 0 && !this.atStart) place += await this.load({ before: this.generations[0]?.seq });
    if (place >= this.generations.length - 1 && !this.atEnd) {
      await this.load({ after: this.generations[this.generations.length - 1].seq });
    }
    const within = Math.max(0, Math.min(place, this.generations.length - 1));
    const newest = this.atEnd && within === this.generations.length - 1;
    this.chosen = newest ? null : this.generations[within]?.seq;
    this.show();
  }

  /** More at one of the ends; returns by how many places the others have moved. */
  async load(query) {
    try {
      const more = await ask(query);
      if ("before" in query && whole(more)) this.atStart = true;
      if ("after" in query && whole(more)) this.atEnd = true;
      const first = this.generations[0].seq;
      this.keep(more);
      return this.generations.findIndex((one) => one.seq === first);
    } catch {
      return 0; // what is loaded stays; the next step asks again
    }
  }

  keep(generations) {
    const all = new Map(this.generations.map((one) => [one.seq, one]));
    for (const one of generations) all.set(one.seq, one);
    const sorted = [...all.values()].sort((a, b) => a.seq - b.seq);
    const left = Math.max(0, sorted.length - MOST);
    if (!left) {
      this.generations = sorted;
    } else if (this.chosen === null) {
      this.generations = sorted.slice(left);
      this.atStart = false;
    } else {
      this.generations = sorted.slice(0, MOST);
      this.atEnd = false;
    }
  }

  say(text) {
    write(this.then, text);
    this.body.replaceChildren();
  }

  show() {
    const { place, generations } = this;
    const one = generations[place];
    this.range.max = String(Math.max(0, generations.length - 1));
    this.range.value = String(Math.max(0, place));
    this.older.disabled = place <= 0 && this.atStart;
    this.newer.disabled = place >= generations.length - 1 && this.atEnd;
    if (!one) return this.say("Nothing is known of the past yet.");
    this.range.setAttribute("aria-valuetext", "generation " + one.generation);
    const next = generations[place + 1];
    const until = next ? " to " + moment(next.at, Date.now()) : this.atEnd ? ", in force now" : "";
    write(this.then, "Generation " + one.generation + ", from " + moment(one.at, Date.now()) + until +
      ": " + one.members.length + " in rotation" + (one.reason ? ". " + one.reason : ""));
    this.body.replaceChildren(...rows(one, generations[place - 1], this.today));
  }
}

/** Lists of the past, by the query of GET /api/v1/history. */
async function ask(query) {
  const words = new URLSearchParams({ ...query, limit: AT_ONCE });
  return (await json("/api/v1/history?" + words)).generations;
}

/** Whether an answer has all there is in that direction. */
function whole(lists) {
  return lists.length < AT_ONCE && lists.reduce((sum, one) => sum + one.members.length, 0) < CUT;
}

function rows(one, before, today) {
  const joined = new Set(one.joined);
  const were = new Map((before ? before.members : []).map((member) => [member.name, member]));
  return [
    ...one.members.map((member) => line(member, joined.has(member.name) ? "joined" : "", today(member.id))),
    ...one.left.map((name) => line(were.get(name) || { name }, "left", today(were.get(name)?.id))),
  ];
}

function line(member, change, now) {
  const tr = element("tr", change);
  const name = element("th", "", member.name);
  name.scope = "row";
  const since = change === "left" ? "" : moment(member.since, Date.now());
  const state = element("td", "state", now ? now.state : "gone");
  if (now) state.dataset.state = now.state;
  tr.append(name, element("td", "", member.ip), element("td", "", since), element("td", "", change), state);
  return tr;
}
