// Search as you type. Each keystroke aborts the search before it; that is all the client has to do.
//
// Whatever comes from the server is shown by textContent: it comes out of files that anybody may have written.

"use strict";

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

const SHOWN = 50; // abandonments in the list, as many as the server remembers
const HISTORY = 120; // samples of the CPU: half a minute
const QUIET = 700; // milliseconds without news before counts are read out

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The search

const query = byId("query");
let current = null; // the AbortController of the search under way

function search() {
  current?.abort();
  current = null;
  const text = query.value;
  if (!text.trim()) {
    byId("matches").replaceChildren();
    showProgress(0);
    showCounts("Type a few letters, fast.");
    return;
  }
  const controller = (current = new AbortController());
  byId("matches").classList.add("stale");
  run(text, controller.signal).catch((error) => {
    if (controller.signal.aborted) return; // by the next keystroke: just what we want to show
    showError(error instanceof TypeError ? "The server does not answer. Does it still run?" : error.message);
  });
}

async function run(text, signal) {
  const route = document.querySelector("input[name=policy]:checked").value;
  const response = await fetch(`${route}?q=${encodeURIComponent(text)}`, { signal, cache: "no-store" });
  if (!response.ok) throw new Error(`${response.status}: ${(await response.text()).trim()}`);
  const list = byId("matches");
  let fresh = false; // what is in the list belongs to this search
  let ended = false;
  for await (const batch of batchesOfLines(response.body)) {
    if (signal.aborted) return;
    const added = document.createDocumentFragment();
    for (const line of batch) {
      const { match, progress, done } = JSON.parse(line);
      if (match) added.append(matchItem(match));
      const counts = progress ?? done;
      if (counts) showSearch(counts, Boolean(done));
      ended ||= Boolean(done);
    }
    if (!fresh && (added.childElementCount || ended)) {
      list.replaceChildren();
      list.classList.remove("stale");
      byId("results").scrollTop = 0;
      fresh = true;
    }
    list.append(added);
  }
  if (!ended) throw new Error("The search broke off; the server says why.");
}

// The complete lines of a stream, as many as came at once.
async function* batchesOfLines(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    if (lines.length) yield lines;
  }
}

function matchItem({ path, line, pieces }) {
  const item = element("li");
  const text = element("code", "text");
  pieces.forEach((piece, i) => text.append(i % 2 ? element("mark", "", piece) : piece));
  item.append(element("span", "where", `${path}:${line}`), text);
  return item;
}

function showSearch({ matches, passed, skipped, files }, done) {
  showProgress(passed / files);
  const found = `${number(matches)} ${matches === 1 ? "match" : "matches"}`;
  const shown = byId("matches").childElementCount;
  const where = done
    ? `in ${number(files - skipped)} files${skipped ? `; ${number(skipped)} that are not text were skipped` : ""}`
    : `in ${number(passed)} of ${number(files)} files so far`;
  showCounts(where, found, done && matches > 200 ? "; the first 200 are shown" : "");
  if (done || shown === 0) announce(`${found} ${where}`);
}

function showProgress(share) {
  byId("progress").style.transform = `scaleX(${share})`;
}

function showCounts(text, strong, more = "") {
  const counts = byId("counts");
  counts.classList.remove("error");
  counts.replaceChildren();
  if (strong) counts.append(element("b", "", strong), " ");
  counts.append(text + more);
}

function showError(message) {
  showCounts(message);
  byId("counts").classList.add("error");
  showProgress(0);
  announce(message);
}

// Read out the last of what is said, once nothing has been said for a while: not each keystroke's.
let pending = null;
function announce(text) {
  clearTimeout(pending);
  pending = setTimeout(() => { byId("announcement").textContent = text; }, QUIET);
}

query.addEventListener("input", search);
byId("form").addEventListener("submit", (event) => event.preventDefault());
for (const radio of document.querySelectorAll("input[name=policy]")) radio.addEventListener("change", () => query.value && search());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && event.target !== query) {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    query.value = "";
    search();
    query.focus();
  }
});

// The panel

let feed = null;
const cpu = [];

function openFeed() {
  feed = new EventSource("/panel");
  feed.addEventListener("hello", (event) => hello(JSON.parse(event.data)));
  feed.addEventListener("state", (event) => showState(JSON.parse(event.data)));
  feed.addEventListener("abandoned", (event) => showAbandonment(JSON.parse(event.data)));
  feed.onerror = () => {
    const lost = byId("feed");
    if (lost.className === "lost") return;
    lost.className = "lost";
    lost.textContent = "No connection to the server; trying again.";
    announce(lost.textContent);
  };
}

function hello({ root, files, latest }) {
  byId("tree").textContent = `${number(files)} files under ${root}`;
  byId("abandonments").replaceChildren();
  latest.forEach(showAbandonment);
}

function showState(state) {
  byId("running").textContent = state.running;
  byId("waiting").textContent = state.waiting;
  byId("cpu").textContent = state.cpu;
  byId("abandoned").textContent = number(state.abandoned);
  byId("never-scanned").textContent = number(state.never_scanned);
  byId("cpu-saved").textContent = `≈ ${state.cpu_saved.toFixed(1)} s of CPU`;
  byId("for-nobody").textContent = number(state.for_nobody);
  byId("cpu-for-nobody").textContent = `≈ ${state.cpu_for_nobody.toFixed(1)} s of CPU`;
  byId("feed").className = "";
  const pages = state.pages === 1 ? "1 page looks on." : `${state.pages} pages look on.`;
  if (byId("feed").textContent !== pages) byId("feed").textContent = pages;
  showPile(state.running, state.waiting);
  showHistory(state.cpu);
}

function showPile(running, waiting) {
  const pile = byId("pile");
  const wanted = Math.min(running + waiting, 40);
  while (pile.childElementCount > wanted) pile.lastChild.remove();
  while (pile.childElementCount < wanted) pile.append(element("i"));
  [...pile.children].forEach((square, i) => square.classList.toggle("running", i < running));
}

function showHistory(percent) {
  cpu.push(percent);
  if (cpu.length > HISTORY) cpu.shift();
  const full = Math.max(100, ...cpu);
  const start = HISTORY - cpu.length;
  const points = cpu.map((value, i) => `${start + i},${(40 - (38 * value) / full).toFixed(1)}`).join(" ");
  byId("line").setAttribute("points", points);
  byId("area").setAttribute("points", `${start},40 ${points} ${HISTORY - 1},40`);
}

function showAbandonment(told) {
  byId("nothing").hidden = true;
  const list = byId("abandonments");
  list.prepend(abandonmentItem(told));
  while (list.childElementCount > SHOWN) list.lastChild.remove();
}

function abandonmentItem({ status, phase, cause, outcome, method, route, unwind_ms, search }) {
  const item = element("li", outcome);
  const first = element("div", "first");
  const what = search ? `“${search.query}”` : route === "/panel" ? "a page closed or was hidden" : `${method ?? ""} ${route ?? ""}`;
  first.append(element("span", "code", status), element("span", "what", what), element("span", "took", duration(unwind_ms)));
  item.append(first, element("span", "how", `${phase} · ${cause} · ${outcome.replace("_", " ")}`));
  if (!search) return item;
  const { files, passed, never_scanned, for_nobody } = search;
  const work =
    outcome === "finished"
      ? `${number(for_nobody)} of ${number(files)} files scanned for nobody`
      : `${number(never_scanned)} of ${number(files)} files never scanned`;
  const share = element("div", "share");
  const part = element("i");
  part.style.transform = `scaleX(${passed / files})`;
  share.append(part);
  item.append(element("span", "how", work), share);
  return item;
}

function duration(milliseconds) {
  return milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

// A browser keeps six connections to one server, for all its tabs together: one that is not seen gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    feed?.close();
    feed = null;
  } else if (!feed) {
    openFeed();
  }
});

if (!document.hidden) openFeed();
if (query.value) search(); // the browser has kept it
