// How numbers, sizes and times are written. Owns in which zone times are shown.

import { Exact } from './json.js';
import { forThisBrowser, keep, kept, store } from './store.js';

const ZONE = 'anabranch.zone';

/** `local` or `utc`. */
export const zone = store(kept(forThisBrowser, ZONE, 'local') === 'utc' ? 'utc' : 'local');

export function setZone(to) {
  keep(forThisBrowser, ZONE, to);
  zone.set(to);
}

const NARROW = '\u202f';
const isUtc = () => zone.get() === 'utc';
const grouped = (digits) => digits.replace(/\B(?=(\d{3})+$)/g, NARROW);

/** A number with its thousands apart, and at most so many digits after the point. */
export function number(value, digits = 3) {
  if (value == null) return '–';
  if (value instanceof Exact) return value.text.replace(/^-?\d+/, grouped);
  if (!Number.isFinite(value)) return String(value);
  const [whole, part] = Math.abs(value).toFixed(Number.isInteger(value) ? 0 : digits).split('.');
  const rest = part?.replace(/0+$/, '');
  return `${value < 0 ? '−' : ''}${grouped(whole)}${rest ? `.${rest}` : ''}`;
}

/** Three digits of a number and its size: `12.3 k`. For axes and cards. */
export function short(value) {
  if (value == null) return '–';
  const plain = Number(value);
  const size = Math.abs(plain);
  if (!Number.isFinite(plain)) return String(plain);
  for (const [least, sign] of [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k']]) {
    if (size >= least) {
      const unit = sign === 'k' ? 1e3 : least;
      return `${Number((plain / unit).toPrecision(3))}${NARROW}${sign}`;
    }
  }
  return number(size < 1000 ? Number(plain.toPrecision(3)) : plain, 0);
}

export function bytes(value) {
  if (value == null) return '–';
  let left = Number(value);
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let at = 0;
  while (Math.abs(left) >= 1000 && at < units.length - 1) {
    left /= 1000;
    at += 1;
  }
  return `${number(left, left < 10 && at > 0 ? 2 : at > 0 ? 1 : 0)}${NARROW}${units[at]}`;
}

/** A span of time in seconds: `340 ms`, `12 s`, `5 min`, `3 h 20 min`, `4 d`. */
export function span(seconds) {
  if (seconds == null || !Number.isFinite(Number(seconds))) return '–';
  const left = Math.max(0, Number(seconds));
  if (left < 1) return `${Math.round(left * 1000)}${NARROW}ms`;
  if (left < 10) return `${number(left, 1)}${NARROW}s`;
  if (left < 120) return `${Math.round(left)}${NARROW}s`;
  if (left < 7200) return `${Math.floor(left / 60)}${NARROW}min`;
  if (left < 172_800) {
    const minutes = Math.floor((left % 3600) / 60);
    return `${Math.floor(left / 3600)}${NARROW}h${minutes ? ` ${minutes}${NARROW}min` : ''}`;
  }
  return `${number(Math.floor(left / 86_400))}${NARROW}d`;
}

/** How long ago something was; what is not a second old is now. */
export const ago = (seconds) => (seconds == null ? '–' : seconds < 1 ? 'just now' : `${span(Math.floor(seconds))} ago`);

const TIMESTAMP = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?$/;
const DATE = /^\d{4}-\d\d-\d\d$/;

export const isTimestamp = (value) => typeof value === 'string' && TIMESTAMP.test(value);
export const isDate = (value) => typeof value === 'string' && DATE.test(value);

/** Milliseconds since 1970 of a time as the daemon writes it; what names no zone is in UTC. */
export function instant(text) {
  if (typeof text === 'number') return text;
  const found = TIMESTAMP.exec(text ?? '');
  if (!found) return Date.parse(text);
  return Date.parse(`${found[1]}T${found[2]}${(found[3] ?? '').slice(0, 4)}${found[4] ?? 'Z'}`);
}

/** `2026-11-30 10:02:03`, in the zone that the reader chose, with the fraction that the text has. */
export function time(value) {
  if (value == null || value === '') return '–';
  // A day is the same in all zones.
  if (isDate(value)) return value;
  const ms = instant(value);
  if (!Number.isFinite(ms)) return String(value);
  const shift = isUtc() ? 0 : new Date(ms).getTimezoneOffset() * 60_000;
  const fraction = (TIMESTAMP.exec(value)?.[3] ?? '').replace(/\.?0+$/, '');
  return new Date(ms - shift).toISOString().replace('T', ' ').replace(/\..*/, fraction);
}

/** The same without parts of a second, and without the day where that is today. */
export function clock(value) {
  const ms = instant(value);
  if (!Number.isFinite(ms)) return '–';
  const whole = time(ms);
  const today = time(Date.now()).slice(0, 10);
  return whole.startsWith(today) ? whole.slice(11) : whole.slice(0, 16);
}

/** The day of a moment in UTC, in which days are cut. */
export const day = (ms) => new Date(ms).toISOString().slice(0, 10);

/** What the reader's zone is called. */
export const zoneName = () => (isUtc() ? 'UTC' : Intl.DateTimeFormat().resolvedOptions().timeZone || 'local time');

/** A value of an answer as text, whole. NULL is told apart by whoever shows it. */
export function text(value) {
  if (value === null || value === undefined) return 'NULL';
  if (typeof value === 'string') return value;
  if (value instanceof Exact) return value.text;
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** `1 fact`, `2 facts`. */
export const counted = (count, one, many) => `${number(count)} ${Number(count) === 1 ? one : many}`;
