// What people do to a project with the console's buttons.
//
// The project has a view `words` of the topic `facts`, whose SQL is in `words.sql` and whose gate lets no key
// be lost; among its words is `w1`. Of the topic's dead letters one has the id `17x`, which is meant to be
// 100017. The project is left as it was but for that fact.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const LOOKS = [
  { colorScheme: 'light', width: 1280 }, { colorScheme: 'dark', width: 1280 },
  { colorScheme: 'light', width: 390 }, { colorScheme: 'dark', width: 390 },
];

const changes = (page) => page.getByRole('region', { name: 'Changes' });
const shownOperation = (page) => page.locator('.operation');

/** Presses a button that asks, and waits until it shows its command. */
async function press(page, name) {
  await page.getByRole('button', { name, exact: typeof name === 'string' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText(/^anabranch /).waitFor();
  return dialog;
}

const doIt = (dialog) => dialog.getByRole('button', { name: 'Do it' }).click();

const assertFits = async (page, where) => {
  const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1);
  assert.equal(isWide, false, `${where} is wider than the window`);
};

const json = (route, body, status = 200) => route.fulfill({ status, contentType: 'application/json', body: JSON.stringify(body) });

/** What is shown of answers that no daemon need give. */
export async function actingOnNothing({ EVIL, assertAccessible, journey, open, settled }) {
  const operation = {
    id: 'evil', do: 'apply', of: EVIL, command: `anabranch apply 3f --message '${EVIL}'`, by: EVIL,
    begun_at: new Date().toISOString(), ended_at: null, state: 'running', progress: { done: 5000, total: 200_000_000 },
    said: `${EVIL}\n  of all`, result: null, error: null,
  };
  for (const { width, colorScheme } of LOOKS) {
    await journey(`an operation that runs is seen and stopped, ${colorScheme}, ${width} px wide`, async (page) => {
      let state = operation;
      await page.route('**/whoami', (route) => json(route, { user: EVIL, rights: ['admin'], operates: true }));
      await page.route('**/operations', (route) => json(route, { operations: [{ ...state, said: undefined }] }));
      await page.route('**/operations/evil', (route) => {
        if (route.request().method() === 'DELETE') {
          const error = { error: `stopped by ${EVIL}`, kind: 'conflict' };
          state = { ...operation, state: 'stopped', ended_at: new Date().toISOString(), progress: null, error };
        }
        return json(route, state);
      });
      await open(page, '#/jobs?op=evil', 'Jobs');
      const bar = page.getByRole('progressbar');
      await bar.waitFor();
      assert.match(await bar.getAttribute('aria-valuetext'), /^5\s000 of 200\s000\s000 facts$/);
      assert.equal(await page.locator('.operation pre').textContent(), `${EVIL}\n  of all`);
      await page.getByText('a second').waitFor();
      await settled(page);
      await assertAccessible(page, 'an operation that runs');
      await assertFits(page, 'an operation that runs');
      await page.getByRole('button', { name: 'Stop it' }).click();
      await page.getByText('Stopped. What was built stays').waitFor();
      await page.getByText(`stopped by ${EVIL}`).waitFor();
      assert.equal(await page.locator('main img').count(), 0);
      await bar.waitFor({ state: 'detached' });
    }, { colorScheme, viewport: { width, height: 850 } });
  }
  await journey('a daemon that does not tell who asks offers nothing that acts', async (page) => {
    const asked = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.route('**/whoami', (route) => json(route, { error: 'there is no such page', kind: 'not_found' }, 404));
    await assertOffersNothing(page, open, settled);
    assert.ok(!asked.some((path) => /\/(plan|operations)$/.test(path)), 'what it may not know is not asked for');
  }, { expected: [/status of 404/] });
}

async function assertOffersNothing(page, open, settled) {
  for (const [hash, heading] of [['#/now', 'Now'], ['#/views', 'Views'], ['#/views/words', 'words'], ['#/topics/facts', 'facts'], ['#/jobs', 'Jobs']]) {
    await open(page, hash, heading);
    await settled(page);
    assert.equal(await page.locator('[aria-haspopup="dialog"], input[type="checkbox"]').count(), 0, hash);
    assert.equal(await page.getByRole('region', { name: /^(Changes|Actions|Operations)$/ }).count(), 0, hash);
  }
}

/** Whoever may only read is offered nothing else, and refused where they try. */
export async function readingAlone({ BASE, assertAccessible, journey, open, settled }, token) {
  await journey('who may only read is offered nothing that acts', async (page) => {
    await assertOffersNothing(page, open, settled);
    await page.locator('.who').waitFor();
    await assertAccessible(page, 'reading alone');
    const refused = await page.evaluate(async ([at, bearer]) => {
      const headers = { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' };
      const body = JSON.stringify({ do: 'refresh', view: 'words' });
      return (await fetch(new URL('../operations', at), { method: 'POST', headers, body })).status;
    }, [BASE, token]);
    assert.equal(refused, 403);
  }, { token, expected: [/status of 403/] });
}

export async function acting(tools, project) {
  const { BASE, EVIL, assertAccessible, journey, open, run, settled } = tools;
  const file = join(project, 'words.sql');
  const asItWas = readFileSync(file, 'utf8');
  const write = (condition) => writeFileSync(file, asItWas.replace(' GROUP BY', `${condition} GROUP BY`));

  await journey('an edited view is built and compared, and its gate stops it', async (page) => {
    await open(page, '#/views', 'Views');
    await changes(page).getByText('Nothing to do').waitFor();
    write(" WHERE word <> 'w1'");
    await changes(page).getByRole('button', { name: 'Look again' }).click();
    await changes(page).getByRole('heading', { name: 'view words' }).waitFor();
    assert.match(await page.locator('.line-new').textContent(), /^\+SELECT .*WHERE word <> 'w1'/);
    assert.match(await page.locator('.line-lost').textContent(), /^-SELECT /);
    const dialog = await press(page, 'Build and compare');
    assert.match(await dialog.locator('pre').textContent(), /^anabranch apply [0-9a-f]+ --yes --no-cut-over$/);
    await doIt(dialog);
    await page.getByText('A gate is broken. What answers has not changed').waitFor();
    await page.locator('dialog').waitFor({ state: 'detached' });
    await page.waitForFunction(() => document.activeElement.tagName === 'H3');
    await shownOperation(page).getByText(/The gate of words is broken: keys_lost allows 0/).waitFor();
    await shownOperation(page).getByRole('table', { name: 'Columns' }).waitFor();
    await shownOperation(page).getByRole('cell', { name: 'w1' }).first().waitFor();
    await changes(page).getByText('Its gate was broken when it was compared').waitFor();
    const sent = page.url();
    assert.match(sent, /op=/);
    await page.goto('about:blank');
    await page.goto(sent);
    await page.getByText('A gate is broken. What answers has not changed').waitFor();
  });

  await journey('what waits for a button is on the first page, with the way to it', async (page) => {
    await open(page, '#/now', 'Now');
    await page.getByText('a gate keeps its candidate from answering').waitFor();
    await page.getByRole('link', { name: 'Try a fix: topic facts' }).waitFor();
    await settled(page);
    await assertAccessible(page, 'what waits');
    await page.getByRole('link', { name: 'See its changes: view words' }).click();
    await page.waitForFunction(() => document.activeElement.textContent === 'Changes');
    await page.getByRole('button', { name: 'Build and compare again' }).waitFor();
  });

  let compared = null;
  await journey('a candidate is compared with what answers', async (page) => {
    await open(page, '#/views/words', 'words');
    const dialog = await press(page, 'Compare with the candidate');
    await doIt(dialog);
    await page.getByText('They differ.').waitFor();
    await page.getByRole('table', { name: 'Where it differs more than elsewhere' }).getByText('w1').waitFor();
    const lost = page.getByRole('table', { name: 'Some rows that were lost' });
    await lost.getByRole('columnheader', { name: 'word' }).waitFor();
    compared = new URL(page.url()).hash;
  });

  for (const { colorScheme, width } of LOOKS) {
    await journey(`what acts is accessible, ${colorScheme}, ${width} px wide`, async (page) => {
      const look = async (hash, heading, where) => {
        await open(page, hash, heading);
        await settled(page);
        await assertAccessible(page, where);
        await assertFits(page, where);
      };
      await look('#/views', 'Views', 'changes');
      const dialog = await press(page, 'Apply');
      await assertAccessible(page, 'a dialog');
      await assertFits(page, 'a dialog');
      await dialog.getByRole('button', { name: 'Leave it' }).click();
      await look(compared, 'words', 'a difference');
      await look(compared.replace('#/views/words', '#/jobs'), 'Jobs', 'operations');
      await look('#/topics/facts', 'facts', 'dead letters');
      await page.getByRole('checkbox', { name: /^Choose all/ }).check();
      await page.getByRole('heading', { name: /^Try a fix on/ }).waitFor();
      await assertAccessible(page, 'a fix');
      await assertFits(page, 'a fix');
    }, { colorScheme, viewport: { width, height: 850 } });
  }

  await journey('a plan that moved is refused, and looked at again', async (page) => {
    await open(page, '#/views/words?part=changes', 'words');
    const dialog = await press(page, 'Cut over');
    write(" WHERE word <> 'w2'");
    await doIt(dialog);
    await dialog.getByText('nothing was done').waitFor();
    await assertAccessible(page, 'a refusal');
    await dialog.getByRole('button', { name: 'Look again' }).click();
    await page.locator('.line-new').getByText("word <> 'w2'").waitFor();
  }, { expected: [/status of 409/] });

  await journey('a project that can\'t be read says so, and is looked at again', async (page) => {
    writeFileSync(file, `SELECT '${EVIL}' AS nothing FROM`);
    await open(page, '#/views', 'Views');
    await page.getByText('The project can\'t be read as it is now').or(page.getByText('This can\'t be done')).first().waitFor();
    assert.equal(await page.locator('main img').count(), 0);
    await settled(page);
    await assertAccessible(page, 'a project that can\'t be read');
    write(' WHERE id >= 0');
    await changes(page).getByRole('button', { name: 'Look again' }).click();
    await page.locator('.line-new').getByText('id >= 0').waitFor();
  }, { expected: [/status of 400/] });

  await journey('a mended view is applied, and rolled back', async (page) => {
    await open(page, '#/views/words', 'words');
    const apply = await press(page, /^(Apply|Cut over)$/);
    await apply.getByLabel(/^Why/).fill(`mended ${EVIL}`);
    await apply.getByLabel(/^Why/).press('Tab');
    await apply.getByText('--message').waitFor();
    await doIt(apply);
    await page.getByText('Done.').waitFor();
    await changes(page).getByText('Nothing to do').waitFor();
    const back = page.getByRole('button', { name: /^Roll back from g\d+$/ });
    await back.waitFor();
    const dialog = await press(page, /^Roll back from g\d+$/);
    await doIt(dialog);
    await shownOperation(page).getByRole('heading', { name: 'roll back of words' }).waitFor();
    await page.getByText('Done.').waitFor();
    await changes(page).locator('.line-new').getByText('id >= 0').waitFor();
    writeFileSync(file, asItWas);
    await changes(page).getByRole('button', { name: 'Look again' }).click();
    await changes(page).getByText('Nothing to do').waitFor();
  });

  await journey('a dead letter becomes a fact by a fix', async (page) => {
    await open(page, '#/topics/facts?part=dead-letters', 'facts');
    const reason = page.getByLabel('Reason');
    await reason.selectOption({ label: await reason.locator('option', { hasText: '17x' }).textContent() });
    await page.getByRole('heading', { name: /^Try a fix on all of the reason/ }).waitFor();
    await page.getByRole('button', { name: 'Choose none' }).click();
    const letter = page.locator('.letters > li', { hasText: '17x' });
    await letter.getByRole('checkbox').check();
    await page.getByRole('button', { name: 'Try it' }).click();
    await page.getByText('0 would become facts').waitFor();
    await shownOperation(page).getByRole('table').getByText('17x').waitFor();
    assert.equal(await page.getByRole('button', { name: 'Retry', exact: true }).count(), 0);
    await page.getByLabel('Fix', { exact: true }).fill("SELECT replace(raw, '\"17x\"', '100017') FROM dead_letters");
    await page.getByRole('button', { name: 'Try it' }).click();
    await page.getByText('1 would become a fact').waitFor();
    assert.match(page.url(), /fix=SELECT/);
    await assertAccessible(page, 'a fix that was tried');
    const dialog = await press(page, 'Retry');
    await doIt(dialog);
    await page.getByText('1 became a fact').waitFor();
    await letter.getByText('tried again').waitFor();
    await open(page, '#/sql', 'SQL');
    await run(page, 'SELECT count(*) AS n FROM facts WHERE id = 100017');
    await page.getByRole('gridcell', { name: '1' }).waitFor();
  });

  await journey('the keyboard alone begins something, and leaves it', async (page) => {
    await open(page, '#/views/words', 'words');
    const verify = page.getByRole('button', { name: 'Verify' });
    await verify.focus();
    await page.keyboard.press('Enter');
    const dialog = page.getByRole('dialog', { name: 'Verify words' });
    await dialog.getByText('anabranch verify words').waitFor();
    const focused = () => page.evaluate(() => document.activeElement.textContent);
    assert.equal(await focused(), 'Verify words');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    assert.equal(await focused(), 'Verify');
    await page.keyboard.press('Enter');
    await dialog.getByText('anabranch verify words').waitFor();
    await page.keyboard.press('Tab');
    if (await focused() === 'Copy') await page.keyboard.press('Tab');
    assert.equal(await focused(), 'Do it');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.textContent === 'verify of words');
    await page.getByText('Done.').waitFor();
  });

  await journey('what was begun is on the page of jobs, with its text', async (page) => {
    await open(page, '#/jobs', 'Jobs');
    const list = page.getByRole('region', { name: 'Operations' });
    await list.getByRole('heading', { name: 'verify of words' }).waitFor();
    await list.getByRole('button', { name: 'Show what it says: verify of words' }).click();
    await list.locator('pre').getByText('words').first().waitFor();
    assert.match(page.url(), /op=/);
    await list.getByText('anabranch verify words').waitFor();
    await list.getByRole('button', { name: 'Put away' }).click();
    assert.doesNotMatch(page.url(), /op=/);
    // A daemon forgets operations when it ends.
    await page.goto(`${BASE}#/jobs?op=forgotten`);
    await list.getByText('The daemon does not know it any more').waitFor();
  }, { expected: [/status of 404/] });
}
