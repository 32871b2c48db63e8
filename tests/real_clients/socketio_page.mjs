// node socketio_page.mjs URL VISITORS: add notes by the page of examples/socketio_notes.

import { fileURLToPath } from "node:url";

import { inBrowser, shown } from "./browser.mjs";

const [url, visitors] = process.argv.slice(2);
const client = new URL("node_modules/socket.io-client/dist/socket.io.min.js", import.meta.url);
await inBrowser(Number(visitors), async (page) => {
  await page.route("https://cdn.socket.io/**", (route) => route.fulfill({ path: fileURLToPath(client) }));
  const upgrades = [];
  page.on("websocket", (socket) => upgrades.push(new URL(socket.url()).pathname));
  const answers = [];
  for (const text of ["milk", "bread", "salt"]) {
    const add = async () => {
      // Each time the page begins with a new connection.
      await page.goto(url);
      await page.locator("input").fill(text);
      await page.getByRole("button").click();
    };
    if ((await shown(page, add, page.getByText(text))) === null) break;
    const notes = await page.locator("li").allInnerTexts();
    answers.push({ where: await page.locator("#where").innerText(), notes });
  }
  return { answers, upgrades };
});
