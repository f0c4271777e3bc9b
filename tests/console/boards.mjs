// What people do with boards.
//
// The daemon's project has the board `desk`, which is `desk.toml` here, over the view `days` of the topic `facts`.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const LOOKS = [
  { colorScheme: 'light', width: 1280 }, { colorScheme: 'dark', width: 1280 },
  { colorScheme: 'light', width: 390 }, { colorScheme: 'dark', width: 390 },
];

const REFUSED = [/status of 4\d\d/];

const panel = (page, name) => page.getByRole('region', { name, exact: true });

async function assertFits(page, where) {
  const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1);
  assert.equal(isWide, false, `${where} is wider than the window`);
}

/** Paths of the daemon that a page asks for. */
function asked(page) {
  const paths = [];
  page.on('request', (request) => {
    const { pathname } = new URL(request.url());
    if (!pathname.startsWith('/console/')) paths.push(pathname);
  });
  return paths;
}

/** What somebody sees who may read all. */
export async function looking({ BASE, EVIL, assertAccessible, journey, open, settled }) {
  for (const { width, colorScheme } of LOOKS) {
    await journey(`a board shows each form, and what is wrong in its place, ${colorScheme}, ${width} px wide`, async (page) => {
      await open(page, '#/boards', 'Boards');
      await settled(page);
      await assertAccessible(page, 'the list of boards');
      await assertFits(page, 'the list of boards');
      await page.getByRole('link', { name: `Desk ${EVIL}` }).click();
      await page.getByRole('heading', { level: 1, name: `Desk ${EVIL}` }).waitFor();
      await page.locator('.figure').waitFor();
      await page.locator('.plot canvas').waitFor();
      await settled(page);
      assert.match(await panel(page, 'Facts so far').locator('.figure').textContent(), /^1\s00\d facts$/);
      assert.equal(await panel(page, 'Facts so far').locator('.figure-second').textContent(), 'words 7');
      assert.match(await panel(page, 'Facts so far').locator('.age').textContent(), / ago, every \d/);
      const wrong = panel(page, 'Asks for what is not there');
      await wrong.getByText('no_such_thing').first().waitFor();
      await panel(page, 'Names what is not there').getByText('the answer has no column').waitFor();
      const ranks = panel(page, EVIL).locator('.rank');
      assert.match(await ranks.nth(0).textContent(), /<img src=x onerror=alert\(1\)>.*<i>more<\/i>/s);
      assert.match(await ranks.nth(0).locator('.rank-amount').textContent(), /^9\s223\s372\s036\s854\s775\s807$/);
      assert.match(await ranks.nth(1).locator('.rank-bar').getAttribute('style'), /width: 50%/);
      const rows = await panel(page, 'Against the usual').locator('tbody tr').allTextContents();
      const said = rows.map((row) => row.replace(/\s+/g, ' ').trim());
      assert.deepEqual(said, ['up1510▲ 50 % more', 'down510▼ 50 % less', 'even1010= the same', 'new.example.org3–nothing usual']);
      await panel(page, 'Rows').getByText('9\u202f223').or(panel(page, 'Rows').getByText('9223372036854775807')).waitFor();
      assert.equal(await page.locator('main img').count(), 0);
      await assertAccessible(page, 'a board');
      await assertFits(page, 'a board');
      const widths = await page.locator('.panel').evaluateAll((all) => all.map((each) => Math.round(each.getBoundingClientRect().width)));
      if (width === 390) assert.equal(new Set(widths).size, 1, 'panels stand in one column');
      else assert.ok(widths[3] > widths[0], 'a wide panel takes the whole width');
      await page.goto(`${BASE}#/boards/desk?wall`);
      await page.locator('.figure').waitFor();
      await page.locator('.plot canvas').waitFor();
      await settled(page);
      assert.equal(await page.getByRole('navigation').count(), 0);
      await assertAccessible(page, 'a wall');
      await assertFits(page, 'a wall');
    }, { colorScheme, viewport: { width, height: 850 }, expected: REFUSED });
  }

  await journey('a board is used by the keyboard alone, and leads to its SQL', async (page) => {
    await open(page, '#/boards', 'Boards');
    await page.getByRole('link', { name: `Desk ${EVIL}` }).focus();
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.tagName === 'H1');
    const plot = page.getByRole('slider');
    await plot.locator('canvas').waitFor();
    await plot.focus();
    await page.keyboard.press('Home');
    assert.match(await plot.getAttribute('aria-valuetext'), /00:00: 7 n, 1 m$/);
    await page.getByText('The same as a table').press('Enter');
    await page.locator('.chart details tbody tr').first().waitFor();
    assert.equal(await page.locator('.chart details tbody tr').count(), 3);
    await page.getByRole('link', { name: 'Show on a wall' }).press('Enter');
    await page.getByRole('navigation').waitFor({ state: 'detached' });
    await page.keyboard.press('Escape');
    await page.getByRole('navigation').waitFor();
    await page.getByRole('link', { name: 'SQL of Facts so far' }).press('Enter');
    await page.getByRole('heading', { level: 1, name: 'SQL' }).waitFor();
    await page.getByRole('button', { name: 'Run' }).press('Enter');
    await page.getByText('1 row in').waitFor();
  }, { expected: REFUSED });

  await journey('a board asks again while it is seen, and says once that the daemon is gone', async (page) => {
    const paths = asked(page);
    // As on a machine that is at rest, so that it is known how soon it asks.
    await page.route(/\/boards\/desk\/\d$/, async (route) => {
      const response = await route.fetch();
      const body = (await response.text()).replace(/"every_seconds":[\d.]+/, '"every_seconds":1.0');
      await route.fulfill({ response, body });
    });
    await open(page, '#/boards/desk?wall', `Desk ${EVIL}`);
    await page.locator('.figure').waitFor();
    const first = () => paths.filter((path) => path === '/boards/desk/0').length;
    const before = first();
    await page.waitForRequest((request) => request.url().endsWith('/boards/desk/0'));
    assert.ok(first() > before);
    assert.deepEqual(paths.filter((path) => !/^\/(whoami|boards\/desk(\/\d)?)$/.test(path)), [], 'a wall asks for nothing else');
    await page.evaluate(() => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
    });
    await page.waitForTimeout(2_500);
    const hidden = first();
    await page.waitForTimeout(3_000);
    assert.equal(first(), hidden, 'nobody looks');
    await page.evaluate(() => {
      delete document.hidden;
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await page.waitForRequest((request) => request.url().endsWith('/boards/desk/0'));
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    const isApi = (url) => !url.pathname.includes('/console/');
    await page.route(isApi, (route) => route.abort());
    await page.getByText('The daemon has not answered since').waitFor();
    await page.locator('.panel .old').first().waitFor();
    assert.equal(await page.getByText('does not answer').count(), 0, 'it is said once');
    await assertAccessible(page, 'a wall without a daemon');
    await page.unroute(isApi);
    await page.getByText('The daemon has not answered since').waitFor({ state: 'detached' });
    await page.locator('.panel .old').first().waitFor({ state: 'detached' });
  }, { expected: [...REFUSED, /ERR_FAILED/] });
}

/** What is done to the project while somebody looks. */
export async function editing({ BASE, EVIL, assertAccessible, journey, open, settled }, project) {
  const folder = join(project, 'boards');
  const file = join(folder, 'desk.toml');
  const asItWas = readFileSync(file, 'utf8');
  const origin = new URL(BASE).origin;

  await journey('a new fact moves a number', async (page) => {
    await open(page, '#/boards/desk', `Desk ${EVIL}`);
    const figure = panel(page, 'Facts so far').locator('.figure strong');
    await figure.waitFor();
    const before = Number((await figure.textContent()).replace(/\D/g, ''));
    const fact = '{"ts":"2026-01-01T00:00:00Z","id":500000,"word":"w1"}\n';
    const sent = await fetch(`${origin}/topics/facts`, { method: 'POST', body: fact });
    assert.equal(sent.status, 200);
    await page.waitForFunction(
      (least) => Number(document.querySelector('.figure strong').textContent.replace(/\D/g, '')) === least, before + 1,
    );
  }, { expected: REFUSED });

  await journey('an edit of the file is seen, also a wrong one', async (page) => {
    await open(page, '#/boards/desk', `Desk ${EVIL}`);
    await page.locator('.figure').waitFor();
    writeFileSync(file, asItWas.replace('"Facts so far"', '"Facts now"').replace('FROM no_such_thing', 'AS one'));
    await panel(page, 'Facts now').locator('.figure').waitFor();
    await panel(page, 'Asks for what is not there').getByRole('cell', { name: '1', exact: true }).waitFor();
    writeFileSync(file, 'titel = "x"');
    await page.getByText('unknown field').first().waitFor();
    await page.waitForFunction(() => document.body.textContent.split('unknown field').length === 2);
    await page.getByText('What is shown is from before').waitFor();
    assert.ok(await page.locator('.figure').count() > 0, 'what was there stays');
    await assertAccessible(page, 'a board whose file is wrong');
    await open(page, '#/boards', 'Boards');
    await page.getByText('unknown field').waitFor();
    await assertAccessible(page, 'a list with a wrong file');
    writeFileSync(file, asItWas);
    await page.getByRole('link', { name: `Desk ${EVIL}` }).waitFor();
    await open(page, '#/boards/dsk', 'dsk');
    await page.getByText('did you mean').waitFor();
  }, { expected: REFUSED });
  writeFileSync(file, asItWas);

  await journey('without boards it is said how one is written', async (page) => {
    const away = join(project, 'boards-away');
    renameSync(folder, away);
    try {
      await open(page, '#/boards', 'Boards');
      await page.getByText('No boards yet').waitFor();
      await page.getByText('[[panels]]').waitFor();
      await settled(page);
      await assertAccessible(page, 'no boards');
    } finally {
      renameSync(away, folder);
    }
    await page.getByRole('link', { name: `Desk ${EVIL}` }).waitFor();
  });
}

/** A wall by its link: it sees its board and nothing else, until `revoke`, which is a command, is run. */
export async function hanging({ BASE, EVIL, assertAccessible, journey, settled }, token, revoke) {
  const link = `${BASE}#/boards/desk?wall&token=${token}`;
  const heading = (page, name) => page.getByRole('heading', { level: 1, name }).waitFor();

  await journey('a link shows a wall, and its token does not stay in the address', async (page) => {
    const paths = asked(page);
    await page.goto(link);
    await heading(page, `Desk ${EVIL}`);
    await page.locator('.figure').waitFor();
    assert.ok(!page.url().includes(token), page.url());
    await page.reload();
    await heading(page, `Desk ${EVIL}`);
    await page.waitForRequest((request) => request.url().endsWith('/boards/desk/0'));
    assert.deepEqual(paths.filter((path) => !/^\/(whoami|boards\/desk(\/\d)?)$/.test(path)), [], 'a wall asks for nothing else');
    assert.equal(await page.evaluate((text) => JSON.stringify(localStorage).includes(text), token), false);
    await page.goto(BASE);
    await heading(page, 'Boards');
    await page.getByRole('link', { name: `Desk ${EVIL}` }).click();
    await page.locator('.figure').waitFor();
    assert.deepEqual(await page.getByRole('navigation').getByRole('link').allTextContents().then((all) => all.map((t) => t.trim())), ['Boards']);
    assert.equal(await page.getByRole('link', { name: /^SQL/ }).count(), 0, 'not even its SQL');
    await settled(page);
    await assertAccessible(page, 'boards alone');
  }, { token: null, expected: REFUSED });

  await journey('a link that was taken back says so', async (page) => {
    await page.goto(link);
    await page.locator('.figure').waitFor();
    const [program, ...rest] = revoke;
    execFileSync(program, rest);
    await heading(page, 'This link was taken back');
    await assertAccessible(page, 'a link that was taken back');
    await page.goto('about:blank');
    await page.goto(link);
    await heading(page, 'This link was taken back');
    assert.ok(!page.url().includes(token), page.url());
    await page.getByRole('link', { name: 'sign in' }).click();
    await heading(page, 'Sign in');
  }, { token: null, expected: REFUSED });
}
