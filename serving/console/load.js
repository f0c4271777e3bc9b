// How a part of a page gets what it shows: each by itself, again every so often while the page is
// visible, and never after the reader has left.

import { useCallback, useEffect, useState } from './vendor/preact-htm.module.js';
import { NoAnswer, access, answeredAt, connection } from './api.js';
import { useStore } from './store.js';

/** How often what is watched is asked for again, in milliseconds. */
export const SOON = 2_000;
export const LATER = 15_000;

/** What is older than so many intervals is shown as old. */
const OLD_AFTER = 3;

/**
 * Loads with `load(signal)`, again when one of `deps` changes and every `every` milliseconds, if that is
 * given: a number, or a function of the last value and error that gives one, or null for no more. The last
 * value stays while the next one is on its way; `isFormer` says that it is of other `deps`. Gives `{ value, at, error, isLoading, isFormer, every, again }`.
 */
export function useLoad(load, deps, { every } = {}) {
  const [state, setState] = useState({ isLoading: true });
  const [turn, setTurn] = useState(0);
  const { returns } = useStore(connection);
  const { token } = useStore(access);
  useEffect(() => {
    const controller = new AbortController();
    let timer = null;
    let isFirst = true;
    let wait = every;
    let last;
    const after = (error) => {
      wait = typeof every === 'function' ? every(last, error) : every;
      if (wait) timer = setTimeout(run, wait);
    };
    const run = async () => {
      timer = null;
      if (!isFirst && (document.hidden || !connection.get().answers)) {
        timer = setTimeout(run, wait);
        return;
      }
      isFirst = false;
      try {
        const value = await load(controller.signal);
        if (controller.signal.aborted) return;
        last = value;
        setState({ value, of: deps, at: Date.now(), isLoading: false });
      } catch (error) {
        if (controller.signal.aborted) return;
        setState((before) => ({ ...before, error, isLoading: false }));
        after(error);
        return;
      }
      after();
    };
    const seen = () => {
      if (document.hidden || timer === null) return;
      clearTimeout(timer);
      run();
    };
    setState((before) => ({ ...before, isLoading: true }));
    run();
    document.addEventListener('visibilitychange', seen);
    return () => {
      controller.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }, [...deps, turn, returns, token, every]);
  const again = useCallback(() => setTurn((before) => before + 1), []);
  const isFormer = state.of !== undefined && state.of.some((dep, nth) => dep !== deps[nth]);
  return { ...state, isFormer, every, again };
}

/** The time, once a second, for whatever shows an age. */
export function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/** How old what was loaded is, in whole seconds, where that is older than it should be; else null. */
export function useOldness({ at, every }) {
  const [age, setAge] = useState(null);
  useEffect(() => {
    const look = () => {
      const passed = Date.now() - at;
      setAge(at && every && passed > OLD_AFTER * every ? Math.floor(passed / 1000) : null);
    };
    look();
    if (!at || !every) return undefined;
    const timer = setInterval(look, 1000);
    return () => clearInterval(timer);
  }, [at, every]);
  return age;
}

/** A daemon that takes longer to say that it is there does not answer. */
const MOST_PATIENCE = 30_000;

/** Looks whether the daemon answers, with `ask(signal)`, as long as nothing else asks it. */
export function useHeartbeat(ask) {
  useEffect(() => {
    const beat = async () => {
      const isQuiet = Date.now() - answeredAt() > SOON || !connection.get().answers;
      if (document.hidden || !isQuiet) return;
      try {
        await ask(AbortSignal.timeout(MOST_PATIENCE));
      } catch (error) {
        if (!(error instanceof NoAnswer) && error.status !== 401) console.warn(error.message);
      }
    };
    beat();
    const timer = setInterval(beat, SOON);
    document.addEventListener('visibilitychange', beat);
    return () => {
      clearInterval(timer);
      document.removeEventListener('visibilitychange', beat);
    };
  }, [ask]);
}
