// The console: which page is shown, and what is around it.

import { html, render, useEffect, useErrorBoundary, useRef } from './vendor/preact-htm.module.js';
import { access, connection, health, ready, status, whoami } from './api.js';
import { attention } from './attention.js';
import { Heading, Problem } from './components/parts.js';
import { Shell, SignIn, Silence } from './components/shell.js';
import { zone } from './format.js';
import { LATER, useHeartbeat, useLoad } from './load.js';
import { Board, Boards, TakenBack, Wall } from './pages/boards.js';
import { Explore } from './pages/explore.js';
import { Jobs } from './pages/jobs.js';
import { Now } from './pages/now.js';
import { Sql } from './pages/sql.js';
import { System } from './pages/system.js';
import { Topics } from './pages/topics.js';
import { Views } from './pages/views.js';
import { isWall, route } from './router.js';
import { useStore } from './store.js';
import { seesBoardsAlone, useWho, useWhoami } from './who.js';

const PAGES = [
  { path: 'now', title: 'Now', page: Now },
  { path: 'explore', title: 'Explore', page: Explore },
  { path: 'sql', title: 'SQL', page: Sql },
  { path: 'boards', title: 'Boards', page: Boards },
  { path: 'views', title: 'Views', page: Views },
  { path: 'topics', title: 'Topics', page: Topics },
  { path: 'jobs', title: 'Jobs', page: Jobs },
  { path: 'system', title: 'System', page: System },
];

function App() {
  const place = useStore(route);
  // Times are written anew in another zone.
  useStore(zone);
  useWhoami();
  return isWall(place) ? html`<${OnWall} name=${place.path[1]} />` : html`<${Framed} ...${place} />`;
}

/** A board alone. Whoever sees only that may ask for nothing else. */
function OnWall({ name }) {
  const { isWanted, token, why } = useStore(access);
  useHeartbeat(isWanted ? nothing : whoami);
  useTitle(`${name} – Boards`, 0);
  useFocus(isWanted);
  const page = isWanted
    ? token ? html`<${TakenBack} name=${name} why=${why} />` : html`<${SignIn} />`
    : html`<${Guarded} key=${name}><${Board} name=${name} isWall /><//>`;
  return html`<${Wall} name=${name}><${Silence} /><main id="main" tabindex="-1">${page}</main><//>`;
}

const nothing = async () => {};

function Framed({ path, query }) {
  const { isWanted } = useStore(access);
  const { rights } = useWho();
  useHeartbeat(health);
  const urgent = useUrgent();
  const pages = seesBoardsAlone(rights) ? PAGES.filter((page) => page.page === Boards) : PAGES;
  const start = pages[0].path;
  const current = path[0] ?? start;
  const found = PAGES.find((page) => page.path === current);
  const place = isWanted ? 'sign-in' : path.join('/');
  useTitle(isWanted ? 'Sign in' : [path[1], found?.title ?? 'No such page'].filter(Boolean).join(' – '), urgent);
  useFocus(place);
  const page = isWanted
    ? html`<${SignIn} />`
    : found
      ? html`<${Guarded} key=${place}><${found.page} name=${path[1]} query=${query} /><//>`
      : html`<${NoPage} />`;
  return html`<${Shell} pages=${pages} start=${start} current=${isWanted ? null : current} urgent=${urgent}>${page}<//>`;
}

/** How many things need somebody; it is seen on each page. */
function useUrgent() {
  const { value } = useLoad(countUrgent, [], { every: LATER });
  return value ?? 0;
}

async function countUrgent(signal) {
  const isReady = await ready(signal);
  // Whoever is not told why may not see the rest either.
  const mayOperate = isReady.red !== undefined;
  const state = mayOperate ? await status(signal) : null;
  const urgent = attention(isReady, state).filter((item) => item.level !== 'note');
  return Math.max(urgent.length, isReady.ready ? 0 : 1);
}

/** A page that can't be drawn takes nothing else with it. */
function Guarded({ children }) {
  const [error, again] = useErrorBoundary((e) => console.error(e));
  if (error) return html`<${Heading}>This page can't be shown<//><${Problem} error=${error} again=${again} />`;
  return children;
}

const NoPage = () => html`
  <${Heading}>There is no such page<//>
  <p>What there is stands at the top. <a href="#/now">Go to what happens now</a>.</p>`;

/** The browser's tab tells of trouble too. */
function useTitle(title, urgent) {
  const { answers } = useStore(connection);
  const sign = answers ? (urgent > 0 ? `▲ ${urgent} ` : '') : '✕ ';
  useEffect(() => {
    document.title = `${sign}${title} – Anabranch`;
  }, [sign, title]);
}

/** Whoever goes to a page is at its heading, also with a screen reader. */
function useFocus(place) {
  const isFirst = useRef(true);
  useEffect(() => {
    if (!isFirst.current) document.querySelector('main h1')?.focus({ preventScroll: true });
    if (!isFirst.current) scrollTo(0, 0);
    isFirst.current = false;
  }, [place]);
}

render(html`<${App} />`, document.getElementById('app'));
