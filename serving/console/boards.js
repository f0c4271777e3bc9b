// What the panels of boards show: which columns are drawn, as which lines and differences, and when a panel
// is asked for again.

import { instant, isDate, isTimestamp, number, text } from './format.js';
import { SOON } from './load.js';
import { isNumber, isTime } from './statement.js';

/** How often what tells no pace is asked for again, in milliseconds. */
const UNTOLD = 5_000;

/** How often a panel is asked for, in milliseconds, as its answer says. */
export const everyOf = (value) => (value ? Math.max(SOON, Number(value.every_seconds) * 1000 || 0) : UNTOLD);

/** When a panel is asked for again: a little later each time, so that not all ask at once. */
export const paceOf = (value, error, chance = Math.random()) => everyOf(value) * (1 + chance / 5);

/** A column that a panel names. */
function named(columns, name) {
  const found = columns.find((column) => column.name === name);
  if (!found) throw new Error(`the answer has no column \`${name}\`; it has ${columns.map((c) => `\`${c.name}\``).join(', ')}`);
  return found;
}

/**
 * What the columns of an answer are to a panel: `{ time, label, value, usual, numbers, others }`, of which each
 * may be missing. A panel that names a column which is not there is told so.
 */
export function rolesOf(panel, columns) {
  const given = (name) => (name == null ? null : named(columns, name));
  const numbers = columns.filter((c) => isNumber(c.type));
  const [own, usually] = [given(panel.value), given(panel.usual)];
  const label = given(panel.label) ?? columns.find((c) => !isNumber(c.type) && c !== own && c !== usually) ?? null;
  const value = own ?? numbers.find((c) => c !== usually && c !== label) ?? null;
  const usual = usually ?? numbers.find((c) => c !== value && c !== label) ?? null;
  const others = columns.filter((c) => c !== label && c !== value);
  return { time: columns.find((c) => isTime(c.type)) ?? null, label, value, usual, numbers, others };
}

/** A value for charts, which may round; null where it is no number. */
export function plain(value) {
  const amount = value == null || value === '' ? NaN : Number(value);
  return Number.isFinite(amount) ? amount : null;
}

/** A value as people read it. */
export const shown = (value) =>
  (value == null ? '–' : typeof value === 'number' || typeof value?.valueOf() === 'number' ? number(value) : text(value));

/** How much of the largest each row is, from 0 to 1. */
export function sharesOf(rows, value) {
  const amounts = rows.map((row) => Math.max(0, plain(row[value.name]) ?? 0));
  const most = Math.max(...amounts, 0);
  return amounts.map((amount) => (most > 0 ? amount / most : 0));
}

/**
 * Lines over the first time: `{ at, lines, isByDay, left }`. With a label each of its values is a line of its own;
 * `left` is how many lines are more than `most`.
 */
export function linesOf(panel, { columns, rows }, most) {
  const { time, label, value, numbers } = rolesOf(panel, columns);
  if (!time) throw new Error('the answer has no time; a series needs a column that is a timestamp or a date');
  const isMoment = (at) => isTimestamp(at) || isDate(at);
  const known = rows.filter((row) => isMoment(row[time.name]));
  const seconds = (row) => instant(row[time.name]) / 1000;
  const at = [...new Set(known.map(seconds))].sort((a, b) => a - b);
  const place = new Map(at.map((each, nth) => [each, nth]));
  const all = new Map();
  const put = (name, row, amount) => {
    if (!all.has(name)) all.set(name, at.map(() => null));
    all.get(name)[place.get(seconds(row))] = plain(amount);
  };
  const isParted = panel.label != null && label !== time;
  const drawn = panel.value != null || isParted ? [value] : numbers;
  if (!drawn[0]) throw new Error('the answer has no number that could be drawn');
  for (const row of known) {
    for (const column of drawn) put(isParted ? text(row[label.name]) : column.name, row, row[column.name]);
  }
  const lines = [...all].map(([name, values]) => ({ name, values }));
  const isByDay = known.length > 0 && known.every((row) => isDate(row[time.name]));
  return { at, lines: lines.slice(0, most), isByDay, left: Math.max(0, lines.length - most) };
}

/** Less than half a percent is no difference that is written. */
const SAME = 0.5;

/** How a value is to what is usual: `{ percent, is }`; null where there is nothing usual. */
export function compared(value, usual) {
  const [now, before] = [plain(value), plain(usual)];
  if (now === null || before === null || (before === 0 && now !== 0)) return null;
  const percent = before === 0 ? 0 : ((now - before) / Math.abs(before)) * 100;
  return { percent, is: Math.abs(percent) < SAME ? 'same' : percent > 0 ? 'more' : 'less' };
}
