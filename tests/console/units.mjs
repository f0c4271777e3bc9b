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
const { points, chosen } = await load('pages/explore.js');
const { excerpt } = await load('pages/sql.js');
const operations = await load('operations.js');
const { mayIngest, read } = await load('who.js');
const { chosenOf, retryOf } = await load('pages/letters.js');
const { linesOf } = await load('pages/changes.js');
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

test('a caret stands under the place of an error', () => {
  assert.equal(excerpt('SELECT é, x', 12, 11), '12 | SELECT é, x\n   |           ^');
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
