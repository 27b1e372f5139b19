// Opens the URL in its arguments with Chromium, runs a script on the page as a person would act,
// waits until another origin has responded, and prints that page. With a file as the last argument
// it takes pictures of the first page there: in light (FILE.light.png) and dark (FILE.dark.png).

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";

const [start, profile, script, picture] = process.argv.slice(2);
const chromium = spawn(
  "chromium",
  [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--window-size=800,900",
    `--user-data-dir=${profile}`,
  ],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);
const deadline = setTimeout(() => fail(new Error("nothing came of it in 40 s")), 40_000);

function fail(error) {
  console.error(error);
  chromium.kill("SIGKILL");
  process.exit(1);
}

// The DevTools protocol over pipes: JSON that ends with a zero byte.
const waiting = new Map();
let count = 0;
let buffer = "";
chromium.stdio[4].setEncoding("utf8").on("data", (text) => {
  const messages = (buffer + text).split("\0");
  buffer = messages.pop();
  for (const message of messages.map(JSON.parse)) {
    const [done, failed] = waiting.get(message.id) ?? [];
    if (message.error) failed?.(new Error(JSON.stringify(message.error)));
    else done?.(message.result);
  }
});

function send(method, params = {}, sessionId) {
  count += 1;
  chromium.stdio[3].write(`${JSON.stringify({ id: count, method, params, sessionId })}\0`);
  return new Promise((done, failed) => waiting.set(count, [done, failed]));
}

const pause = () => new Promise((done) => setTimeout(done, 50));

try {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await page("Runtime.evaluate", {
      expression,
      userGesture: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  };
  /** Returns the document once it is there and `isIt` says so of its origin. */
  const wait = async (isIt) => {
    for (;;) {
      const state = "[location.origin, document.readyState, document.documentElement.outerHTML]";
      // It fails while the page is replaced.
      const [origin, ready, html] = await evaluate(state).catch(() => ["", "", ""]);
      if (ready === "complete" && isIt(origin)) return html;
      await pause();
    }
  };
  const own = new URL(start).origin;
  await page("Page.navigate", { url: start });
  await wait((origin) => origin === own);
  if (picture) {
    for (const value of ["light", "dark"]) {
      const features = [{ name: "prefers-color-scheme", value }];
      await page("Emulation.setEmulatedMedia", { features });
      const { data } = await page("Page.captureScreenshot", { format: "png" });
      writeFileSync(`${picture}.${value}.png`, Buffer.from(data, "base64"));
    }
  }
  await evaluate(`{ ${script} }`);
  const html = await wait((origin) => origin !== own && origin.startsWith("http"));
  console.log(html);
  clearTimeout(deadline);
  await Promise.race([send("Browser.close"), new Promise((done) => setTimeout(done, 2000))]);
  chromium.kill("SIGKILL");
  process.exit(0);
} catch (error) {
  fail(error);
}
