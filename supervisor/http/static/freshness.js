// Whether what the page shows is fresh. When the server no longer answers, the page says so, with
// the time of its last data, greys them, and disables what would ask the server for something.

import { byId, write } from "./views.js";

// Milliseconds without an answer after which the page says so. The numbers come every second, so
// nobody reads old ones for more than two.
const LATE = 1800;
const LOOK_EVERY = 200;

// What asks the server for something; the buttons in tables go with their tables.
const ACTIONS = "#board button:not(.link, #events-pause), #disconnect [type=submit], #confirm-yes";

/** The freshness of the board; `setState` shows the state of the connection in a word. */
export class Freshness {
  #board;
  #setState;
  #actions = [...document.querySelectorAll(ACTIONS)];
  #held = new Set(); // buttons that are disabled for a reason of their own
  #connected = false;
  #stale = false;
  #due = 0; // since when an answer is due, on the clock of `performance.now`
  #last = null; // the time of the last answer

  constructor(board, setState) {
    this.#board = board;
    this.#setState = setState;
    setInterval(() => this.#look(), LOOK_EVERY);
    // A tab in the background asks for nothing, so nothing is due.
    document.addEventListener("visibilitychange", () => this.#expect());
  }

  /** There is a connection. What is shown stays stale until there is an answer. */
  opened() {
    this.#connected = true;
    this.#expect();
  }

  /** The connection was lost. */
  lost() {
    this.#connected = false;
    this.#look();
  }

  /** The server has answered. */
  answered() {
    this.#last = new Date();
    this.#expect();
    this.#set(false);
  }

  /** Disable a button for a reason of its own, or no longer. */
  hold(button, held) {
    if (held) this.#held.add(button);
    else this.#held.delete(button);
    button.disabled = held || this.#stale;
  }

  #expect() {
    this.#due = performance.now();
  }

  #look() {
    if (this.#board.hidden || document.hidden) return;
    if (this.#connected && performance.now() - this.#due > LATE) this.#set(true);
    else if (!this.#connected) this.#set(true);
    if (this.#stale) this.#tell();
  }

  #set(stale) {
    if (stale === this.#stale) return;
    this.#stale = stale;
    this.#board.toggleAttribute("data-stale", stale);
    for (const table of this.#board.querySelectorAll("table")) table.inert = stale;
    for (const button of this.#actions) button.disabled = stale || this.#held.has(button);
  }

  #tell() {
    this.#setState("lost", this.#connected ? "No answer" : "Reconnecting");
    const last = this.#last;
    const what = this.#connected ? "The server does not answer." : "There is no connection.";
    if (!last) {
      write(byId("server-state"), what);
      return;
    }
    const at = last.toLocaleTimeString("en-GB");
    const ago = Math.round((Date.now() - last) / 1000);
    write(byId("since"), `last data ${at}, ${ago} s ago`);
    write(byId("server-state"), `${what} All that is shown is from ${at}.`);
    document.title = "No answer · Moorage";
  }
}
