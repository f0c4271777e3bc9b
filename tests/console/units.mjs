// What the console decides without a browser: numbers, statements, what needs somebody, how far things are.
//
//   node units.mjs FOLDER_OF_THE_CONSOLE

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';

const folder = pathToFileURL(`${process.argv[2] ?? process.env.CONSOLE ?? 'serving/console'}/`);
const nothing = { getItem: () => null, setItem() {}, removeItem() {} };
const stub = { matches: false, addEventListener() {}, removeEventListener() {} };
Object.assign(globalThis, {
  localStorage: nothing, sessionStorage: nothing, window: stub, document: stub,
  location: { hash: '' }, matchMedia: () => stub, history: { replaceState() {} },
});
if (!globalThis.navigator) globalThis.navigator = { platform: '' };
const load = (name) => import(new URL(name, folder));
const json = await load('json.js');
const format = await load('format.js');
const written = await load('statement.js');
const { attention } = await load('attention.js');
const fresh = await load('freshness.js');
const { moved } = await load('components/grid.js');
const { besideUsual, points, chosen } = await load('pages/explore.js');
const operations = await load('operations.js');
const { mayIngest, read, seesBoardsAlone } = await load('who.js');
const { isWall } = await load('router.js');
const boards = await load('boards.js');
const { chosenOf, retryOf } = await load('pages/letters.js');
const { linesOf } = await load('pages/changes.js');
const { lanesOf } = await load('pages/jobs.js');
const { newestOf, tailOf } = await load('pages/topics.js');
const { changeOf, namesOf } = await load('components/difference.js');

test('long numbers keep their digits', () => {
  for (const text of ['9223372036854775807', '-9223372036854775808', '12345678901234567890.0123456789']) {
    assert.equal(String(json.parse(`{"a":${text}}`).a), text);
    assert.equal(JSON.parse(json.longAsText(`{"a":${text}}`)).a, text);
  }
  assert.equal(json.parse('{"a":0.30000000000000004}').a, 0.30000000000000004);
  assert.equal(json.parse('{"a":"12345678901234567890"}').a, '12345678901234567890');
  assert.equal(json.longAsText('{"12345678901234567890\\"1234567890123456789":1}'), '{"12345678901234567890\\"1234567890123456789":1}');
});

test('columns stand in the order of the answer', () => {
  const line = '{"b":{"x":1,"2":[1,{"q":2}]},"7":[3,"a,b"],"a":"}\\"x"}';
  assert.deepEqual(json.namesInOrder(line, JSON.parse(line)), ['b', '7', 'a']);
});

test('numbers and times are written for people', () => {
  format.zone.set('utc');
  assert.equal(format.number(1234567.891), '1\u202f234\u202f567.891');
  assert.equal(format.short(12_345), '12.3\u202fk');
  assert.equal(format.bytes(2e9), '2\u202fGB');
  assert.equal(format.span(3 * 3600 + 20 * 60), '3\u202fh 20\u202fmin');
  assert.equal(format.time('2026-11-30T10:00:00.123456Z'), '2026-11-30 10:00:00.123456');
  assert.equal(format.time('2026-11-30T10:00:00+01:00'), '2026-11-30 09:00:00');
  assert.equal(format.time('2026-11-30'), '2026-11-30');
});

const view = {
  name: 'posts', topic: 'events',
  columns: [
    { name: 'min"ute', type: 'timestamp', role: 'key' },
    { name: 'site', type: 'varchar', role: 'key' },
    { name: 'view', type: 'varchar', role: 'key' },
    { name: 'n', type: 'bigint', role: 'aggregate', function: 'count', combines: true },
    { name: 'visitors', type: 'bigint unsigned', role: 'aggregate', function: 'approx_distinct', combines: true },
  ],
};

test('names are quoted and values are parameters', () => {
  const query = new URLSearchParams([['range', '4h'], ['site', "a'b"], ['site', 'c'], ['null', 'site'], ['key.view', 'x']]);
  const look = chosen(query, view);
  assert.deepEqual(look.filters, { site: ["a'b", 'c', null], view: ['x'] });
  const asked = written.series(look, 'sum');
  assert.deepEqual(asked.parameters, ["a'b", 'c', 'x']);
  assert.match(asked.sql, /"min""ute" >= now\(\) - INTERVAL '4 hours'/);
  assert.match(asked.sql, /\("site" IN \(\$1, \$2\) OR "site" IS NULL\)\n {2}AND "view" = \$3/);
  assert.match(asked.text, /"site" IN \('a''b', 'c'\)/);
  assert.doesNotMatch(written.ranking(look, 'sum', 'site').sql, /"site" IN/);
});

test('a measure that does not add up is combined', () => {
  const { measures } = written.explorable(view);
  assert.deepEqual(measures.map((m) => m.functions[0]), ['sum', 'combine']);
});

test('steps of which nothing is said are nought where amounts add up', () => {
  const found = [0, 60, 240].map((s) => ({ at: new Date(s * 1000).toISOString(), amount: 1 }));
  assert.deepEqual(points(found, true), { at: [0, 60, 120, 180, 240], values: [1, 1, 0, 0, 1] });
  assert.deepEqual(points(found, false).at, [0, 60, 240]);
});

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const BEGUN = Date.parse('2026-11-30T10:00:00Z');
const hourOf = (hour, daysBefore, amount, ended = 3) => ({
  at: new Date(BEGUN + hour * HOUR - daysBefore * DAY).toISOString(), amount,
  until: new Date(BEGUN + ended * HOUR).toISOString(),
});

test('what is usual are the same hours of the weeks before, as far as they have ended', () => {
  const found = [hourOf(0, 0, 6), hourOf(1, 0, 3), hourOf(3, 0, 1)];
  const before = [hourOf(0, 14, 2), hourOf(2, 14, 4), hourOf(0, 7, 4), hourOf(1, 7, 3), hourOf(2, 7, null)];
  const sums = besideUsual(found, before, true);
  // An hour of which nothing is said is nought: of now, and of a week before that is known by then.
  assert.deepEqual(sums.values, [6, 3, 0, 1]);
  assert.deepEqual([sums.low, sums.high], [[2, 0, 4, null], [4, 3, 4, null]]);
  assert.equal(sums.weeks, 2);
  assert.equal(Math.round(sums.than.percent), Math.round(((9 - 8.5) / 8.5) * 100));
  // What does not add up is compared where there is something to compare.
  const means = besideUsual(found, before, false);
  assert.deepEqual([means.values, means.low, means.high], [[6, 3, null, 1], [2, 3, 4, null], [4, 3, 4, null]]);
  assert.equal(means.than.percent, 50);
});

test('a week that is not known is no nought, and rows that are further apart end later', () => {
  const sums = besideUsual([hourOf(0, 0, 6), hourOf(1, 0, 6)], [hourOf(1, 14, 3), hourOf(0, 7, 6), hourOf(1, 7, 9)], true);
  assert.deepEqual([sums.low, sums.high, sums.than.is], [[6, 3], [6, 9], 'same']);
  const days = besideUsual([hourOf(-24, 0, 5), hourOf(0, 0, 1)], [hourOf(-24, 7, 5), hourOf(0, 7, 50)], true);
  assert.deepEqual([days.values, days.high, days.than.is], [[5, 1], [5, null], 'same']);
  assert.equal(besideUsual([hourOf(0, 0, 1)], [hourOf(0, 7, 1)], true).than, null);
  // Days of many zones begin hour by hour.
  assert.equal(besideUsual([hourOf(0, 0, 6), hourOf(1, 0, 6)], [hourOf(0, 7, 6), hourOf(1, 7, 9)], true, true).than, null);
});

test('the weeks before are asked for at once, by whole steps', () => {
  const look = chosen(new URLSearchParams([['range', '4h'], ['site', 'a']]), view);
  const { sql, parameters } = written.formerly(look, 'sum');
  assert.deepEqual(parameters, ['a']);
  assert.equal(sql.match(/INTERVAL '4 hours' \+ INTERVAL '1 minute'/g).length, 4);
  assert.match(sql, /OR "min""ute" >= date_trunc\('minute', now\(\)\) - INTERVAL '28 days' - [^)]*\)\) - INTERVAL '28 days'\)\n {2}AND "site" = \$1\n/);
});

test('a tail asks for what it has not seen, and counts what it does not show', () => {
  const fact = (partition, offset, second, came) => ({
    _partition: partition, _offset: offset, _ingested_at: `2026-11-30T10:00:${String(second).padStart(2, '0')}Z`, _came: came,
  });
  const first = tailOf(undefined, [fact(1, 7, 9), fact(0, 3, 8)], 5);
  assert.deepEqual([first.came, first.rows.length], [0, 2]);
  assert.match(newestOf('t', 'a = 1 -- b', 200, first), /WHERE \(\na = 1 -- b\n\) AND _ingested_at > TIMESTAMP '2026-11-30T10:00:09Z' - INTERVAL '1 minute' AND CASE _partition WHEN 1 THEN _offset > 7 WHEN 0 THEN _offset > 3 ELSE true END\n/);
  const second = tailOf(first, [fact(0, 4, 10, 1)], 5);
  assert.deepEqual([second.came, second.rows.map((row) => row._offset), [...second.seen]], [1, [4, 7, 3], [[1, 7], [0, 4]]]);
  assert.deepEqual(tailOf(second, [], 5).rows, second.rows);
  const many = Array.from({ length: 200 }, (_, nth) => fact(0, 304 - nth, 20, 300));
  const third = tailOf(second, many, 5);
  assert.deepEqual([third.came, third.rows.length, [...third.seen]], [301, 200, [[0, 304]]]);
  assert.match(newestOf('t', '', 200, third), /ELSE _ingested_at > TIMESTAMP '2026-11-30T10:00:20Z' END/);
  assert.doesNotMatch(newestOf('t', '', 50), /WHERE|_came/);
});

test('runs stand in the lane of their view, or of their job where it is no refresh', () => {
  const run = (viewName, job, from, to) => ({ view: viewName, job, started_at: from, ended_at: to });
  const lanes = lanesOf([run('v', 'verify', 90), run('v', 'refresh', 50, 60), run('v', 'refresh', 20, 30), run('a', 'refresh', -50, 10)], 0, 100);
  assert.deepEqual(lanes.map(([name, bars]) => [name.trim(), bars.map(({ left, width }) => [left, width])]), [
    ['a', [[0, 10]]], ['v', [[20, 10], [50, 10]]], ['v, verify', [[90, 10]]],
  ]);
});

test('what needs somebody is told once, the worst first', () => {
  const ready = {
    ready: false, red: { 'topic t': 'the disk is full' }, topics_red: {}, notes: { v: 'boom' },
    attention: ['view `v` does not answer: boom'], views_that_fail: { v: 'boom' }, topics_untaken: {},
  };
  const items = attention(ready, { wanted: { w: 1 }, doors: [] });
  assert.deepEqual(items.map((i) => [i.level, i.about]), [['red', 'topic t'], ['attention', 'view v'], ['attention', 'view w']]);
  assert.match(items[2].why, /`anabranch batch refresh w`/);
  assert.deepEqual(attention(null, null), []);
});

test('a daemon without the function tells how far it is by its state', () => {
  const status = { landed: { t: { 0: 90, 1: 5 } }, unlanded_facts: { t: 10 }, served: { v: { generation: 2, boundary: '0:40' } } };
  const all = fresh.fromStatus(status, [{ name: 't', kind: 'topic' }, { name: 'v', kind: 'view', topic: 't' }]);
  assert.deepEqual(all.map((r) => [r.relation, fresh.placesUpTo(r.head), r.in_delta]), [['t', 105, undefined], ['v', 105, 65]]);
});

test('heads say how fast facts come', () => {
  const row = (head) => [{ relation: 't', kind: 'topic', topic: 't', head }];
  fresh.noteHeads(row('0:100 1:0'), 1_000);
  assert.equal(fresh.rate('t'), null);
  fresh.noteHeads(row('0:150 1:10'), 3_000);
  assert.equal(fresh.rate('t'), 30);
  assert.equal(fresh.rate('u'), null);
});

test('keys go from cell to cell', () => {
  const of = { page: 10, isFar: false, rowCount: 100, columnCount: 5 };
  assert.deepEqual(moved('ArrowDown', { row: 3, column: 1 }, of), [4, 1]);
  assert.deepEqual(moved('End', { row: 3, column: 1 }, { ...of, isFar: true }), [99, 4]);
  assert.equal(moved('x', { row: 3, column: 1 }, of), null);
});

test('what a button mends leads to its place, for those who may press it', () => {
  const ready = { notes: { v: 'view `v` was edited; `anabranch plan` shows it' }, views_that_fail: { w: 'boom' } };
  const status = { served: { w: {}, 'previous.w': {} }, wanted: { u: 1 } };
  const plan = { views: [
    { view: 'v', is_change: true, doing: 'build it', stopped_by: [] },
    { view: 'x', is_change: true, doing: 'build it', stopped_by: ['`keys_lost` allows 0'] },
    { view: 'u', is_change: false },
  ] };
  const items = attention(ready, status, { plan, letters: [{ topic: 't', dead: 2 }, { topic: 's', dead: 0 }] });
  const told = items.map((i) => [i.level, i.about, i.mends?.says]);
  assert.deepEqual(told, [
    ['attention', 'view w', 'Roll it back'], ['attention', 'view u', 'Refresh it'],
    ['note', 'view v', 'See its changes'], ['note', 'view x', 'See its changes'], ['note', 'topic t', 'Try a fix'],
  ]);
  assert.ok(attention(ready, status).every((i) => i.mends === undefined));
});

test('rights say what is offered', () => {
  assert.ok(mayIngest(['admin'], 'facts'));
  assert.ok(mayIngest(['read *', 'ingest f?c[st]*'], 'facts'));
  assert.ok(!mayIngest(['ingest fact', 'operate'], 'facts'));
  assert.ok(!mayIngest(['ingest f.cts'], 'facts'));
  assert.deepEqual(read([]), { user: null, rights: [], operates: false });
  assert.equal(read({ user: 'ann', rights: ['operate'], operates: true }).operates, true);
  assert.equal(read({ operates: 'yes' }).operates, false);
});

test('an operation is looked at less often the longer it runs', () => {
  const of = (state, begunAt) => ({ state, begun_at: new Date(begunAt).toISOString() });
  assert.equal(operations.pace(of('running', 0), undefined, 1_000), 500);
  assert.equal(operations.pace(of('waiting', 0), undefined, 30_000), 1_500);
  assert.equal(operations.pace(of('running', 0), undefined, 900_000), 2_000);
  // The clocks of the daemon and of the reader need not be the same.
  assert.equal(operations.pace(of('running', 60_000), undefined, 0), 500);
  assert.equal(operations.pace(of('differs', 0), undefined, 1_000), null);
  assert.equal(operations.pace(undefined, { status: 404 }), null);
  assert.equal(operations.pace(of('running', 0), { status: undefined }, 900_000), 2_000);
  assert.equal(operations.speedOf({ at: 0, done: 100 }, { at: 2_000, done: 500 }), 200);
  assert.equal(operations.speedOf({ at: 0, done: 100 }, { at: 100, done: 500 }), null);
});

test('each request has words, and each end has some', () => {
  for (const asked of [
    { do: 'refresh', view: 'v' }, { do: 'rebuild', view: 'v' }, { do: 'verify', view: 'v' }, { do: 'diff', view: 'v' },
    { do: 'apply', plan: 'p', cut_over: true }, { do: 'apply', plan: 'p', views: ['v'], cut_over: false },
    { do: 'roll_back', view: 'v', generation: 1 }, { do: 'retry', topic: 't', dry_run: false },
  ]) {
    const { title, says } = operations.wordsOf(asked);
    assert.ok(title.length > 0 && says.endsWith('.'), asked.do);
    for (const state of ['waiting', 'running', 'done', 'differs', 'stopped', 'failed']) {
      assert.match(operations.outcomeOf({ do: asked.do, state }).says, /\.$/);
    }
  }
});

test('dead letters are chosen by place or by reason, and a fix that changes nothing is none', () => {
  assert.equal(chosenOf(new URLSearchParams()), null);
  assert.deepEqual(chosenOf(new URLSearchParams([['place', '0:1'], ['place', '0:2'], ['reason', 'x']])), { places: ['0:1', '0:2'] });
  const chosen = chosenOf(new URLSearchParams([['reason', "it's"]]));
  assert.deepEqual(chosen, { where: "reason = 'it''s'" });
  assert.deepEqual(retryOf('t', chosen, 'SELECT raw\nFROM dead_letters', true), { do: 'retry', topic: 't', ...chosen, dry_run: true });
  assert.equal(retryOf('t', chosen, ' SELECT 1 ', false).fix, 'SELECT 1');
});

test('a difference is told by signs, and by the names that a relation has', () => {
  assert.deepEqual(linesOf('@@ -1 +1 @@\n-a\n+b\n c\n').map((l) => l.kind), ['line-place', 'line-lost', 'line-new', '']);
  assert.equal(changeOf({ total_a: 0, total_b: 0 }), 0);
  assert.equal(changeOf({ total_a: 0, total_b: 1 }), null);
  assert.equal(changeOf({ total_a: -2, total_b: -1 }), 0.5);
  const known = [
    { name: 'w', columns: [{ name: 'a' }, { name: 'b' }] }, { name: 'candidate.w', columns: [{ name: 'c' }, { name: 'a' }] },
    { name: 'aw', columns: [{ name: 'd' }] },
  ];
  assert.deepEqual(namesOf(known, 'w', ['a', 'c']), ['c', 'a']);
  assert.equal(namesOf(known, 'w', ['d']), null);
});

const NAMED = [{ name: 'site', type: 'varchar' }, { name: 'at', type: 'timestamp' }, { name: 'n', type: 'bigint' }, { name: 'u', type: 'decimal(10,2)' }];

test('a panel draws the columns that it names, or the first that fit', () => {
  const names = (panel) => {
    const { time, label, value, usual, others } = boards.rolesOf(panel, NAMED);
    return [time, label, value, usual].map((c) => c?.name).concat(others.map((c) => c.name));
  };
  assert.deepEqual(names({}), ['at', 'site', 'n', 'u', 'at', 'u']);
  assert.deepEqual(names({ label: 'n' }), ['at', 'n', 'u', undefined, 'site', 'at']);
  assert.deepEqual(names({ usual: 'n' }), ['at', 'site', 'u', 'n', 'at', 'n']);
  assert.deepEqual(names({ value: null, usual: null, label: 'at' }), ['at', 'at', 'n', 'u', 'site', 'u']);
  assert.throws(() => boards.rolesOf({ value: 'x' }, NAMED), /no column `x`; it has `site`, `at`/);
});

test('lines of a panel are over its first time, in order, and one for each label', () => {
  const row = (site, hour, n) => ({ site, at: `2026-01-01T0${hour}:00:00Z`, n, u: null });
  const answer = { columns: NAMED, rows: [row('b', 2, 4), row('a', 1, 3), row('a', 2, 5), { ...row('a', 3, 1), at: null }] };
  const one = boards.linesOf({ label: 'site' }, answer, 4);
  assert.deepEqual(one.at, [1767229200, 1767232800]);
  assert.deepEqual(one.lines, [{ name: 'b', values: [null, 4] }, { name: 'a', values: [3, 5] }]);
  assert.equal(boards.linesOf({ label: 'site' }, answer, 1).left, 1);
  assert.deepEqual(boards.linesOf({}, answer, 4).lines.map((line) => line.name), ['n', 'u']);
  assert.deepEqual(boards.linesOf({ value: 'u' }, answer, 4).lines.map((line) => line.name), ['u']);
  assert.throws(() => boards.linesOf({}, { columns: NAMED.filter((c) => c.name !== 'at'), rows: [] }, 4), /no time/);
});

test('a value is compared with what is usual', () => {
  assert.deepEqual(boards.compared(15, 10), { percent: 50, is: 'more' });
  assert.deepEqual(boards.compared(5, 10), { percent: -50, is: 'less' });
  assert.equal(boards.compared(1000, 1004).is, 'same');
  assert.equal(boards.compared(-5, -10).is, 'more');
  assert.equal(boards.compared(0, 0).is, 'same');
  for (const [value, usual] of [[1, 0], [1, null], [null, 1], ['x', 1]]) assert.equal(boards.compared(value, usual), null);
  const shares = boards.sharesOf([{ n: 4 }, { n: 1 }, { n: null }, { n: -2 }], { name: 'n' });
  assert.deepEqual(shares, [1, 0.25, 0, 0]);
  assert.deepEqual(boards.sharesOf([{ n: 0 }], { name: 'n' }), [0]);
});

test('panels are asked for as often as they say, and not all at once', () => {
  assert.equal(boards.everyOf({ every_seconds: 6.5 }), 6500);
  assert.equal(boards.everyOf({ every_seconds: 0.1 }), 2000);
  assert.equal(boards.everyOf({}), 2000);
  assert.equal(boards.everyOf(undefined), 5000);
  assert.equal(boards.paceOf({ every_seconds: 10 }, null, 0.5), 11_000);
});

test('values of panels are written whole', () => {
  assert.equal(boards.shown(new json.Exact('9223372036854775807')), '9\u202f223\u202f372\u202f036\u202f854\u202f775\u202f807');
  assert.equal(boards.shown(null), '–');
  assert.equal(boards.shown('a'), 'a');
});

test('a wall is known by its address, and by rights who sees boards alone', () => {
  const at = (path, query) => isWall({ path, query: new URLSearchParams(query) });
  assert.ok(at(['boards', 'a'], 'wall'));
  assert.ok(!at(['boards'], 'wall') && !at(['sql', 'a'], 'wall') && !at(['boards', 'a'], 'token=x'));
  assert.ok(seesBoardsAlone(['board a', 'board b*']));
  assert.ok(!seesBoardsAlone([]) && !seesBoardsAlone(['board a', 'read *']) && !seesBoardsAlone(['admin']));
});
