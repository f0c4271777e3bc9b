// What node-postgres asks of the PostgreSQL door: `node postgres.mjs PORT MODULES`. The topic `facts` holds
// ids from 0 on, a hundred of them, and the view `words` counts them. The first thing that is wrong is its end.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const [port, modules] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const pg = require('pg')
const Cursor = require('pg-cursor')

const place = { host: '127.0.0.1', port: Number(port), user: 'me', database: 'it' }
const client = new pg.Client({ ...place, application_name: 'node' })
await client.connect()

// Values have the types that the driver makes of PostgreSQL's.
const { rows, fields } = await client.query(
  `SELECT id, word, ts, id::real AS r, id * 1.50 AS price, id > 1 AS big, ARRAY[id, NULL] AS ids,
          named_struct('n', id) AS pair, CAST('ab' AS bytea) AS raw, NULL::date AS day
   FROM facts WHERE id = $1 AND word <> $2`,
  [3, "it's"],
)
assert.equal(rows.length, 1)
const [row] = rows
assert.equal(row.id, '3')
assert.ok(row.ts instanceof Date && !Number.isNaN(row.ts.getTime()))
assert.equal(row.r, 3)
assert.equal(Number(row.price), 4.5)
assert.equal(row.big, true)
assert.deepEqual(row.ids, ['3', null])
assert.deepEqual(row.pair, { n: 3 })
assert.equal(row.raw.toString(), 'ab')
assert.equal(row.day, null)
assert.deepEqual(fields.slice(0, 3).map((f) => f.dataTypeID), [20, 25, 1184])

// A named statement is prepared once; parameters of every kind.
for (let run = 0; run < 8; run++) {
  const found = await client.query({
    name: 'since',
    text: 'SELECT count(*) AS n FROM facts WHERE ts >= $1 AND id = ANY($2) AND ($3::text IS NULL OR word = $3)',
    values: [new Date(0), [1, 2, 500], null],
  })
  assert.equal(found.rows[0].n, '2')
}
const several = await client.query("SET application_name = 'other'; SELECT count(*) AS n FROM facts; SHOW application_name")
assert.deepEqual([several[1].rows[0].n, several[2].rows[0].application_name], ['100', 'other'])

// Rows in portions.
const cursor = client.query(new Cursor('SELECT id FROM facts ORDER BY id'))
const first = await cursor.read(30)
const second = await cursor.read(1000)
assert.deepEqual([first.length, second.length, second[0].id], [30, 70, '30'])
await cursor.close()

// A view that is followed, and left.
const followed = client.query(new Cursor('SUBSCRIBE words'))
let told = []
while (told.at(-1)?.op !== 'at') told = told.concat(await followed.read(100))
const counted = told.filter((t) => t.op === 'row').reduce((sum, t) => sum + t.new.facts, 0)
assert.deepEqual([told[0].op, told[0].detail.key, counted], ['reset', ['word'], 100])
await followed.close()

// Errors have their codes and places, and the session goes on.
for (const [sql, code] of [
  ['SELECT nothing FROM facts', '42703'],
  ['SELECT * FROM nowhere', '42P01'],
  ['SELECT 1 / 0', '22012'],
  ['INSERT INTO facts (id) VALUES (1)', '42000'],
]) {
  const error = await client.query(sql).then(() => assert.fail(sql), (e) => e)
  assert.equal(error.code, code, `${sql}: ${error.message}`)
}
await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
const one = await client.query('SELECT count(*) AS n FROM facts')
await client.query('COMMIT')
assert.equal(one.rows[0].n, '100')
await client.end()

// Many at once, by a pool that keeps its connections.
const pool = new pg.Pool({ ...place, max: 5 })
const all = await Promise.all(
  Array.from({ length: 40 }, (_, n) => pool.query('SELECT count(*) AS n FROM facts WHERE id < $1', [n])),
)
assert.deepEqual(all.map((found) => found.rows[0].n), Array.from({ length: 40 }, (_, n) => String(n)))
await pool.end()
console.log('all asked, all answered')
