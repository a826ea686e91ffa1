// Changes: they take the admin token, which is asked for once and kept in memory alone.

import { write } from "./text.js";

export class Actions {
  constructor(root) {
    this.dialog = root.querySelector("#unlock");
    this.input = root.querySelector("#token");
    this.wrong = root.querySelector("#unlock-wrong");
    this.lock = root.querySelector("#lock");
    this.outcome = root.querySelector("#outcome");
    this.token = "";
    this.waiting = null; // what to do once there is a token
    this.busy = new Set();
    this.lock.addEventListener("click", () => (this.token ? this.forget() : this.askFor(null, "")));
    root.querySelector("#unlock-cancel").addEventListener("click", () => this.dialog.close());
    root.querySelector("#unlock-form").addEventListener("submit", (event) => this.unlock(event));
    this.dialog.addEventListener("close", () => { this.input.value = ""; this.waiting = null; });
  }

  askFor(next, complaint) {
    this.waiting = next;
    write(this.wrong, complaint);
    this.dialog.showModal();
    this.input.focus();
  }

  unlock(event) {
    event.preventDefault();
    const next = this.waiting;
    this.token = this.input.value.trim();
    write(this.lock, "Lock changes");
    this.dialog.close();
    if (next) next();
  }

  forget() {
    this.token = "";
    write(this.lock, "Unlock changes");
  }

  /** Drain or undrain a backend; says how it went. */
  async carryOut(row, verb) {
    const again = () => this.carryOut(row, verb);
    if (!this.token) return this.askFor(again, "");
    const key = verb + " " + row.id;
    if (this.busy.has(key)) return;
    this.busy.add(key);
    this.say(verb + " " + row.name + ": under way", "");
    try {
      const answer = await fetch("/api/v1/backends/" + encodeURIComponent(row.id) + "/" + verb, {
        method: "POST",
        headers: { "Authorization": "Bearer " + this.token, "Content-Type": "application/json" },
        body: "{}",
      });
      const said = await answer.json();
      if (answer.status === 401) {
        this.forget();
        this.say(verb + " " + row.name + ": " + said.error, "bad");
        return this.askFor(again, "This token was refused.");
      }
      if (!answer.ok) return this.say(verb + " " + row.name + ": " + said.error, "bad");
      this.say(row.name + (verb === "drain" ? " is drained." : " may serve again: it is " + said.state + "."), "good");
    } catch (error) {
      this.say(verb + " " + row.name + ": no answer came (" + error.message + "). It may be carried out still.", "bad");
    } finally {
      this.busy.delete(key);
    }
  }

  say(text, kind) {
    this.outcome.hidden = false;
    this.outcome.dataset.kind = kind;
    write(this.outcome, text);
  }
}
