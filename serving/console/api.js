// How the console asks the daemon. Owns the token, how errors are told apart, and whether the daemon
// answers at all.

import { parse, namesInOrder } from './json.js';
import { forThisTab, keep, kept, store } from './store.js';

/** Where the daemon's paths begin: one folder above this file, whatever prefix a proxy puts before it. */
const ROOT = new URL('../', import.meta.url);

/** The address of a path of the daemon's, as others reach it. */
export const addressOf = (path) => new URL(path, ROOT).href;

const TOKEN = 'anabranch.token';

/** The daemon answered that it will not, and why. */
export class Refusal extends Error {
  constructor(message, status, { kind, line, column } = {}) {
    super(message);
    Object.assign(this, { status, kind, line, column });
  }
}

/** Nobody answered. */
export class NoAnswer extends Error {
  constructor() {
    super('the daemon does not answer');
  }
}

/** Who asks: the token of this tab, and whether the daemon wants another one, with its reason. */
export const access = store({ token: kept(forThisTab, TOKEN, null), isWanted: false, why: null });

/** Whether the daemon answers, since when it does not, and how often it has come back. */
export const connection = store({ answers: true, since: null, returns: 0 });

export function signIn(token) {
  keep(forThisTab, TOKEN, token);
  access.set({ token, isWanted: false, why: null });
}

export function signOut() {
  keep(forThisTab, TOKEN, null);
  access.set({ token: null, isWanted: true, why: null });
}

let lastAnswerAt = 0;

/** When the daemon last answered anything, in milliseconds. */
export const answeredAt = () => lastAnswerAt;

function noteAnswer() {
  lastAnswerAt = Date.now();
  const { answers, returns } = connection.get();
  if (!answers) connection.set({ answers: true, since: null, returns: returns + 1 });
}

function noteSilence() {
  const before = connection.get();
  if (before.answers) connection.set({ ...before, answers: false, since: Date.now() });
}

/** Sends a request. Its answer may be an error; that it comes is all that counts here. */
async function send(path, { method = 'GET', headers = {}, body, signal, as } = {}) {
  const token = as ?? access.get().token;
  const shown = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    const options = { method, headers: { ...headers, ...shown }, body, signal, cache: 'no-store' };
    response = await fetch(new URL(path, ROOT), options);
  } catch (error) {
    // Whoever leaves does not want it any more; whoever has waited too long has no answer.
    if (signal?.aborted && signal.reason?.name !== 'TimeoutError') throw error;
    noteSilence();
    throw new NoAnswer();
  }
  const isJson = (response.headers.get('content-type') ?? '').includes('json');
  if ([502, 503, 504].includes(response.status) && !isJson) {
    // A proxy speaks in the daemon's place.
    noteSilence();
    throw new NoAnswer();
  }
  noteAnswer();
  return response;
}

async function refusal(response) {
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    body = { error: text.slice(0, 500) };
  }
  const message = String(body?.error || `the daemon answers with status ${response.status}`);
  const { token, isWanted } = access.get();
  if (response.status === 401 && !isWanted) {
    access.set({ token, isWanted: true, why: token ? message : null });
  }
  return new Refusal(message, response.status, body ?? {});
}

async function answered(response, alsoGood = []) {
  if (response.ok || alsoGood.includes(response.status)) return response;
  throw await refusal(response);
}

/**
 * What a path answers, which is JSON. `alsoGood` are statuses whose body is an answer all the same; `as`
 * is a token that is only tried.
 */
async function get(path, { signal, alsoGood, as } = {}) {
  const response = await answered(await send(path, { signal, as }), alsoGood);
  return parse(await response.text());
}

export const health = (signal) => get('health', { signal });
export const ready = (signal) => get('ready', { signal, alsoGood: [503] });
export const status = (signal) => get('status', { signal });
export const relations = (signal) => get('relations?as=objects', { signal });
export const queries = async (signal) => (await get('queries', { signal })).queries;

/** Stops a query. */
export async function cancelQuery(id) {
  await answered(await send(`queries/${encodeURIComponent(id)}`, { method: 'DELETE' }));
}

/** Who asks, as the daemon knows them, and whether they may act. */
export const whoami = (signal, as) => get('whoami', { signal, as });

/** Boards that one may look at, each with why it can't be read, if it can't. */
export const boards = async (signal) => (await get('boards', { signal })).boards;

/** A board without what it shows. */
export const board = (name, signal) => get(`boards/${encodeURIComponent(name)}`, { signal });

/** What a panel of a board shows, by its place. Each waits for its turn, as statements do. */
export const panel = (name, nth, signal) =>
  inTurn(signal, () => get(`boards/${encodeURIComponent(name)}/${nth}`, { signal }));

/** What would change, of all views or of these alone. */
export function plan(views, signal) {
  const query = new URLSearchParams(views.map((view) => ['view', view])).toString();
  return get(`plan${query && `?${query}`}`, { signal });
}

/** Operations that run or ran, the newest first, without what they said. */
export const operations = async (signal) => (await get('operations', { signal })).operations;

/** An operation, whole. */
export const operation = (id, signal) => get(operationPath(id), { signal });

const operationPath = (id) => `operations/${encodeURIComponent(id)}`;

/** The command that does what is asked for. Nothing is done. */
export const commandOf = async (asked, signal) => (await post('operations?show=true', asked, signal)).command;

/** Begins what is asked for. Gives the operation. */
export const begin = (asked) => post('operations', asked);

/** Stops an operation. */
export async function stopOperation(id) {
  const response = await answered(await send(operationPath(id), { method: 'DELETE' }));
  return parse(await response.text());
}

async function post(path, asked, signal) {
  const headers = { 'content-type': 'application/json' };
  const options = { method: 'POST', headers, body: JSON.stringify(asked), signal };
  const response = await answered(await send(path, options));
  return parse(await response.text());
}

/** A header's text, which is percent-encoded; null where there is none. */
const headerText = (response, name) => headerTexts(response, name).join(', ') || null;

/** The texts of headers of one name, which are percent-encoded. */
function headerTexts(response, name) {
  const values = (response.headers.get(name) ?? '').split(', ').filter(Boolean);
  return values.map((value) => {
    try {
      return decodeURIComponent(value);
    } catch {
      return value;
    }
  });
}

/**
 * How many statements are asked at once. A browser sends six requests at a time to one place, and what
 * tells how the daemon is must not wait for statements that take long.
 */
const AT_ONCE = 4;

let asking = 0;
const waiting = [];

/** Does work when it is its turn. Whoever gives up while waiting has none. */
async function inTurn(signal, work) {
  if (asking < AT_ONCE) {
    asking += 1;
  } else {
    await new Promise((resolve, reject) => {
      waiting.push(resolve);
      signal?.addEventListener('abort', () => {
        const at = waiting.indexOf(resolve);
        if (at < 0) return;
        waiting.splice(at, 1);
        reject(signal.reason);
      });
    });
  }
  try {
    return await work();
  } finally {
    // A turn goes to the next who waits, so the count stays.
    const next = waiting.shift();
    if (next) next();
    else asking -= 1;
  }
}

/** Asks a statement in its turn, which lasts until `read(response)` is done. */
function ask(statement, parameters, { accept, signal, receipt }, read) {
  return inTurn(signal, async () => {
    const headers = { 'content-type': 'application/json', accept };
    const body = JSON.stringify({ sql: statement, parameters });
    const path = receipt ? 'sql?receipt=true' : 'sql';
    return read(await answered(await send(path, { method: 'POST', headers, body, signal })));
  });
}

/** Whether what a receipt is of comes to the same now, and if not what differs. */
export async function replay(receipt) {
  const headers = { 'content-type': 'text/plain' };
  const response = await answered(await send('replay', { method: 'POST', headers, body: receipt }));
  return parse(await response.text());
}

/** The rows of a statement, which is a text or has parameters, as objects. For answers that fit on a page. */
export function rows(asked, { signal } = {}) {
  const { sql = asked, parameters = [] } = asked;
  return ask(sql, parameters, { accept: 'application/json', signal }, async (response) => parse(await response.text()));
}

/** The rows of a statement as a file. */
export const csv = (statement, { signal } = {}) =>
  ask(statement, [], { accept: 'text/csv', signal }, (response) => response.blob());

/**
 * The answer of a statement, read line by line until `most.rows` or `most.cells`: its columns, its rows
 * as lists of values, whether there are more, and what the daemon says of it. `onProgress` is told how
 * many rows there are so far. With `receipt` it has one, by which it can be computed again.
 */
export function answer(statement, { signal, most, onProgress, receipt }) {
  const begun = performance.now();
  const how = { accept: 'application/x-ndjson', signal, receipt };
  return ask(statement, [], how, async (response) => {
    const result = await readAnswer(statement, response, { signal, most, onProgress });
    return { ...result, tookMs: performance.now() - begun };
  });
}

async function readAnswer(statement, response, { signal, most, onProgress }) {
  const result = {
    statement,
    columns: [],
    rows: [],
    hasMore: false,
    freshness: headerText(response, 'anabranch-freshness'),
    notes: headerTexts(response, 'anabranch-note'),
    receipt: headerText(response, 'anabranch-receipt'),
    readAt: Date.now(),
  };
  const take = (line) => {
    const row = parse(line);
    if (result.rows.length === 0) result.columns = namesInOrder(line, row);
    result.rows.push(result.columns.map((name) => row[name]));
  };
  const isFull = () =>
    result.rows.length >= most.rows || result.rows.length * result.columns.length >= most.cells;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let toldAt = performance.now();
  for (;;) {
    const { value, done } = await readPart(reader, signal, result.rows.length);
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split('\n');
    rest = done ? '' : lines.pop();
    for (const line of lines) {
      if (line === '') continue;
      if (isFull()) {
        result.hasMore = true;
        break;
      }
      take(line);
    }
    if (result.hasMore) {
      await reader.cancel();
      break;
    }
    if (done) break;
    if (performance.now() - toldAt > 200) {
      toldAt = performance.now();
      onProgress?.(result.rows.length);
    }
  }
  return result;
}

async function readPart(reader, signal, rowsSoFar) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(`the answer broke off after ${rowsSoFar} rows; run it again, or ask for less`, 0);
  }
}
