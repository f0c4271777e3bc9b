// What people do with the console, in a real browser against a daemon that runs.
//
//   CONSOLE_URL=http://127.0.0.1:8787/console/ node journeys.mjs
//
// PLAYWRIGHT is the folder of `playwright-core`, AXE that of `axe-core`, CHROMIUM the browser; CONSOLE_TOKEN a
// user's token where the daemon has users, CONSOLE_READER that of one who may only read. The daemon has at
// least one topic with facts and one view of it with a time, and the board of `boards.mjs`. Nothing is written but what the page keeps in
// the browser, unless CONSOLE_PROJECT names the daemon's project, to which things are done then: see
// `acting.mjs`. CONSOLE_WALL is the token of one who may see that board alone, and CONSOLE_REVOKE the command, a
// list in JSON, that takes it back. Ends with 1 where something does not hold.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { acting, actingOnNothing, readingAlone } from './acting.mjs';
import { editing, hanging, looking } from './boards.mjs';

const require = createRequire(import.meta.url);
const { chromium } = require(process.env.PLAYWRIGHT ?? 'playwright-core');
const axeSource = readFileSync(join(process.env.AXE ?? join(require.resolve('axe-core'), '..'), 'axe.min.js'), 'utf8');
const BASE = process.env.CONSOLE_URL ?? 'http://127.0.0.1:8787/console/';
const ORIGIN = new URL(BASE).origin;
const TOKEN = process.env.CONSOLE_TOKEN;
const EVIL = '<img src=x onerror=alert(1)>';

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});

let failed = 0;

/** A journey has a browser of its own, and ends clean: no error, no dialog, no request elsewhere. */
async function journey(says, walk, { expected = [], token = TOKEN, ...options } = {}) {
  const context = await browser.newContext({ locale: 'en-US', viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on('console', (message) => {
    const isExpected = expected.some((pattern) => pattern.test(message.text()));
    if (['error', 'warning'].includes(message.type()) && !isExpected) wrong.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
  page.on('dialog', (dialog) => {
    wrong.push(`something ran: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('request', (request) => {
    const isOurs = request.url().startsWith(ORIGIN) || request.url().startsWith('blob:');
    if (!isOurs) wrong.push(`a request leaves the origin: ${request.url()}`);
  });
  // A page that is still empty has no storage.
  const keep = (token) => location.origin !== 'null' && sessionStorage.setItem('anabranch.token', token);
  if (token) await page.addInitScript(keep, token);
  try {
    await walk(page);
    assert.deepEqual(wrong, []);
    console.log(`ok     ${says}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${says}\n       ${String(error.message).split('\n').join('\n       ')}`);
    for (const each of wrong) console.log(`       ${each}`);
    if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, `failed-${failed}.png`) });
  }
  await context.close();
}

const open = async (page, hash, heading) => {
  await page.goto(`${BASE}${hash}`);
  await page.getByRole('heading', { level: 1, name: heading }).waitFor();
};

/** All parts of the page have come, and are of what was chosen last. */
const settled = (page) => page.waitForFunction(
  () => document.querySelector('main h1') && !document.querySelector('main [aria-busy="true"]'),
);

/** Where to sit still: the name of the first view that has a time. */
async function someView(page) {
  await open(page, '#/explore', 'Explore');
  const chosen = page.getByRole('combobox', { name: 'View', exact: true });
  await chosen.waitFor();
  return chosen.inputValue();
}

async function assertAccessible(page, where) {
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const told = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 150)).join(' | ')}`);
  assert.deepEqual(told, [], where);
}

async function run(page, statement) {
  await page.getByLabel('Statement', { exact: true }).last().fill(statement);
  await page.keyboard.press('Control+Enter');
}

for (const colorScheme of ['light', 'dark']) {
  for (const width of [1280, 390]) {
    await journey(`each page is accessible, ${colorScheme}, ${width} px wide`, async (page) => {
      const view = await someView(page);
      await open(page, '#/views', 'Views');
      await page.getByRole('link', { name: view, exact: true }).click();
      const topic = await page.getByText('Made from the topic').getByRole('link').textContent();
      const places = {
        '#/now': 'Now', [`#/explore?view=${encodeURIComponent(view)}&range=all`]: 'Explore', '#/sql': 'SQL', '#/views': 'Views',
        [`#/views/${encodeURIComponent(view)}`]: view, '#/topics': 'Topics', [`#/topics/${encodeURIComponent(topic)}`]: topic,
        '#/boards': 'Boards', '#/jobs': 'Jobs', '#/system': 'System', '#/nowhere': 'There is no such page', '#/views/nothing': 'nothing',
      };
      for (const [hash, heading] of Object.entries(places)) {
        await open(page, hash, heading);
        await settled(page);
        await assertAccessible(page, hash);
        const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1);
        assert.equal(isWide, false, `${hash} is wider than the window`);
      }
    }, { colorScheme, viewport: { width, height: 850 } });
  }
}

await journey('a statement is run, and its values are whole and harmless', async (page) => {
  await open(page, '#/sql', 'SQL');
  await run(page, `SELECT 9223372036854775807 AS big, '${EVIL}' AS "${EVIL}", NULL AS nothing`);
  const grid = page.getByRole('grid');
  await grid.getByText('9223372036854775807').click();
  await page.keyboard.press('ArrowRight');
  await page.getByRole('heading', { level: 3, name: EVIL }).waitFor();
  assert.equal(await page.locator('main img').count(), 0);
  assert.match(await page.getByRole('status').filter({ hasText: 'row' }).textContent(), /1 row in/);
  assert.ok(page.url().includes('q=SELECT'), 'the address has the statement');
  await assertAccessible(page, 'an answer');
});

await journey('an error is shown at its place', async (page) => {
  await open(page, '#/sql', 'SQL');
  await run(page, 'SELECT 1\nFROM no_such_thing');
  const alert = page.getByRole('alert');
  await alert.getByText('no_such_thing').first().waitFor();
  const place = await alert.locator('pre').textContent();
  assert.match(place, /2 \| FROM no_such_thing\n {2}\| {6}\^/);
  await alert.getByRole('button', { name: /Go to line 2/ }).click();
  const cursor = await page.evaluate(() => document.activeElement.selectionStart);
  assert.equal(cursor, 'SELECT 1\nFROM '.length);
  await assertAccessible(page, 'an error');
}, { expected: [/status of 4\d\d/] });

await journey('an answer has a receipt, by which it is computed again', async (page) => {
  const view = await someView(page);
  await open(page, '#/sql', 'SQL');
  await page.getByLabel('With a receipt').check();
  await run(page, `SELECT count(*) AS n, now() AS at FROM "${view}"`);
  await page.getByRole('button', { name: 'Compute it again' }).click();
  await page.getByText('The same answer comes of it now.').waitFor();
  await assertAccessible(page, 'a receipt');
});

await journey('what was written and asked is kept', async (page) => {
  await open(page, '#/sql', 'SQL');
  await run(page, 'SELECT 1 AS one');
  await page.getByText('1 row in').waitFor();
  await page.getByLabel('Statement', { exact: true }).last().fill('SELECT 2 AS two');
  await page.goto(`${BASE}#/now`);
  await page.reload();
  await open(page, '#/sql', 'SQL');
  assert.equal(await page.getByLabel('Statement', { exact: true }).last().inputValue(), 'SELECT 2 AS two');
  await page.getByText('What was asked before (1)').click();
  await page.getByRole('button', { name: 'SELECT 1 AS one' }).click();
  assert.equal(await page.getByLabel('Statement', { exact: true }).last().inputValue(), 'SELECT 1 AS one');
});

await journey('the keyboard alone reaches everything', async (page) => {
  await open(page, '#/now', 'Now');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the page');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.getByRole('link', { name: 'SQL', exact: true }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'SQL' }).waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  const box = page.getByLabel('Statement', { exact: true }).last();
  await box.focus();
  await page.keyboard.type('SELECT 1');
  await page.keyboard.press('Home');
  await page.keyboard.press('Tab');
  assert.equal(await box.inputValue(), '  SELECT 1');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await box.inputValue(), 'SELECT 1');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Run');
});

await journey('times and numbers of an answer are drawn, and told point by point', async (page) => {
  await open(page, '#/sql', 'SQL');
  await run(page, "SELECT * FROM (VALUES (TIMESTAMP '2026-01-01T00:00:00Z', 7), (TIMESTAMP '2026-01-01T00:01:00Z', 9)) AS t(at, n)");
  await page.getByRole('tab', { name: 'Chart' }).click();
  const chart = page.getByRole('slider');
  await chart.locator('canvas').waitFor();
  await chart.focus();
  await page.keyboard.press('Home');
  assert.match(await chart.getAttribute('aria-valuetext'), /00:00: 7 n$/);
  await page.keyboard.press('ArrowRight');
  assert.match(await chart.getAttribute('aria-valuetext'), /01:00: 9 n$/);
  await page.getByText('The same as a table').click();
  const told = page.locator('.chart details tbody tr');
  await told.first().waitFor();
  assert.equal(await told.count(), 2);
  await assertAccessible(page, 'a chart');
});

await journey('a view is explored by clicks, and the address says all of it', async (page) => {
  const view = await someView(page);
  await open(page, `#/explore?view=${encodeURIComponent(view)}&range=all`, 'Explore');
  await settled(page);
  const ranks = page.locator('.rank');
  await ranks.first().waitFor();
  const before = await page.locator('.total strong').textContent();
  await ranks.first().click();
  await page.locator('.filter').waitFor();
  const sent = page.url();
  await page.goto('about:blank');
  await page.goto(sent);
  await page.locator('.filter').waitFor();
  await settled(page);
  assert.equal(await page.locator('.rank[aria-pressed="true"]').count(), 1);
  await page.locator('.filter a').click();
  await page.waitForFunction((text) => document.querySelector('.total strong')?.textContent === text, before);
  await page.locator('.part', { has: page.locator('.total') }).last().getByRole('link', { name: 'SQL' }).click();
  await page.getByRole('heading', { level: 1, name: 'SQL' }).waitFor();
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByText('1 row in').waitFor();
});

/** Answers statements that have a text in them; the daemon answers the others. */
const answerTo = (page, text, rows) => page.route('**/sql', async (route) => {
  if (!route.request().postData().includes(text)) return route.fallback();
  return route.fulfill({ status: 200, contentType: 'application/json', body: JSON.stringify(rows(route.request())) });
});

await journey('a line stands beside the usual, in words and in the table', async (page) => {
  const view = await someView(page);
  const day = 86_400_000;
  const today = Math.floor(Date.now() / day) * day;
  const days = [3, 2, 1];
  const at = (ago, weeks) => new Date(today - (ago + weeks * 7) * day).toISOString();
  await answerTo(page, 'AS at,', (request) => (request.postData().includes('AS until')
    ? [2, 1].flatMap((weeks) => days.map((ago) => ({ at: at(ago, weeks), amount: weeks * 2, until: at(0, 0) })))
    : [...days, 0].map((ago) => ({ at: at(ago, 0), amount: 6 }))));
  await open(page, `#/explore?view=${encodeURIComponent(view)}&range=7d`, 'Explore');
  await page.getByText('100 % above the usual').waitFor();
  await page.getByText('in 2 of the 4 weeks before').waitFor();
  await page.locator('.plot canvas').waitFor();
  const plot = page.getByRole('slider');
  await plot.focus();
  await page.keyboard.press('Home');
  assert.match(await plot.getAttribute('aria-valuetext'), /: 6 \w+, 2 usual from, 4 usual to$/);
  await page.getByText('The same as a table').click();
  const newest = page.locator('.chart details tbody tr').first();
  // The day that has not ended is not compared.
  assert.match(await newest.textContent(), /6––$/);
  await assertAccessible(page, 'a band');
  await page.getByRole('button', { name: 'Beside the usual' }).click();
  await page.getByText('above the usual').waitFor({ state: 'detached' });
  assert.ok(page.url().includes('usual=off'));
});

await journey('facts that come are followed, stand still while they are read, and a wrong condition is told', async (page) => {
  const view = await someView(page);
  await open(page, `#/views/${encodeURIComponent(view)}`, view);
  const topic = await page.getByText('Made from the topic').getByRole('link').textContent();
  let came = 0;
  await answerTo(page, '_came', () => {
    came += 1;
    return came > 1 ? [] : [{ _extra: EVIL, _partition: 0, _offset: 1e6, _ingested_at: new Date().toISOString(), _came: 301 }];
  });
  await open(page, `#/topics/${encodeURIComponent(topic)}?follow=on`, topic);
  const part = page.locator('.part', { has: page.getByRole('heading', { name: 'Newest facts' }) });
  await part.getByText('301 facts came, of which 101 are not shown').waitFor();
  assert.match(await part.locator('tbody tr').first().textContent(), /<img src=x/);
  assert.equal(await page.locator('main img').count(), 0);
  await part.locator('tbody').hover();
  await part.getByText('It pauses.').waitFor();
  await part.getByRole('textbox').fill('no_such_field = 1');
  await page.keyboard.press('Enter');
  await part.getByRole('alert').getByText(/\| no_such_field = 1\n.*\^/).waitFor();
  await part.getByText('Following has stopped.').waitFor();
  assert.ok(page.url().includes('where=no_such_field'));
  await assertAccessible(page, 'a tail');
}, { expected: [/status of 400/] });

await journey('runs stand in their lanes, and lead to their rows by the keyboard', async (page) => {
  const at = (ago) => new Date(Date.now() - ago * 60_000).toISOString();
  const ran = (view, job, outcome, from, to) => ({ view, job, outcome, started_at: at(from), ended_at: at(to), all_runs: 501 });
  await answerTo(page, 'all_runs', () => [ran('days', 'refresh', 'done', 5, 4), ran(EVIL, 'verify', 'failed', 90, 30)]);
  const running = { id: 'x', do: 'rebuild', of: 'days', state: 'running', begun_at: at(9), command: 'anabranch batch rebuild days' };
  const json = (body) => (route) => route.fulfill({ contentType: 'application/json', body: JSON.stringify(body) });
  await page.route('**/operations', json({ operations: [running] }));
  await page.route('**/operations/x', json(running));
  await open(page, '#/jobs?range=4h', 'Jobs');
  const lanes = page.locator('.lanes');
  await lanes.getByRole('link', { name: /^refresh of days: done, .*, took 60 s$/ }).waitFor();
  await page.getByText('1 earlier run is not drawn.').waitFor();
  assert.equal(await lanes.locator('.failed').count(), 1);
  assert.equal(await page.locator('main img').count(), 0);
  await assertAccessible(page, 'lanes');
  await lanes.getByRole('link').first().focus();
  await page.keyboard.press('End');
  assert.match(await lanes.locator(':focus').getAttribute('title'), /^rebuild of days: running, /);
  await page.keyboard.press('Home');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.activeElement.textContent === 'What ran');
  assert.match(page.url(), /range=4h&.*job=verify&.*part=ran/);
});

await journey('a daemon that is gone is told, and its return is seen', async (page) => {
  await open(page, '#/now', 'Now');
  await settled(page);
  const isApi = (url) => !url.pathname.includes('/console/');
  await page.route(isApi, (route) => route.abort());
  await page.getByText('The daemon has not answered since').waitFor();
  await page.locator('.old').first().waitFor();
  await assertAccessible(page, 'no daemon');
  await page.unroute(isApi);
  await page.getByText('The daemon has not answered since').waitFor({ state: 'detached' });
  await page.locator('.old').first().waitFor({ state: 'detached' });
}, { expected: [/ERR_FAILED/] });

await journey('who is not known signs in, for this tab alone, and out', async (page) => {
  const asked = [];
  await page.route((url) => !url.pathname.includes('/console/') && !url.pathname.endsWith('/health'), async (route) => {
    const shown = await route.request().headerValue('authorization');
    asked.push(shown);
    if (shown === 'Bearer right') return route.fulfill({ status: 200, contentType: 'application/json', body: '[]' });
    return route.fulfill({ status: 401, contentType: 'application/json', body: JSON.stringify({ error: 'no such token', kind: 'forbidden' }) });
  });
  await page.goto(`${BASE}#/topics`);
  await page.evaluate(() => sessionStorage.clear());
  await page.reload();
  await page.getByLabel('Token').fill('wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('no such token').waitFor();
  await assertAccessible(page, 'signing in');
  await page.getByLabel('Token').fill('right');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Topics' }).waitFor();
  assert.ok(asked.includes('Bearer right'));
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('right')), false);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { level: 1, name: 'Sign in' }).waitFor();
}, { expected: [/status of 401/] });

await journey('a page that is left asks for nothing more', async (page) => {
  let isHeld = false;
  await page.route('**/sql', () => { isHeld = true; });
  await open(page, '#/jobs', 'Jobs');
  while (!isHeld) await page.waitForTimeout(20);
  const aborted = page.waitForEvent('requestfailed', (request) => request.url().endsWith('/sql'));
  await page.getByRole('link', { name: 'System', exact: true }).click();
  await aborted;
});

await journey('an answer is given as a file', async (page) => {
  await open(page, '#/sql', 'SQL');
  await run(page, "SELECT 'a,b' AS x, 1 AS n");
  await page.getByText('1 row in').waitFor();
  const begun = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Download CSV' }).click();
  const path = await (await begun).path();
  assert.equal(readFileSync(path, 'utf8'), 'x,n\n"a,b",1\n');
});

const tools = { BASE, EVIL, assertAccessible, journey, open, run, settled };
await looking(tools);
if (process.env.CONSOLE_WALL) await hanging(tools, process.env.CONSOLE_WALL, JSON.parse(process.env.CONSOLE_REVOKE));
await actingOnNothing(tools);
if (process.env.CONSOLE_READER) await readingAlone(tools, process.env.CONSOLE_READER);
if (process.env.CONSOLE_PROJECT) await acting(tools, process.env.CONSOLE_PROJECT);
if (process.env.CONSOLE_PROJECT) await editing(tools, process.env.CONSOLE_PROJECT);

await browser.close();
process.exitCode = failed ? 1 : 0;
