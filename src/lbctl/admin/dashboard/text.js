// Text and elements. Whatever comes from the stack becomes text of a node, never markup.

export const NONE = "–";

/** An element with a class and a text. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Set a text only where it is another: an untouched node costs the browser nothing. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export function rate(perSecond) {
  if (perSecond === null) return NONE;
  return perSecond >= 100 || perSecond === 0 ? whole.format(perSecond) : tenths.format(perSecond);
}

export function milliseconds(value, unit = " ms") {
  if (value === null) return NONE;
  if (value >= 100) return whole.format(value) + unit;
  return (value >= 10 ? tenths : hundredths).format(value) + unit;
}

export function percent(ratio) {
  if (ratio === null) return NONE;
  if (ratio === 0) return "0 %";
  if (ratio < 0.0001) return "<0.01 %";
  return (ratio < 0.1 ? hundredths : tenths).format(ratio * 100) + " %";
}

/** How long it is since, in its largest unit that says something. */
export function age(sinceMs, nowMs) {
  const seconds = Math.max(0, Math.floor((nowMs - sinceMs) / 1000));
  if (seconds < 120) return seconds + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " d";
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** A moment in the reader's own zone; with its day where that is not today. */
export function moment(iso, nowMs) {
  const date = new Date(iso);
  const today = new Date(nowMs).toDateString() === date.toDateString();
  return (today ? "" : day.format(date) + " ") + clock.format(date);
}

/** Runs with a delay, and at most once in it. */
export function soon(run, delayMs) {
  let timer = 0;
  return () => {
    if (timer) return;
    timer = setTimeout(() => { timer = 0; run(); }, delayMs);
  };
}

export async function json(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(path + " answered " + answer.status);
  return answer.json();
}
