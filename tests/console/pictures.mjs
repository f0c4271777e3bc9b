// Pictures of the console for the documents, of a daemon of `anabranch init --example newsroom` with facts.
//
//   CONSOLE_URL=http://127.0.0.1:8787/console/ node pictures.mjs FOLDER
//
// PLAYWRIGHT is the folder of `playwright-core`, CHROMIUM the browser. Each page is written as it stands then.

import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(import.meta.url);
const { chromium } = require(process.env.PLAYWRIGHT ?? 'playwright-core');
const BASE = process.env.CONSOLE_URL ?? 'http://127.0.0.1:8787/console/';
const FOLDER = process.argv[2] ?? '.';

const SQL = 'SELECT section, sum(page_views) AS page_views, combine(visitors) AS visitors\nFROM section_hours GROUP BY section ORDER BY page_views DESC';
const PAGES = [
  ['now', '#/now'],
  ['explore', '#/explore?view=post_minutes&range=1d'],
  ['sql', `#/sql?q=${encodeURIComponent(SQL)}`],
  ['boards', '#/boards/newsroom'],
  ['views', '#/views'],
  ['topics', '#/topics/events'],
  ['jobs', '#/jobs'],
  ['system', '#/system'],
];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});
for (const [name, hash] of PAGES) {
  const page = await browser.newPage({ locale: 'en-US', viewport: { width: 1280, height: 900 } });
  await page.goto(`${BASE}${hash}`);
  await page.locator('main h1').waitFor();
  if (name === 'sql') await page.getByRole('button', { name: 'Run', exact: false }).first().click();
  await page.waitForFunction(() => !document.querySelector('main [aria-busy="true"]'));
  await page.waitForTimeout(1_500);
  await page.screenshot({ path: join(FOLDER, `${name}.png`) });
  await page.close();
}
await browser.close();
