// What has happened, newest first.
//
// It is asked for when the stream tells of a change that is more than a figure. A second stream
// would say the same a moment sooner, and with it three tabs would use up the six connections that
// a browser opens to one server.

import { element, json, moment, soon } from "./text.js";

const PATH = "/api/v1/events?follow=0&limit=";
const AT_ONCE = 100;
const MOST = 200;
const AT_LEAST_EVERY_MS = 30000;
const AFTER_MS = 150; // several changes in a row are asked after once
const AGAIN_MS = 2000;

export class Timeline {
  constructor(root) {
    this.list = root.querySelector("#events");
    this.empty = root.querySelector("#no-events");
    this.last = -1; // the number of the newest that is shown
    this.whole = true; // the next question is for the newest, whatever is shown
    this.asking = false;
    this.again = false;
    this.look = soon(() => this.ask(), AFTER_MS);
    setInterval(this.look, AT_LEAST_EVERY_MS);
  }

  /** The stream has begun anew: maybe it is another history, that of a stack in this one's place. */
  begin() {
    this.whole = true;
    this.look();
  }

  async ask() {
    if (this.asking) { this.again = true; return; }
    this.asking = true;
    try {
      const whole = this.whole;
      const { events } = await json(PATH + AT_ONCE + (whole ? "" : "&after=" + this.last));
      this.whole = false;
      if (whole && events.every((event) => event.seq < this.last)) this.clear();
      if (!whole && events.length === AT_ONCE) this.again = true;
      this.add(events);
    } catch {
      setTimeout(this.look, AGAIN_MS); // whether the port is there is the stream's to say
    } finally {
      this.asking = false;
      if (this.again) { this.again = false; this.look(); }
    }
  }

  clear() {
    this.last = -1;
    this.list.replaceChildren();
  }

  add(events) {
    for (const event of events.sort((a, b) => a.seq - b.seq)) {
      if (event.seq <= this.last) continue;
      this.last = event.seq;
      this.list.prepend(entry(event));
    }
    while (this.list.childElementCount > MOST) this.list.lastElementChild.remove();
    this.empty.hidden = this.list.childElementCount > 0;
  }
}

function entry(event) {
  const item = element("li");
  item.dataset.kind = event.kind;
  const time = element("time", "", moment(event.at, Date.now()));
  time.dateTime = event.at;
  time.title = event.at;
  const said = element("p");
  const about = [event.subject, event.text].filter(Boolean).join(": ");
  said.append(element("b", "", event.kind), " ", element("span", "", about));
  item.append(time, said);
  return item;
}
