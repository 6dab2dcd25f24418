// Scenarios in which Chromium uses the dashboard: `node dashboard.js NAME < options.json`.
// Each prints what it saw, as JSON; the test checks that.

const fs = require("node:fs");
const { chromium } = require("playwright-core");

const options = JSON.parse(fs.readFileSync(0, "utf8"));
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const DESKTOP = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };

/** Open the dashboard, noting whatever it complains about. */
async function dashboard(context, seen) {
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.on("pageerror", (error) => seen.complaints.push(error.message));
  page.on("console", (line) => line.type() === "error" && seen.complaints.push(line.text()));
  page.on("request", (request) => seen.asked.add(new URL(request.url()).origin));
  await page.goto(`${options.url}/dashboard`);
  return page;
}

async function signIn(page, token = options.admin) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

/** Connect a client to the server, in a page of its own; returns what it does and gets. */
async function client(context, topics) {
  const page = await context.newPage();
  await page.evaluate(
    ([address, token, wanted]) =>
      new Promise((resolve, reject) => {
        window.got = [];
        window.ended = null;
        const socket = new WebSocket(address, ["moorage.v1", `bearer.${token}`]);
        socket.onopen = () => {
          socket.send(JSON.stringify({ type: "subscribe", id: 1, data: { topics: wanted } }));
        };
        socket.onmessage = ({ data }) => {
          const message = JSON.parse(data);
          window.got.push(message);
          if (message.type === "subscribed") resolve();
        };
        socket.onclose = ({ code, reason }) => {
          window.ended = { code, reason };
          reject(new Error(`closed with ${code}`));
        };
      }),
    [options.address, options.user, topics],
  );
  return page;
}

/** Wait for something at a client. Its page is in the background, where no frames are drawn. */
function heard(peer, condition) {
  return peer.waitForFunction(condition, null, { polling: 50, timeout: 10_000 });
}

const SCENARIOS = {
  async refused(context, seen) {
    const page = await dashboard(context, seen);
    seen.errors = [];
    for (const token of ["nonsense", "not a token", options.expired, options.user]) {
      await signIn(page, token);
      const alert = page.locator("#sign-in-error:not(:empty)");
      await alert.waitFor();
      seen.errors.push(await alert.textContent());
      seen.focused = await page.evaluate(() => document.activeElement.id);
      seen.board = await page.locator("#board").isVisible();
      seen.kept = await page.evaluate(() => sessionStorage.length + localStorage.length);
    }
  },

  async signIn(context, seen) {
    const page = await dashboard(context, seen);
    await signIn(page);
    await page.locator("#board").waitFor();
    await page.locator("#state[data-state=ready]").waitFor();
    seen.kept = await page.evaluate(() => [sessionStorage.length, localStorage.length]);
    seen.cookies = (await context.cookies()).length;
    await page.reload();
    await page.locator("#board").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Token").waitFor();
    seen.afterwards = await page.evaluate(() => sessionStorage.length);
    seen.field = await page.getByLabel("Token").inputValue();
  },

  async live(context, seen) {
    const page = await dashboard(context, seen);
    await signIn(page);
    await page.getByText("Nobody is connected.").waitFor();
    const peer = await client(context, ["news"]);
    const row = page.locator("#connections tbody tr", { hasText: "alice" });
    await row.waitFor();
    seen.row = await row.innerText();
    await page.locator("#topics tbody tr", { hasText: "news" }).waitFor();
    await page.locator("#events li", { hasText: "connected" }).first().waitFor();
    await page.locator("#numbers dd", { hasText: /^1$/ }).first().waitFor();

    await page.getByLabel("Topic", { exact: true }).last().fill("news");
    await page.getByLabel("Message type").fill("headline");
    await page.getByLabel("Data, as JSON").fill("{oops");
    await page.getByRole("button", { name: "Send" }).click();
    await page.locator("#broadcast-error:not(:empty)").waitFor();
    seen.wrong = await page.locator("#broadcast-error").textContent();
    await page.getByLabel("Data, as JSON").fill('{"markup": "<b>"}');
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByText("Sent to 1 connection.").waitFor();
    await heard(peer, () => window.got.some((message) => message.type === "headline"));
    seen.broadcast = await peer.evaluate(() => window.got.find((m) => m.type === "headline"));

    await page.getByLabel("User, id or address").fill("nobody");
    await page.getByText("No connection matches.").waitFor();
    await page.getByLabel("User, id or address").fill("ALI");
    await page.getByRole("button", { name: /^Open connection .* of alice$/ }).press("Enter");
    const detail = page.getByRole("dialog", { name: "Connection" });
    await detail.waitFor();
    seen.detail = await detail.innerText();
    seen.inside = await page.evaluate(() => document.activeElement.closest("dialog")?.id);
    await detail.getByLabel("Reason").fill("please rest");
    await detail.getByRole("button", { name: "Disconnect" }).click();
    await heard(peer, () => window.ended);
    seen.closed = await peer.evaluate(() => window.ended);
    await row.waitFor({ state: "detached" });
    await page.getByText(/^Disconnected /).waitFor();
  },

  async steer(context, seen) {
    const page = await dashboard(context, seen);
    await signIn(page);
    await page.getByRole("button", { name: "Suspend…" }).click();
    const confirm = page.getByRole("dialog");
    seen.focused = await page.evaluate(() => document.activeElement.textContent);
    await page.keyboard.press("Escape");
    await confirm.waitFor({ state: "hidden" });
    seen.afterEscape = await page.locator("#state").textContent();
    await page.getByRole("button", { name: "Suspend…" }).click();
    await confirm.getByRole("button", { name: "Suspend" }).click();
    await page.locator("#state", { hasText: "Suspended" }).waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator("#state", { hasText: "Ready" }).waitFor();
    const peer = await client(context, ["news"]);
    await page.getByRole("button", { name: "Drain…" }).click();
    await confirm.getByLabel("Seconds").fill("5");
    await confirm.getByRole("button", { name: "Drain" }).click();
    await heard(peer, () => window.ended);
    seen.closed = await peer.evaluate(() => window.ended.code);
    await page.getByText("Drained: everyone has left.").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator("#state", { hasText: "Ready" }).waitFor();
  },

  /** The server stops, goes on, and dies. */
  async gone(context, seen) {
    const page = await dashboard(context, seen);
    await signIn(page);
    await page.locator("#state[data-state=ready]").waitFor();
    await page.getByText("Nobody is connected.").waitFor();
    const look = () =>
      page.evaluate(() => ({
        state: document.querySelector("#state").textContent,
        since: document.querySelector("#since").textContent,
        server: document.querySelector("#server-state").textContent,
        faint: Number(getComputedStyle(document.querySelector("#numbers")).opacity) < 1,
        enabled: [...document.querySelectorAll("#board button, #disconnect button, #confirm-yes")]
          .filter((node) => !node.disabled && node.id !== "events-pause")
          .map((node) => node.textContent),
      }));
    const stale = page.locator("#board[data-stale]");
    const told = async (signal) => {
      process.kill(options.pid, signal);
      const began = Date.now();
      await stale.waitFor();
      return (Date.now() - began) / 1000;
    };
    seen.fresh = await look();
    seen.silentAfter = await told("SIGSTOP");
    seen.silent = await look();
    process.kill(options.pid, "SIGCONT");
    await stale.waitFor({ state: "detached" });
    seen.again = await look();
    seen.deadAfter = await told("SIGKILL");
    seen.dead = await look();
    seen.complaints = []; // the browser's own, about the connection
  },

  async phone(context, seen) {
    const page = await dashboard(context, seen);
    const widths = () => page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    seen.widths = [await widths()];
    await signIn(page);
    await client(context, ["a-topic-with-a-name-that-is-longer-than-a-phone-is-wide.and.more"]);
    await page.locator("#connections tbody tr").waitFor();
    await page.locator("#topics tbody tr").waitFor();
    seen.widths.push(await widths());
    await page.locator("#connections tbody button").click();
    await page.locator("#detail").waitFor();
    seen.widths.push(await widths());
  },

  async outline(context, seen) {
    const page = await dashboard(context, seen);
    seen.first = await page.evaluate(() => document.querySelector("a, button, input").textContent);
    await signIn(page);
    await page.locator("#board").waitFor();
    seen.snapshot = await page.locator("body").ariaSnapshot();
    seen.unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("input, select, textarea, button, progress")]
        .filter((node) => !node.labels?.length && !node.textContent.trim() && !node.ariaLabel)
        .map((node) => node.id),
    );
  },
};

async function main() {
  const name = process.argv[2];
  const profile = options.profile;
  const seen = { complaints: [], asked: new Set() };
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: options.browser,
    args: FLAGS,
    ...(name === "phone" ? PHONE : DESKTOP),
  });
  try {
    await SCENARIOS[name](context, seen);
  } finally {
    await context.close();
  }
  console.log(JSON.stringify({ ...seen, asked: [...seen.asked] }));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
