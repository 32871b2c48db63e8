// node streamlit.mjs URL VISITORS: click, look at the pictures, upload files and lose the WebSocket
// in examples/streamlit_notes.
// node streamlit.mjs URL 1 kill: kill the replica after some clicks.

import { inBrowser, shown } from "./browser.mjs";

const [url, visitors, kill] = process.argv.slice(2);

/** Keep the page's WebSockets where `cut` finds them. Runs in the page, before anything else. */
function keepWebSockets() {
  window.kept = [];
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      window.kept.push(this);
    }
  };
}

const cut = () => window.kept.forEach((socket) => socket.close());

await inBrowser(Number(visitors), async (page) => {
  await page.addInitScript(keepWebSockets);
  await page.goto(url);
  const clicked = (count) => page.getByText(`${count} clicks in process`);
  const click = () => page.getByRole("button", { name: "Click" }).click();
  await clicked(0).waitFor();
  await click();
  await clicked(1).waitFor();
  await click();
  const seen = { clicks: await clicked(2).innerText(), sizes: [] };

  const clickOverNext = async (lose) => {
    const again = page.waitForEvent("websocket");
    await lose();
    await again;
    await click();
  };
  if (kill) {
    const replica = Number(seen.clicks.split(" ").at(-1));
    await clickOverNext(() => process.kill(replica, "SIGKILL"));
    return { ...seen, clicksAfterKill: await clicked(1).innerText() };
  }

  const pictures = page.locator("img");
  await pictures.nth(3).waitFor({ state: "attached" });
  await page.waitForFunction(() => [...document.images].every((image) => image.complete));
  seen.pictures = await pictures.evaluateAll(
    (images) => images.filter((image) => image.naturalWidth > 0).length,
  );

  for (const name of ["a.txt", "b.txt", "c.txt"]) {
    const file = { name, mimeType: "text/plain", buffer: Buffer.alloc(300_000) };
    const upload = () => page.locator("input[type=file]").setInputFiles(file);
    seen.sizes.push(await shown(page, upload, page.getByText(`${name} has`)));
    if (seen.sizes.at(-1) === null) return seen;
  }

  await clickOverNext(() => page.evaluate(cut));
  seen.clicksAfterCut = await clicked(3).innerText();

  await page.getByText("A large table").click();
  await page.getByTestId("stDataFrame").waitFor();
  return seen;
});
