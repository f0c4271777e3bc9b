// Statements of SQL that the console writes: names in quotes, values as parameters, and for whoever
// reads them the same with the values in their places.

const quotedName = (name) => `"${name.replaceAll('"', '""')}"`;

/** A column. */
export const column = quotedName;

/** A column as people write it: in quotes where it needs them. */
export const shortName = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : quotedName(name));

/** A relation. A dot parts a generation's schema from the view, as in `candidate.post_minutes`. */
export function relation(name) {
  const at = name.indexOf('.');
  return at < 0 ? quotedName(name) : `${quotedName(name.slice(0, at))}.${quotedName(name.slice(at + 1))}`;
}

/** A value as it stands in a statement. */
function literal(value) {
  if (value === null) return 'NULL';
  return typeof value === 'string' ? `'${value.replaceAll("'", "''")}'` : String(value);
}

/**
 * A statement in both forms. `write(value)` is given a function that puts a value into it. Gives
 * `{ sql, parameters }` to be asked, and `text` to be read.
 */
export function statement(write) {
  const parameters = [];
  const sql = write((value) => `$${parameters.push(value)}`);
  return { sql, parameters, text: write(literal) };
}

export const isTime = (type) => /^(timestamp|date)\b/i.test(type);
export const isNumber = (type) =>
  /^(tinyint|smallint|int|integer|bigint|real|float|double|decimal|numeric)\b/i.test(type) && !type.endsWith('[]');

/** How far back a chart looks, and how wide its steps are. */
export const RANGES = [
  { name: '1h', says: 'last hour', interval: '1 hour', step: 'minute' },
  { name: '4h', says: 'last 4 hours', interval: '4 hours', step: 'minute' },
  { name: '1d', says: 'last day', interval: '1 day', step: 'hour' },
  { name: '7d', says: 'last 7 days', interval: '7 days', step: 'hour' },
  { name: '30d', says: 'last 30 days', interval: '30 days', step: 'day' },
  { name: 'all', says: 'all time', interval: null, step: 'day' },
];

/**
 * What a view can be explored by: its time, its other keys, and its measures. A measure is
 * `{ name, says, functions, isNought, write(how) }`: how it may be added up, and whether it is nought where
 * nothing is said of it.
 */
export function explorable(view) {
  const hasKeys = view.columns.some((c) => c.role === 'key');
  const isKey = (c) => (hasKeys ? c.role === 'key' : c.role !== 'aggregate' && !isNumber(c.type));
  const keys = view.columns.filter(isKey);
  const timeKey = keys.find((c) => isTime(c.type)) ?? null;
  const others = keys.filter((c) => c !== timeKey && !/[[(]/.test(c.type.replace(/^decimal\(.*?\)/i, '')));
  const measures = view.columns.filter((c) => !keys.includes(c) && isNumber(c.type)).map(measure);
  return { time: timeKey, keys: others, measures: measures.length ? measures : [rowCount] };
}

const rowCount = { name: '*', says: 'rows', functions: ['count'], isNought: true, write: () => 'count(*)' };

const ADDS_UP = ['count', 'sum', 'count_if'];

function measure({ name, role, function: made, combines }) {
  const functions = role === 'computed' || role == null
    ? ['avg']
    : ADDS_UP.includes(made) ? ['sum', 'combine'] : combines ? ['combine', 'sum'] : ['sum'];
  const says = functions[0] === 'avg' ? `mean of ${name} over rows` : name;
  const isNought = ADDS_UP.includes(made) || /distinct/.test(made);
  return { name, says, functions, isNought, write: (how) => `${how}(${quotedName(name)})` };
}

/** The conditions of a chart as one text, with WHERE, or nothing. */
function where(conditions) {
  return conditions.length ? `\nWHERE ${conditions.join('\n  AND ')}` : '';
}

/** A key that is one of several values, of which null is one too. */
function isOneOf(key, values, value) {
  const given = values.filter((v) => v !== null);
  const parts = [];
  if (given.length === 1) parts.push(`${quotedName(key)} = ${value(given[0])}`);
  if (given.length > 1) parts.push(`${quotedName(key)} IN (${given.map(value).join(', ')})`);
  if (given.length < values.length) parts.push(`${quotedName(key)} IS NULL`);
  return parts.length > 1 ? `(${parts.join(' OR ')})` : parts[0];
}

/** The conditions of what is looked at: its range, and the values of its keys but those of `but`. */
function conditions({ time, range, filters }, value, but) {
  const all = [];
  if (time && range.interval) all.push(`${quotedName(time.name)} >= now() - INTERVAL '${range.interval}'`);
  for (const [key, values] of Object.entries(filters)) {
    if (key !== but && values.length) all.push(isOneOf(key, values, value));
  }
  return all;
}

/** A measure over time. */
export const series = (look, how) => statement((value) => stepped(look, how, conditions(look, value)));

function stepped({ view, time, range, measure: shown }, how, all, more = '') {
  const at = `date_trunc('${range.step}', ${quotedName(time.name)}) AS at`;
  return `SELECT ${at}, ${shown.write(how)} AS amount${more}\nFROM ${relation(view)}${where(all)}\nGROUP BY 1\nORDER BY 1`;
}

/** The weeks before, by which it is told what is usual. */
export const WEEKS = [1, 2, 3, 4];

/** The same over the whole steps of the same time in the weeks before, and `until` when steps have ended now. */
export function formerly(look, how) {
  const { time, range: { interval, step } } = look;
  const at = quotedName(time.name);
  const until = `date_trunc('${step}', now())`;
  const weeks = WEEKS.map((week) => {
    const end = `${until} - INTERVAL '${week * 7} days'`;
    return `${at} >= ${end} - INTERVAL '${interval}' + INTERVAL '1 ${step}' AND ${at} < ${end}`;
  });
  return statement((value) => {
    const all = [`(${weeks.join('\n    OR ')})`, ...conditions({ ...look, time: null }, value)];
    return stepped(look, how, all, `, ${until} AS until`);
  });
}

/** The values of a key that have most of a measure. */
export function ranking(look, how, key) {
  const { view, measure: shown } = look;
  return statement((value) => {
    const all = where(conditions(look, value, key));
    const ordered = 'GROUP BY 1\nORDER BY 2 DESC NULLS LAST, 1\nLIMIT 10';
    return `SELECT ${quotedName(key)} AS name, ${shown.write(how)} AS amount\nFROM ${relation(view)}${all}\n${ordered}`;
  });
}

/** A measure of everything that is looked at. */
export function total(look, how) {
  const { view, time, measure: shown } = look;
  return statement((value) => {
    const newest = time ? `, max(${quotedName(time.name)}) AS newest` : '';
    return `SELECT ${shown.write(how)} AS amount${newest}\nFROM ${relation(view)}${where(conditions(look, value))}`;
  });
}

/** The rows themselves. */
export function sample(look) {
  return statement((value) => {
    const order = look.time ? `\nORDER BY ${quotedName(look.time.name)} DESC` : '';
    return `SELECT *\nFROM ${relation(look.view)}${where(conditions(look, value))}${order}\nLIMIT 50`;
  });
}
