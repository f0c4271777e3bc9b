// Who asks, and what they may do: what they may not is not offered. The daemon decides again each time.

import { useEffect } from './vendor/preact-htm.module.js';
import { access, connection, whoami } from './api.js';
import { store, useStore } from './store.js';

const NOBODY = { user: null, rights: [], operates: false };

/** `{ user, rights, operates }`. Of an older daemon, which does not tell, nobody operates. */
export const who = store(NOBODY);

export const useWho = () => useStore(who);

/** Asks once for each token and each return of the daemon. For the frame around all pages. */
export function useWhoami() {
  const { token } = useStore(access);
  const { returns } = useStore(connection);
  useEffect(() => () => who.set(NOBODY), [token]);
  useEffect(() => {
    const controller = new AbortController();
    const take = (known) => controller.signal.aborted || who.set(known);
    whoami(controller.signal).then((known) => take(read(known)), () => take(NOBODY));
    return () => controller.abort();
  }, [token, returns]);
}

/** What is not as it should be offers nothing. */
export function read(known) {
  const { user = null, rights, operates } = known ?? {};
  return { user, rights: Array.isArray(rights) ? rights.map(String) : [], operates: operates === true };
}

/** Whether all that somebody may see are boards. */
export const seesBoardsAlone = (rights) => rights.length > 0 && rights.every((right) => right.startsWith('board '));

/** Whether rights let somebody send facts of a topic: `ingest page*` is a pattern. */
export const mayIngest = (rights, topic) =>
  rights.some((right) => right === 'admin' || (right.startsWith('ingest ') && isLike(right.slice(7).trim(), topic)));

/** `*` stands for any characters, `?` for one, `[ab]` for one of these. */
function isLike(pattern, name) {
  const written = { '*': '.*', '?': '.', '[': '[', ']': ']' };
  const parts = pattern.replace(/[^\w-]/g, (sign) => written[sign] ?? `\\${sign}`);
  return new RegExp(`^${parts}$`, 's').test(name);
}
