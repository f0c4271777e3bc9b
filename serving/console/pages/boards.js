// Boards: panels to leave open, in a window or on a wall. What they ask is in files of the project; each
// panel loads by itself, as often as the daemon says.

import { html, useEffect, useLayoutEffect, useMemo } from '../vendor/preact-htm.module.js';
import { boards, board as readBoard, panel as readPanel } from '../api.js';
import { everyOf, paceOf } from '../boards.js';
import { Drawn } from '../components/panel.js';
import { Code, Empty, Heading, Link, Loaded, Mark, Part, Problem, Prose, Since, useId } from '../components/parts.js';
import { clock, instant, span, time } from '../format.js';
import { useLoad, useNow, useOldness } from '../load.js';
import { go, href } from '../router.js';

/** How often it is looked whether a file was edited, in milliseconds. */
const EDITS = 5_000;

const EXAMPLE = `title = "Newsroom"

[[panels]]
title = "Page views today"
form = "number"          # or series, ranking, benchmark, table
unit = "views"
sql = """
SELECT sum(page_views) AS page_views FROM site_hours
WHERE hour >= date_trunc('day', now())
"""`;

export const Boards = ({ name }) => (name === undefined ? html`<${List} />` : html`<${Board} name=${name} />`);

const ABOUT = 'Numbers to leave open, in a window or on a wall. Each board is a file of the project.';

function List() {
  const load = useLoad(boards, [], { every: EDITS });
  return html`
    <${Heading} about=${ABOUT}>Boards<//>
    <${Part} title="All boards" load=${load} isQuiet>
      ${(all) => (all.length === 0 ? html`<${NoBoards} />` : html`
        <ul class="boards">
          ${all.map(({ name, title, error }) => html`
            <li key=${name}>
              ${error
                ? html`<strong>${name}</strong><${Wrong} error=${error} />`
                : html`<${Link} to=${['boards', name]}><bdi>${title}</bdi><//> <code class="soft">boards/${name}.toml</code>`}
            </li>`)}
        </ul>`)}
    <//>`;
}

const NoBoards = () => html`
  <${Empty}>
    <p>No boards yet. Write one as a file <code>boards/NAME.toml</code> of the project; it is here as soon as it is saved:</p>
    <${Code} text=${EXAMPLE} label="An example of a board" />
  <//>`;

/** What is wrong with a file or a statement, whole. */
export const Wrong = ({ error, isOld }) => html`<${Problem} error=${error} isOld=${isOld} isWhole />`;

/** A board. On a wall there is nothing else. */
export function Board({ name, isWall = false }) {
  const load = useLoad((signal) => readBoard(name, signal), [name], { every: EDITS });
  const title = load.value?.title ?? name;
  return html`
    <div class="with-actions board-head">
      <${Heading}><bdi>${title}</bdi><//>
      ${isWall ? html`<${OfDay} />` : html`
        <p class="actions">
          <${Link} to=${['boards']}>All boards<//>
          <${Link} to=${['boards', name]} query=${{ wall: '' }} class="button small">Show on a wall<//>
        </p>`}
    </div>
    <${Loaded} load=${{ ...load, every: undefined }} what=${title} problem=${Wrong}>
      ${({ panels }) => (panels.length === 0
        ? html`<${Empty}><p>This board has no panels. Add <code>[[panels]]</code> to <code>boards/${name}.toml</code>.</p><//>`
        : html`
          <div class="board">
            ${panels.map((panel, nth) => html`
              <${Panel} key=${`${nth} ${JSON.stringify(panel)}`} board=${name} nth=${nth} panel=${panel} isWall=${isWall}
                known=${load.error?.message} />`)}
          </div>`)}
    <//>`;
}

/** A panel, which stays the same as long as its key does. What is `known` to be wrong with the file is said above. */
function Panel({ board, nth, panel: given, isWall, known }) {
  const panel = useMemo(() => given, []);
  const load = useLoad((signal) => readPanel(board, nth, signal), [board, nth], { every: paceOf });
  const id = useId('panel');
  const error = load.error?.message === known ? undefined : load.error;
  const sql = isWall ? null : load.value?.sql;
  return html`
    <section class="part panel ${panel.form} ${panel.wide ? 'wide' : ''}" aria-labelledby=${id}>
      <div class="part-head">
        <h2 id=${id}><bdi>${panel.title}</bdi></h2>
        ${sql && html`<${Link} to=${['sql']} query=${{ q: sql }} class="button small" aria-label=${`SQL of ${panel.title}`}>SQL<//>`}
      </div>
      <${Loaded} load=${{ ...load, error, every: everyOf(load.value) }} what=${null} problem=${Wrong}>
        ${(value) => html`
          <${Drawn} panel=${panel} value=${value} />
          ${value.notes?.map((note) => html`<p class="soft note"><${Prose} text=${note} /></p>`)}`}
      <//>
      ${load.value && html`<${Age} of=${load.value} at=${load.at} />`}
    </section>`;
}

/** How old it is, with a sign where it should have been asked for again. */
function Age({ of, at }) {
  const isOld = useOldness({ at, every: everyOf(of) }) !== null;
  return html`
    <p class="age soft" title=${`Computed at ${time(of.computed_at)}, and again when what it reads has moved; ${of.freshness}`}>
      ${isOld && html`<${Mark} level="attention" />`}<${Since} at=${instant(of.computed_at)} /> ago, every ${span(Math.round(everyOf(of) / 1000))}
    </p>`;
}

/** What time it is: a wall that stands still is told by it. */
const OfDay = () => html`<p class="of-day">${clock(useNow()).slice(0, 5)}</p>`;

/** A board alone, in large type, which keeps the screen awake where the browser can. Escape leaves it. */
export function Wall({ name, children }) {
  useLayoutEffect(() => {
    document.documentElement.classList.add('wall');
    return () => document.documentElement.classList.remove('wall');
  }, []);
  useEffect(keepAwake, []);
  const out = href(['boards', name]);
  // At once: a key may be pressed as soon as the wall is seen.
  useLayoutEffect(() => {
    const leave = (event) => event.key === 'Escape' && go(out);
    addEventListener('keydown', leave);
    return () => removeEventListener('keydown', leave);
  }, [out]);
  return html`
    <header><a class="skip" href=${out}>Leave the wall (Escape)</a></header>
    ${children}`;
}

/** The lock is given back by the browser whenever the page is hidden. */
function keepAwake() {
  let lock = null;
  let isOver = false;
  const take = async () => {
    if (document.hidden || isOver) return;
    try {
      lock = await navigator.wakeLock?.request('screen');
      if (isOver) lock?.release();
    } catch {
      // The screen may sleep.
    }
  };
  take();
  document.addEventListener('visibilitychange', take);
  return () => {
    isOver = true;
    lock?.release();
    document.removeEventListener('visibilitychange', take);
  };
}

/** The token of a wall is refused. */
export const TakenBack = ({ name, why }) => html`
  <section class="sign-in part">
    <h1 tabindex="-1">This link was taken back</h1>
    <p>The daemon does not accept its token any more, or it has expired: <${Prose} text=${why} />.</p>
    <p>Ask whoever gave you the link for a new one, or <a href=${href(['boards', name])}>sign in</a>.</p>
  </section>`;
