// The page's side of the control socket: requests with an id, and their answers; events; connecting
// again when the connection is lost. Its messages are those of every other operator's tool.

const PROTOCOL = "moorage.v1";
const FIRST_WAIT = 500; // milliseconds before trying again; doubled each time
const LONGEST_WAIT = 15_000; // the longest such wait
const PING_INTERVAL = 20_000; // a page cannot see WebSocket pings, so it sends messages of its own
const ANSWER_TIMEOUT = 15_000;

/** The error of a request that was refused, in the server's words. */
export class Refusal extends Error {
  constructor(text, code, status = 0) {
    super(text);
    this.code = code;
    this.status = status; // of HTTP, if the refusal came by HTTP
  }
}

/** Check by HTTP that a token is an administrator's; a page cannot see why a WebSocket is refused. */
export async function checkToken(token) {
  // Other characters could not be sent in a header.
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Refusal("This is not a token.", "unauthorized", 401);
  const response = await fetch("/api/admin/websockets/health", {
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
  });
  const answer = await response.json();
  if (!response.ok) throw new Refusal(answer.error, answer.code, response.status);
  return answer;
}

/**
 * One operator's session. `on` has the functions that it calls: opened(), lost(),
 * refused(error), event(data) and gap(count).
 */
export class Session {
  #token;
  #on;
  #socket = null;
  #requests = new Map(); // id -> {resolve, reject, progress, timer}
  #lastId = 0;
  #wait = FIRST_WAIT;
  #timer = 0;
  #pinging = 0;
  #heard = 0; // when the server last said something, on the clock of `performance.now`
  #ended = false;

  constructor(token, on) {
    this.#token = token;
    this.#on = on;
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/control`, [
      PROTOCOL,
      `bearer.${this.#token}`,
    ]);
    this.#socket = socket;
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = (closed) => this.#lost(socket, closed);
  }

  /** End the session, and do not connect again. */
  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
    clearInterval(this.#pinging);
    this.#socket?.close(1000);
    this.#failAll("signed out");
  }

  /** Send a command; resolves to its result. `progress` is called with each report before it. */
  ask(type, data = {}, progress = null) {
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) {
        reject(new Refusal("There is no connection to the server.", "unavailable"));
        return;
      }
      const id = ++this.#lastId;
      // `drain` and `cleanup` have no time limit here: the server limits them.
      const patient = progress || type === "cleanup";
      const timer = patient
        ? 0
        : setTimeout(() => {
            this.#requests.delete(id);
            reject(new Refusal(`The server did not answer “${type}”.`, "timeout"));
            if (performance.now() - this.#heard >= ANSWER_TIMEOUT) this.#giveUp();
          }, ANSWER_TIMEOUT);
      this.#requests.set(id, { resolve, reject, progress, timer });
      this.#socket.send(JSON.stringify({ type, id, data }));
    });
  }

  #receive(message) {
    this.#heard = performance.now();
    const request = this.#requests.get(message.id);
    switch (message.type) {
      case "welcome":
        this.#wait = FIRST_WAIT;
        clearInterval(this.#pinging);
        this.#pinging = setInterval(() => this.ask("ping").catch(() => {}), PING_INTERVAL);
        this.#on.opened();
        break;
      case "progress":
        request?.progress?.(message.data);
        break;
      case "event":
        this.#on.event({ ...message.data, timestamp: message.timestamp });
        break;
      case "gap":
        this.#on.gap(message.data.dropped);
        break;
      case "error":
        this.#settle(message.id, request, new Refusal(message.error, message.data?.code));
        break;
      default:
        this.#settle(message.id, request, null, message.data);
    }
  }

  #settle(id, request, error, result) {
    if (!request) return;
    clearTimeout(request.timer);
    this.#requests.delete(id);
    if (error) request.reject(error);
    else request.resolve(result);
  }

  #failAll(text) {
    for (const [id, request] of [...this.#requests]) {
      this.#settle(id, request, new Refusal(text, "unavailable"));
    }
  }

  /** Take a connection on which nothing arrives for lost: the browser may not notice. */
  #giveUp() {
    const socket = this.#socket;
    if (!socket) return;
    this.#lost(socket, { code: 1006 });
    socket.close();
  }

  #lost(socket, closed) {
    if (socket !== this.#socket || this.#ended) return;
    this.#socket = null;
    clearInterval(this.#pinging);
    this.#failAll("The connection to the server was lost.");
    if (closed.code === 4004) {
      this.#refuse(new Refusal("The token has expired; sign in with a new one.", "token_expired"));
      return;
    }
    this.#on.lost();
    this.#tryLater();
  }

  #tryLater() {
    const wait = this.#wait * (0.5 + Math.random() / 2); // pages must not come back all at once
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    this.#timer = setTimeout(() => this.#tryAgain(), wait);
  }

  async #tryAgain() {
    try {
      await checkToken(this.#token);
    } catch (error) {
      if (this.#ended) return;
      if (error.status === 401 || error.status === 403) this.#refuse(error);
      else this.#tryLater();
      return;
    }
    if (!this.#ended) this.open();
  }

  #refuse(error) {
    this.end();
    this.#on.refused(error);
  }
}
