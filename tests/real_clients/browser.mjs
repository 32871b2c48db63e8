// A headless Chromium for one visit. CHROMIUM says which program it is.

import { chromium } from "playwright-core";

// Where requests that are no part of the visit go: fonts, icons, statistics.
const ELSEWHERE = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"];

/** What went wrong with a request of the page, or null: a refusal, or an end before its time. */
function trouble(request, response) {
  const { hostname, pathname } = new URL(request.url());
  if (hostname !== "127.0.0.1") return null;
  const failure = request.failure()?.errorText;
  // That is how it is when the page itself ends a request.
  if (failure === "net::ERR_ABORTED") return null;
  if (failure !== undefined) return `${failure} ${pathname}`;
  return response?.status() >= 400 ? `${response.status()} ${pathname}` : null;
}

/**
 * Let visitors with a jar of cookies each do `visit(page)`, one after the other in a fresh browser.
 * Print what they return as a list in JSON, each with all `troubles`.
 */
export async function inBrowser(visitors, visit) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [...ELSEWHERE, "--no-sandbox"],
  });
  const visits = [];
  try {
    for (let number = 0; number < visitors; number++) {
      const page = await browser.newPage();
      page.setDefaultTimeout(30_000);
      page.troubles = [];
      const note = (request, response) => {
        const what = trouble(request, response);
        if (what !== null) {
          page.troubles.push(what);
          page.emit("trouble");
        }
      };
      page.on("response", (response) => note(response.request(), response));
      page.on("requestfailed", (request) => note(request));
      visits.push({ ...(await visit(page)), troubles: page.troubles });
      await page.close();
    }
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(visits));
}

/** Do something and wait for what it shows: its text, or null if a request goes wrong meanwhile. */
export async function shown(page, action, locator) {
  const wrong = new Promise((resolve) => page.once("trouble", () => resolve(null)));
  await action();
  const text = locator.waitFor().then(() => locator.innerText());
  return Promise.race([text, wrong]);
}
