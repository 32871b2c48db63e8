// node gradio.mjs URL VISITORS: add notes and upload a file in examples/gradio_notes.

import { inBrowser, shown } from "./browser.mjs";

const [url, visitors] = process.argv.slice(2);
await inBrowser(Number(visitors), async (page) => {
  await page.goto(url);
  const answers = [];
  for (const count of [1, 2, 3, 4]) {
    const add = async () => {
      await page.getByLabel("A note").fill(`note ${count}`);
      await page.getByRole("button", { name: "Add" }).click();
    };
    answers.push(await shown(page, add, page.getByText(`${count} notes in process`)));
    if (answers.at(-1) === null) return { answers };
  }
  const file = { name: "a.txt", mimeType: "text/plain", buffer: Buffer.alloc(300_000) };
  const upload = () => page.locator("input[type=file]").setInputFiles(file);
  return { answers, size: await shown(page, upload, page.getByText("a.txt has")) };
});
