// node socketio_page.mjs URL VISITORS: add notes by the page of examples/socketio_notes.
// node socketio_page.mjs URL 1 kill: then kill the replica, and add another note.

import { fileURLToPath } from "node:url";

import { inBrowser, shown } from "./browser.mjs";

const [url, visitors, kill] = process.argv.slice(2);
const client = fileURLToPath(
  new URL("node_modules/socket.io-client/dist/socket.io.min.js", import.meta.url),
);

await inBrowser(Number(visitors), async (page) => {
  await page.route("https://cdn.socket.io/**", (route) => route.fulfill({ path: client }));
  const upgrades = [];
  page.on("websocket", (socket) => upgrades.push(socket));
  const answers = [];

  const add = async (text) => {
    await page.locator("input").fill(text);
    await page.getByRole("button").click();
  };
  const note = async () => {
    const notes = await page.locator("li").allInnerTexts();
    answers.push({ process: Number(await page.locator("#process").innerText()), notes });
  };

  for (const text of ["milk", "bread", "salt"]) {
    const addAnew = async () => {
      // Each time the page begins with a new connection.
      await page.goto(url);
      await add(text);
    };
    if ((await shown(page, addAnew, page.getByText(text))) === null) return { answers };
    while (upgrades.length <= answers.length) await page.waitForEvent("websocket");
    await note();
  }
  if (kill) {
    process.kill(answers[0].process, "SIGKILL");
    await add("pepper");
    await page.getByText("pepper").waitFor();
    await note();
  }
  return { answers };
});
