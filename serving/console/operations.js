// Operations: what may be asked for, in words, and how one that was begun is followed to its end.

import { useEffect, useRef, useState } from './vendor/preact-htm.module.js';
import { begin as ask, operation, stopOperation } from './api.js';
import { instant } from './format.js';
import { useLoad } from './load.js';

/** What each button does, in the words of its command. `asked` is what the daemon is sent. */
const WORDS = {
  refresh: ({ view }) => [`Refresh ${view}`, 'Absorbs the facts that landed since the last build. What it answers stays the same.'],
  rebuild: ({ view }) => [
    `Rebuild ${view}`,
    'Builds it anew from the whole log, by the definition that answers. It answers as before until that is done.',
  ],
  verify: ({ view }) => [`Verify ${view}`, 'Compares its answers with a recompute from the raw facts. Nothing is changed.'],
  diff: ({ view }) => [`Compare ${view}`, 'Compares two of its generations row by row, at the same offsets. Nothing is changed.'],
  apply: ({ views, cut_over: cutsOver }) => (cutsOver
    ? [
      `Apply ${views?.join(', ') ?? 'all changes'}`,
      'Builds what changed, compares it with what answers, lets the gates decide, and cuts over.',
    ]
    : [
      `Build and compare ${views?.join(', ') ?? 'all changes'}`,
      'Builds what changed beside what answers, and compares both. What answers stays as it is.',
    ]),
  roll_back: ({ view }) => [
    `Roll back ${view}`,
    'The generation that answered before answers again, with all facts that came since. A second roll-back takes it back.',
  ],
  retry: ({ dry_run: isDry }) => (isDry
    ? ['Try the fix', 'Tells what would become of the dead letters. Nothing is written.']
    : ['Retry dead letters', 'Those that become facts now are written as new facts, once however often they are retried.']),
};

/** `{ title, says }` of what is asked for. */
export function wordsOf(asked) {
  const [title, says] = WORDS[asked.do](asked);
  return { title, says };
}

/** Whether it takes a text that says why, which is kept with the history of the view. */
export const takesWhy = (asked) => asked.do === 'apply' || asked.do === 'roll_back';

export const isOver = (of) => !['waiting', 'running'].includes(of.state);

/** What came of an operation: how it stands, as a sign and in a sentence. */
export function outcomeOf({ do: what, state }) {
  if (state === 'differs') return { level: 'attention', says: FOUND[what] ?? 'It has ended, and found something.' };
  return OUTCOMES[state] ?? { level: 'note', says: state };
}

const OUTCOMES = {
  waiting: { level: 'note', says: 'It waits for its turn.' },
  running: { level: 'note', says: 'It runs.' },
  done: { level: 'good', says: 'Done.' },
  stopped: { level: 'note', says: 'Stopped. What was built stays, and the same command goes on with it.' },
  failed: { level: 'red', says: 'It failed.' },
};

const FOUND = {
  apply: 'A gate is broken. What answers has not changed, and the candidate stays. Mend the view or its gate, and apply again.',
  diff: 'They differ.',
  verify: 'Its answers differ from the recompute.',
  retry: 'Some can\'t become facts.',
};

/** What was begun last here: whoever begins something is led to it. */
let begun = null;

/** Begins what is asked for. Gives the operation. */
export async function begin(asked) {
  begun = await ask(asked);
  return begun;
}

/** How often an operation that runs is looked at, in milliseconds: the longer it runs, the less often. */
const SOONEST = 500;
const LATEST = 2_000;

/** When an operation is looked at again; never where it is over. */
export function pace(of, error, now = Date.now()) {
  if (error && error.status < 500) return null;
  if (!of) return LATEST;
  return isOver(of) ? null : Math.min(LATEST, Math.max(SOONEST, (now - instant(of.begun_at)) / 20));
}

/** Facts a second between two looks `{ at, done }`; null where they are too near. */
export const speedOf = (first, last) =>
  (last.at - first.at < SOONEST ? null : Math.max(0, (last.done - first.done) / ((last.at - first.at) / 1000)));

/**
 * Follows an operation: what was loaded of it, with its `speed`, whether it was begun here (`isMine`),
 * and how it is stopped. `onEnd` is told the operation when it is over, also where it was before.
 */
export function useOperation(id, onEnd) {
  const mine = useRef(begun?.id === id ? begun : null).current;
  const first = useRef(null);
  const [stopping, setStopping] = useState({});
  const load = useLoad((signal) => operation(id, signal), [id], { every: pace });
  const value = load.value ?? mine;
  const ended = Boolean(value) && isOver(value);
  useEffect(() => {
    begun = null;
    if (ended) onEnd?.(value);
  }, [ended]);
  const look = value?.progress && load.at && { at: load.at, done: Number(value.progress.done) };
  // Each view of an apply begins anew.
  if (look && !(first.current?.done <= look.done)) first.current = look;
  const stop = async () => {
    setStopping({ isStopping: true });
    try {
      await stopOperation(id);
      load.again();
    } catch (error) {
      setStopping({ error });
    }
  };
  const error = load.error ?? stopping.error;
  const speed = look ? speedOf(first.current, look) : null;
  return { value, error, speed, isMine: mine !== null, stop, isStopping: stopping.isStopping };
}
