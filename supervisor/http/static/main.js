// The dashboard: it signs in, asks the server about every second for its numbers, and shows them.

import { Chart } from "./charts.js";
import { Freshness } from "./freshness.js";
import { Session, checkToken } from "./session.js";
import {
  Table, byId, bytes, count, element, milliseconds, moment, seconds, short, showFields, time, write,
} from "./views.js";

const TOKEN = "moorage.token"; // the key in sessionStorage, which ends with this tab
const INTERVAL = 1000; // milliseconds between two requests for the numbers
const LEAST_BETWEEN = 0.5; // seconds between two numbers of which a rate is made
const LISTS_EVERY = 2; // each second request for the numbers is one for the lists too
// Entries that “Show more” adds to a list; fewer on a phone, where each takes several lines.
const PAGE = matchMedia("(width < 640px)").matches ? 8 : 20;
const MOST = 1000; // entries that the server sends at once
const FOUND = 100; // entries that a search shows
const EVENTS_KEPT = 200;
const SAID_FOR = 8000;

const board = byId("board");
let session = null;
let health = null;

// --- Messages to the user

let saidTimer = 0;
function say(text, wrong = false) {
  const said = byId("said");
  said.hidden = false;
  said.classList.toggle("wrong", wrong);
  said.textContent = text;
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => {
    said.hidden = true;
    said.textContent = "";
  }, SAID_FOR);
}

function setState(state, text) {
  const pill = byId("state");
  pill.dataset.state = state;
  write(pill, text);
}

const freshness = new Freshness(board, setState);

// --- Signing in and out

async function signIn(token) {
  await checkToken(token);
  sessionStorage.setItem(TOKEN, token);
  session = new Session(token, {
    opened: onOpened,
    lost: onLost,
    refused: (error) => signOut(error.message),
    event: onEvent,
    gap: (dropped) => addEvent({ event: "gap", dropped, timestamp: new Date().toISOString() }),
  });
  setState("lost", "Connecting");
  session.open();
}

function signOut(reason = "") {
  sessionStorage.removeItem(TOKEN);
  session?.end();
  session = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  board.hidden = true;
  byId("sign-out").hidden = true;
  byId("sign-in").hidden = false;
  byId("sign-in-error").textContent = reason;
  write(byId("since"), "");
  setState("out", "Signed out");
  document.title = "Moorage";
  byId("token").value = "";
  byId("token").focus();
}

function onOpened() {
  const arriving = board.hidden;
  byId("sign-in").hidden = true;
  board.hidden = false;
  byId("sign-out").hidden = false;
  freshness.opened();
  if (arriving) byId("main").focus({ preventScroll: true });
  watch();
  refresh();
  refreshLists();
}

function onLost() {
  freshness.lost();
  say("The connection to the server was lost; trying again.", true);
}

byId("sign-in").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  byId("sign-in-error").textContent = "";
  button.disabled = true;
  try {
    await signIn(byId("token").value.trim());
    byId("token").value = "";
  } catch (error) {
    byId("sign-in-error").textContent =
      error.status || !(error instanceof TypeError) ? error.message : "The server does not answer.";
    byId("token").focus();
  } finally {
    button.disabled = false;
  }
});
byId("sign-out").addEventListener("click", () => signOut());

// --- Numbers and charts

const charts = byId("charts");
const connectionsChart = new Chart(charts, "Connections", [{ name: "open", kind: "a" }], short, 10);
const messagesChart = new Chart(
  charts,
  "Messages per second",
  [{ name: "in", kind: "b" }, { name: "out", kind: "a" }],
  short,
  10,
);
const lagChart = new Chart(charts, "Event loop lag", [{ name: "late by", kind: "c" }], milliseconds, 1);

let before = null; // the stats before the latest, for the rates

function rate(stats, name) {
  if (!before) return 0;
  return Math.max(0, (stats[name] - before[name]) / (stats.uptime - before.uptime));
}

let looking = false;
async function refresh() {
  if (!session || looking) return; // one request at a time, if the server answers late
  looking = true;
  let stats;
  try {
    [stats, health] = await Promise.all([session.ask("stats"), session.ask("health")]);
  } catch {
    return; // the handler of the lost connection has told the user
  } finally {
    looking = false;
  }
  freshness.answered();
  if (before && stats.started_at !== before.started_at) before = null; // another server's counts
  showHealth(stats);
  // Over a shorter time a rate is mostly chance.
  if (before && stats.uptime - before.uptime < LEAST_BETWEEN) return;
  const now = Date.now();
  const received = rate(stats, "messages_received");
  const sent = rate(stats, "messages_sent");
  connectionsChart.add(now, [stats.active_connections]);
  if (before) messagesChart.add(now, [received, sent]);
  lagChart.add(now, [stats.loop_lag * 1000]);
  const failed = stats.messages_failed + stats.messages_dropped;
  showFields(byId("numbers"), [
    ["Connections", count(stats.active_connections)],
    ["Room for", count(health.connections.left)],
    ["Messages in /s", short(received)],
    ["Messages out /s", short(sent)],
    ["Topics", count(stats.topics)],
    ["Subscriptions", count(stats.subscriptions)],
    ["Failed or dropped", count(failed)],
    ["Waiting to be sent", bytes(stats.mailbox_bytes)],
  ]);
  before = stats;
}

const REASONS = {
  starting: "Starting: no client is let in yet.",
  suspended: "Suspended: no new clients are let in.",
  draining: "Draining: clients are told to leave and reconnect elsewhere.",
  stopping: "Stopping: clients are being closed.",
  full: "Full: there is no room for another connection.",
  loop_lag: "The event loop is late: this server has more work than it can do.",
};

function showHealth(stats) {
  const reason = health.reasons[0];
  if (health.ready) setState("ready", "Ready");
  else setState(reason === "full" || reason === "loop_lag" ? "warning" : "off", capital(reason));
  const text = health.ready
    ? "Ready: new clients are let in."
    : health.reasons.map((name) => REASONS[name] ?? name).join(" ");
  write(byId("server-state"), text);
  const stopped = health.reasons.some((name) => name === "suspended" || name === "draining");
  byId("suspend").hidden = stopped;
  byId("resume").hidden = !stopped;
  freshness.hold(byId("drain"), health.reasons.includes("draining"));
  write(byId("since"), `up ${seconds(stats.uptime)} · ${stats.version}`);
  document.title = `${count(stats.active_connections)} · Moorage`;
}

const capital = (text) => (text[0].toUpperCase() + text.slice(1)).replace("_", " ");

// --- Connections

let connectionsLimit = PAGE;
const connectionsTable = new Table(byId("connections"), (entry) => entry.connection_id, [
  (entry) => ({ text: entry.user_id ?? "anonymous", className: entry.user_id ? "" : "faint" }),
  (entry) => ({
    text: entry.connection_id,
    label: `Open connection ${entry.connection_id} of ${entry.user_id ?? "nobody known"}`,
    className: "code",
    onOpen: () => openDetail(entry.connection_id),
  }),
  (entry) => ({ text: entry.address || "–", className: "code" }),
  (entry) => ({ text: count(entry.topics), className: "number" }),
  (entry) => ({
    text: `${short(entry.messages_in)} / ${short(entry.messages_out)}`,
    className: "number",
  }),
  (entry) => ({
    text: entry.mailbox_bytes ? bytes(entry.mailbox_bytes) : "–",
    className: entry.mailbox_bytes ? "number strong" : "number faint",
  }),
  (entry) => ({ text: seconds(Math.floor(entry.quiet_for)), className: "number" }),
  (entry) => ({ text: entry.state, className: `state ${entry.state}` }),
]);

async function refreshConnections() {
  const find = byId("find").value.trim();
  const topic = byId("find-topic").value.trim();
  const state = byId("find-state").value;
  const filters = { ...(topic && { topic }), ...(state && { state }) };
  let page;
  try {
    page = await session.ask("connections", { ...filters, limit: find ? MOST : connectionsLimit });
    if (find) page = await search(page, filters, find);
  } catch (error) {
    if (error.code === "unavailable" || error.code === "timeout") return;
    page = { connections: [], total: 0, cursor: null };
  }
  connectionsTable.show(page.connections);
  const shown = page.connections.length;
  const part = shown < page.total ? `${count(shown)} of ${count(page.total)}` : count(shown);
  write(byId("connections-count"), find ? `${part} found` : part);
  byId("connections-more").hidden = find !== "" || !page.cursor || connectionsLimit >= MOST;
  const filtered = find || topic || state;
  byId("connections-empty").hidden = shown > 0;
  write(
    byId("connections-empty"),
    filtered ? "No connection matches." : "Nobody is connected.",
  );
}

/** Search the entries that are shown; if there are more, ask the server for exactly this user too. */
async function search(page, filters, find) {
  const wanted = find.toLowerCase();
  const isLike = (entry) =>
    [entry.user_id ?? "anonymous", entry.connection_id, entry.address].some((text) =>
      text.toLowerCase().includes(wanted),
    );
  const found = page.connections.filter(isLike);
  if (page.cursor) {
    const known = new Set(found.map((entry) => entry.connection_id));
    const more = await session.ask("connections", { ...filters, user_id: find, limit: MOST });
    found.push(...more.connections.filter((entry) => !known.has(entry.connection_id)));
  }
  return { connections: found.slice(0, FOUND), total: found.length, cursor: null };
}

// --- One connection

const detail = byId("detail");
let detailId = null;

async function openDetail(connectionId) {
  detailId = connectionId;
  byId("disconnect").reset();
  byId("disconnect-error").textContent = "";
  byId("detail-fields").replaceChildren();
  await refreshDetail();
  detail.showModal();
}

async function refreshDetail() {
  let entry;
  try {
    entry = await session.ask("connection", { connection_id: detailId });
  } catch (error) {
    if (error.code === "unavailable" || error.code === "timeout") return;
    byId("detail-gone").hidden = false;
    byId("disconnect").hidden = true;
    return;
  }
  byId("detail-gone").hidden = true;
  byId("disconnect").hidden = false;
  showFields(byId("detail-fields"), [
    ["Id", entry.connection_id],
    ["User", entry.user_id ?? "anonymous"],
    ["Role", entry.role ?? "–"],
    ["Session", entry.session_id ?? "–"],
    ["Token expires", entry.token_expires_at ? moment(entry.token_expires_at) : "–"],
    ["Address", entry.address || "–"],
    ["Path", `${entry.path} (${entry.kind})`],
    ["State", entry.close_cause ? `${entry.state}: ${entry.close_cause}` : entry.state],
    ["Connected", moment(entry.connected_at)],
    ["Last heard", `${moment(entry.last_activity)}${entry.probed ? ", asked for a sign of life" : ""}`],
    ["Round trip", seconds(entry.rtt)],
    ["Next deadline", entry.next_deadline === null ? "–" : `in ${seconds(entry.next_deadline)}`],
    ["Messages in / out", `${count(entry.messages_in)} / ${count(entry.messages_out)}`],
    ["Bytes in / out", `${bytes(entry.bytes_in)} / ${bytes(entry.bytes_out)}`],
    ["Waiting", waiting(entry)],
    ["Dropped", count(entry.dropped)],
    ["Errors", count(entry.errors)],
    ["Topics", entry.topics.join(", ") || "–"],
    ["Metadata", Object.keys(entry.metadata).length ? JSON.stringify(entry.metadata) : "–"],
  ]);
}

function waiting(entry) {
  if (!entry.mailbox_bytes) return "nothing";
  return `${bytes(entry.mailbox_bytes)}, the oldest for ${seconds(entry.mailbox_oldest)}`;
}

byId("disconnect").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const done = await session.ask("disconnect", {
      connection_ids: [detailId],
      reason: byId("disconnect-reason").value,
      reconnect: byId("disconnect-reconnect").checked,
    });
    detail.close();
    say(done.disconnected ? `Disconnected ${detailId}.` : `${detailId} had ended already.`);
    refreshConnections();
  } catch (error) {
    byId("disconnect-error").textContent = error.message;
  }
});

// --- Topics

let topicsLimit = PAGE;
const topicsTable = new Table(byId("topics"), (entry) => entry.topic, [
  (entry) => ({
    text: entry.topic,
    label: `Show the subscribers of ${entry.topic}`,
    className: "code",
    onOpen: () => showSubscribers(entry.topic),
  }),
  (entry) => ({ text: count(entry.subscribers), className: "number" }),
  (entry) => ({ text: count(entry.published), className: "number" }),
]);

async function refreshTopics() {
  const prefix = byId("find-prefix").value.trim();
  let page;
  try {
    page = await session.ask("topics", { ...(prefix && { prefix }), limit: topicsLimit });
  } catch {
    return;
  }
  topicsTable.show(page.topics);
  const shown = page.topics.length;
  write(
    byId("topics-count"),
    shown < page.total ? `${count(shown)} of ${count(page.total)}` : count(shown),
  );
  byId("topics-more").hidden = !page.cursor || topicsLimit >= MOST;
  byId("topics-empty").hidden = shown > 0;
  write(
    byId("topics-empty"),
    prefix ? "No topic begins with that." : "There are no subscriptions.",
  );
}

function showSubscribers(topic) {
  byId("find-topic").value = topic;
  byId("broadcast-to").value = topic;
  refreshConnections();
  byId("connections-title").scrollIntoView({ block: "start" });
  byId("find-topic").focus({ preventScroll: true });
}

function refreshLists() {
  refreshConnections();
  refreshTopics();
  if (detail.open) refreshDetail();
}

let soon = 0;
function refreshListsSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => session && refreshLists(), 250);
}

for (const id of ["find", "find-topic", "find-prefix"]) {
  byId(id).addEventListener("input", refreshListsSoon);
}
byId("find-state").addEventListener("change", refreshListsSoon);
for (const id of ["connections-search", "topics-search"]) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    refreshLists();
  });
}
byId("connections-more").addEventListener("click", () => {
  connectionsLimit += PAGE;
  refreshConnections();
});
byId("topics-more").addEventListener("click", () => {
  topicsLimit += PAGE;
  refreshTopics();
});

// --- Events

let paused = false;
const ENDINGS = new Set(["disconnected", "refused", "control_disconnected"]);

async function watch() {
  const events = byId("events-pattern").value.split(/[\s,]+/).filter(Boolean);
  try {
    await session.ask("watch", { events });
    byId("events-pattern").setCustomValidity("");
  } catch (error) {
    byId("events-pattern").setCustomValidity(error.message);
    byId("events-pattern").reportValidity();
  }
}

function onEvent(event) {
  if (event.event === "connected" || event.event === "disconnected") refreshListsSoon();
  addEvent(event);
}

function addEvent({ event, timestamp, level, ...fields }) {
  if (paused) return;
  const said = Object.entries(fields)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  const kind = level === "error" || level === "warning" ? "bad" : ENDINGS.has(event) ? "end" : "";
  const list = byId("events");
  const item = element("li", { class: kind }, [
    element("time", { datetime: timestamp }, [time(timestamp)]),
    element("b", {}, [event]),
    element("span", {}, [said.join(" · ")]),
  ]);
  const scrolled = list.scrollTop > 0;
  list.prepend(item);
  if (scrolled) list.scrollTop += item.offsetHeight; // a reader further down stays there
  while (list.children.length > EVENTS_KEPT) list.lastChild.remove();
  byId("events-empty").hidden = true;
}

byId("events-filter").addEventListener("submit", (event) => event.preventDefault());
byId("events-pattern").addEventListener("change", watch);
byId("events-pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Paused" : "Pause";
});

// --- Broadcast

const broadcast = byId("broadcast");

broadcast.addEventListener("change", () => {
  const to = broadcast.elements.to.value;
  byId("broadcast-name").hidden = to === "everyone";
  byId("broadcast-to").required = to !== "everyone";
  byId("broadcast-name").querySelector("label").textContent = to === "topic" ? "Topic" : "User";
});

broadcast.addEventListener("submit", async (event) => {
  event.preventDefault();
  const error = byId("broadcast-error");
  error.textContent = "";
  const to = broadcast.elements.to.value;
  const text = byId("broadcast-data").value.trim();
  try {
    const done = await session.ask("broadcast", {
      message_type: byId("broadcast-type").value,
      data: text ? JSON.parse(text) : null,
      [to]: to === "everyone" ? true : byId("broadcast-to").value.trim(),
    });
    const several = done.recipients === 1 ? "connection" : "connections";
    say(`Sent to ${count(done.recipients)} ${several}.`);
  } catch (reason) {
    error.textContent =
      reason instanceof SyntaxError ? `The data is not JSON: ${reason.message}` : reason.message;
  }
});

// --- Suspend, resume, drain

const confirmation = byId("confirm");
let confirmed = null;

function confirm(title, text, yes, action, { asksSeconds = false } = {}) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-seconds").hidden = !asksSeconds;
  confirmed = action;
  confirmation.showModal();
  confirmation.querySelector("[data-close]").focus(); // so that Enter alone confirms nothing
}

byId("confirm-yes").addEventListener("click", async () => {
  confirmation.close();
  await attempt(confirmed);
});

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
  refresh();
}

byId("suspend").addEventListener("click", () =>
  confirm(
    "Suspend this server?",
    "No new clients are let in, and load balancers see that. Those that are connected stay.",
    "Suspend",
    async () => {
      await session.ask("suspend");
      say("Suspended.");
    },
  ),
);

byId("resume").addEventListener("click", () =>
  attempt(async () => {
    await session.ask("resume");
    say("Clients are let in again.");
  }),
);

byId("cleanup").addEventListener("click", () =>
  attempt(async () => {
    freshness.hold(byId("cleanup"), true);
    say("Asking quiet connections for a sign of life.");
    try {
      const done = await session.ask("cleanup");
      say(`Asked ${count(done.probed)}: ${count(done.alive)} alive, ${count(done.closed)} closed.`);
    } finally {
      freshness.hold(byId("cleanup"), false);
    }
  }),
);

byId("drain").addEventListener("click", () =>
  confirm(
    "Drain this server?",
    `All ${count(before?.active_connections ?? 0)} clients are told to leave and to reconnect elsewhere. ` +
      "No new clients are let in until you resume.",
    "Drain",
    drain,
    { asksSeconds: true },
  ),
);

async function drain() {
  byId("drain-progress").hidden = false;
  const timeout = Number(byId("drain-timeout").value);
  try {
    const done = await session.ask("drain", { timeout }, showDrain);
    showDrain(done);
    say(done.left ? `Drained; ${count(done.left)} did not leave in time.` : "Drained: everyone has left.");
  } finally {
    byId("drain-progress").hidden = true;
  }
}

function showDrain(progress) {
  byId("drain-bar").value = progress.total ? 1 - progress.left / progress.total : 1;
  write(byId("drain-text"), `Draining: ${count(progress.left)} of ${count(progress.total)} left`);
}

// --- Dialogs close by their button, by Escape, and by a click beside them

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

// --- Start

let looks = 0;
setInterval(() => {
  if (!session || board.hidden || document.hidden) return;
  refresh();
  looks += 1;
  if (looks % LISTS_EVERY === 0) refreshLists();
}, INTERVAL);

const kept = sessionStorage.getItem(TOKEN);
if (kept) signIn(kept).catch((error) => signOut(error.status ? error.message : "The server does not answer."));
else signOut();
