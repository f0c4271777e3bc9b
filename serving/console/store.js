// A value that several parts of the page watch, and the hook with which they do.

import { useEffect, useState } from './vendor/preact-htm.module.js';

export function store(value) {
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      value = next;
      for (const watcher of [...watchers]) watcher(next);
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

/** The value of a store. The component is drawn again when it changes. */
export function useStore(of) {
  const [value, setValue] = useState(of.get());
  useEffect(() => {
    // It may have changed between drawing and this effect.
    setValue(of.get());
    return of.watch((next) => setValue(next));
  }, [of]);
  return value;
}

/** What the browser keeps under a name; `otherwise` where it keeps nothing, or may not. */
export function kept(area, name, otherwise) {
  try {
    return area().getItem(name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keeps a text under a name, or forgets it where it is null. A browser may refuse; then it is not kept. */
export function keep(area, name, text) {
  try {
    if (text === null) area().removeItem(name);
    else area().setItem(name, text);
  } catch {
    // Private windows and full storage: the page works without.
  }
}

export const forThisTab = () => sessionStorage;
export const forThisBrowser = () => localStorage;
