// How far everything is: heads, boundaries, what lies between, and how fast heads move.

import { Refusal, access, connection, relations as askRelations, rows, status as askStatus } from './api.js';

/** Places by partition, from `0:133 1:20`, `{"0": 133}` or pairs. */
export function offsets(from) {
  if (from == null) return [];
  if (typeof from === 'string') {
    const pairs = from.split(' ').map((pair) => pair.split(':').map(Number));
    return pairs.filter((pair) => pair.length === 2 && pair.every(Number.isFinite));
  }
  const pairs = Array.isArray(from) ? from : Object.entries(from);
  return pairs.map(([partition, offset]) => [Number(partition), Number(offset)]);
}

/** How many places there are up to here. */
export const placesUpTo = (from) => offsets(from).reduce((sum, [, offset]) => sum + offset, 0);

/** Where there is no such function, it is asked for once: of each daemon, and by each user. */
let hasFunction = true;
const mayHaveIt = () => {
  hasFunction = true;
};
access.watch(mayHaveIt);
connection.watch(mayHaveIt);

/** The same as `askFreshness`, and it is noted how far heads are. */
export async function freshness(signal) {
  const all = await askFreshness(signal);
  noteHeads(all);
  return all;
}

/**
 * Each relation with `relation, kind, topic, generation, boundary, head, in_delta, newest_ingested_at,
 * age_seconds`, of which a daemon that can't tell leaves out the last ones.
 */
async function askFreshness(signal) {
  if (hasFunction) {
    try {
      return await rows('SELECT * FROM anabranch_freshness()', { signal });
    } catch (error) {
      const isMissing = error instanceof Refusal && /anabranch_freshness/.test(error.message);
      if (!isMissing) throw error;
      hasFunction = false;
    }
  }
  const [status, relations] = await Promise.all([askStatus(signal), askRelations(signal)]);
  return fromStatus(status, relations);
}

/** The same from what the daemon says of its state, as far as it does. */
export function fromStatus(status, relations) {
  const all = [];
  const headOf = (topic) => {
    const landed = offsets(status.landed?.[topic]);
    const waiting = Number(status.unlanded_facts?.[topic] ?? 0);
    // Which partition waits is not known; the sum is what counts.
    return landed.length ? landed.map(([p, o], at) => `${p}:${at === 0 ? o + waiting : o}`).join(' ') : `0:${waiting}`;
  };
  for (const { name, kind, topic } of relations) {
    if (kind === 'topic') all.push({ relation: name, kind, topic: name, head: headOf(name) });
    if (kind !== 'view' || !topic) continue;
    const { generation, boundary } = status.served?.[name] ?? {};
    const head = headOf(topic);
    const inDelta = boundary == null ? null : Math.max(0, placesUpTo(head) - placesUpTo(boundary));
    all.push({ relation: name, kind, topic, generation, boundary, head, in_delta: inDelta });
  }
  return all;
}

/** What heads were, to tell how fast they move. */
const samples = [];
const KEPT_MS = 300_000;
const LOOK_BACK_MS = 10_000;

/** Two samples that lie closer say nothing of a rate. */
const LEAST_APART_MS = 500;

/** Notes the heads of topics, which are those of their views too. */
export function noteHeads(all, at = Date.now()) {
  if (samples.length && at - samples.at(-1).at < LEAST_APART_MS) return;
  const heads = new Map();
  for (const { topic, relation, head } of all) heads.set(topic ?? relation, placesUpTo(head));
  samples.push({ at, heads });
  while (samples[0].at < at - KEPT_MS) samples.shift();
}

/** Facts a second of a topic over the last seconds; null where there is one sample only. */
export function rate(topic) {
  const last = samples.at(-1);
  if (!last?.heads.has(topic)) return null;
  const first = samples.find((s) => s.at >= last.at - LOOK_BACK_MS && s.heads.has(topic));
  if (!first || first === last) return null;
  return Math.max(0, (last.heads.get(topic) - first.heads.get(topic)) / ((last.at - first.at) / 1000));
}

/** Facts a second between each two samples of a topic: what the small lines draw. */
export function rates(topic) {
  const known = samples.filter((s) => s.heads.has(topic));
  return known.slice(1).map((s, at) => {
    const before = known[at];
    return Math.max(0, (s.heads.get(topic) - before.heads.get(topic)) / ((s.at - before.at) / 1000));
  });
}
