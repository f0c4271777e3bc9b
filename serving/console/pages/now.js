// Now: what needs somebody, what goes well, and how fresh everything is.

import { html, useMemo } from '../vendor/preact-htm.module.js';
import { connection, plan, ready, rows, status } from '../api.js';
import { attention } from '../attention.js';
import { Heading, Link, Loaded, Mark, NoTopics, NoViews, Part, Prose, Said, Spark, Split } from '../components/parts.js';
import { ago, counted, number, short, time } from '../format.js';
import { freshness, placesUpTo, rate, rates } from '../freshness.js';
import { LATER, SOON, useLoad, useNow } from '../load.js';
import { useStore } from '../store.js';
import { useWho } from '../who.js';

const LAST_CHECKS = `SELECT view, ended_at, outcome FROM jobs
WHERE job = 'verify' ORDER BY ended_at DESC LIMIT 1`;

export function Now() {
  const isReady = useLoad(ready, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  const fresh = useLoad(freshness, [], { every: SOON });
  const checks = useLoad((signal) => rows(LAST_CHECKS, { signal }), [], { every: LATER });
  const acts = useActs();
  const items = useMemo(
    () => attention(isReady.value ?? null, state.value ?? null, acts),
    [isReady.value, state.value, acts],
  );
  const { answers } = useStore(connection);
  // What one of the two can't tell, the other may.
  const known = isReady.value === undefined ? state : isReady;
  return html`
    <${Heading} about="What needs you, and how fresh each answer is. It is asked for again every 2 seconds.">Now<//>
    ${!answers && html`<${Part} title="What needs you first"><${Items} items=${[silence]} /><//>`}
    <${Part} title="What needs you" load=${known} class="attention">
      ${() => html`<${Attention} items=${items} ready=${isReady.value} state=${state} />`}
    <//>
    <${Part} title="What goes well" load=${fresh}>
      ${(all) => html`<${Well} all=${all} items=${items} checks=${checks.value} />`}
    <//>
    <${Part} title="Views" load=${fresh}>
      ${(all) => html`<${Cards} all=${all.filter((r) => r.kind === 'view')} card=${ViewCard} none=${NoViews} />`}
    <//>
    <${Part} title="Topics" load=${fresh}>
      ${(all) => html`<${Cards} all=${all.filter((r) => r.kind === 'topic')} card=${TopicCard} none=${NoTopics} />`}
    <//>`;
}

/** How often what waits for a button is asked for, in milliseconds: it takes more than a look. */
const SELDOM = 30_000;

const WAITING = `SELECT topic, count(*) AS dead FROM dead_letters
WHERE retried_at IS NULL GROUP BY topic ORDER BY topic`;

/** What waits for a button, for those who may press it: changes of the project, and dead letters. */
function useActs() {
  const { operates } = useWho();
  const ask = async (signal) => {
    if (!operates) return {};
    const otherwise = (value) => () => value;
    // A project that can't be read is told where it is applied; without a topic there are no dead letters.
    const [planned, letters] = await Promise.all([
      plan([], signal).catch(otherwise({ views: [] })),
      rows(WAITING, { signal }).catch(otherwise([])),
    ]);
    return { plan: planned, letters };
  };
  return useLoad(ask, [operates], { every: SELDOM }).value;
}

const silence = {
  level: 'red',
  about: 'the daemon',
  why: 'it does not answer: it has ended, or the way to it is cut. Its log says why it ended; `anabranch up` starts '
    + 'it again, and nothing that was acknowledged is lost',
};

function Attention({ items, ready: known, state }) {
  const notes = items.filter((item) => item.level === 'note');
  const urgent = items.filter((item) => item.level !== 'note');
  const isBlind = known && known.red === undefined;
  return html`
    <div aria-live="polite">
      ${urgent.length === 0 && !isBlind && html`<p class="verdict"><${Mark} level="good" /> Nothing needs you.</p>`}
      ${isBlind && html`
        <p class="verdict">
          <${Mark} level=${known.ready ? 'good' : 'red'} /> The daemon says that it is ${known.ready ? '' : 'not '}ready.
        </p>
        <p class="soft">Why it would not be is told to those who have the right <code>operate</code>.</p>`}
      ${urgent.length > 0 && html`<${Items} items=${urgent} />`}
    </div>
    ${state.error && state.value === undefined && !isBlind && html`
      <${Loaded} load=${state} what="The daemon's state">${() => null}<//>`}
    ${notes.length > 0 && html`
      <details open=${urgent.length === 0}>
        <summary>${counted(notes.length, 'note', 'notes')}</summary>
        <${Items} items=${notes} />
      </details>`}`;
}

const Items = ({ items }) => html`
  <ul class="items">
    ${items.map(({ level, about, why, link, mends }) => html`
      <li class=${level}>
        <${Mark} level=${level} isLabelled=${level !== 'note'} />
        <strong>${link ? html`<${Link} to=${link}>${about}<//>` : about}</strong>
        <${Said} text=${why} />
        ${mends && html`
          <p><${Link} class="button small" to=${mends.to} query=${mends.query} aria-label=${`${mends.says}: ${about}`}>${mends.says}<//></p>`}
      </li>`)}
  </ul>`;

function Well({ all, items, checks }) {
  const topics = new Map(all.map((r) => [r.topic ?? r.relation, r]));
  const views = all.filter((r) => r.kind === 'view');
  const speeds = [...topics.keys()].map(rate).filter((r) => r !== null);
  const speed = speeds.length ? speeds.reduce((sum, r) => sum + r, 0) : null;
  const ages = all.map((r) => r.age_seconds).filter((age) => age != null);
  const isEmpty = [...topics.values()].every((r) => placesUpTo(r.head) === 0);
  const failing = new Set(items.filter((i) => i.level !== 'note' && i.link?.[0] === 'views').map((i) => i.link[1]));
  const answering = views.filter((r) => !failing.has(r.relation)).length;
  const check = checks?.[0];
  return html`
    <ul class="well">
      ${topics.size > 0 && html`
        <li><${Speed} speed=${speed} ages=${ages} isEmpty=${isEmpty} topic=${[...topics.keys()][0]} /></li>`}
      <li>${answeringText(views.length, answering, failing.size)}</li>
      ${check && html`<li><${Check} of=${check} /></li>`}
      ${checks?.length === 0 && views.length > 0 && html`
        <li>
          No view is compared with its facts by a schedule yet (<code>verify_cron</code>).
          ${' '}<${Prose} text="\`anabranch verify\`" /> does it now.
        </li>`}
    </ul>`;
}

function answeringText(all, answering, failing) {
  if (all + failing === 0) return 'There is no view yet.';
  if (failing === 0) return `${all === 1 ? 'The view answers' : `All ${all} views answer`}, up to the newest fact.`;
  const others = counted(failing, 'view needs', 'views need');
  return `${counted(answering, 'view answers', 'views answer')} up to the newest fact; ${others} you.`;
}

function Speed({ speed, ages, isEmpty, topic }) {
  if (isEmpty) return html`No facts have come yet. <${Link} to=${['topics', topic]}>See how to send some<//>.`;
  const newest = ages.length > 0 && ` The newest came ${ago(Math.min(...ages))}.`;
  if (speed === null) return html`How fast facts come in is known in a moment.${newest}`;
  if (speed === 0) return html`No facts come in right now.${newest}`;
  return html`<strong>${number(speed, speed < 10 ? 1 : 0)}</strong> facts a second come in.${newest}`;
}

function Check({ of: { view, ended_at: endedAt, outcome } }) {
  const now = useNow();
  const age = (now - Date.parse(endedAt)) / 1000;
  const link = html`<${Link} to=${['views', view]}>${view}<//>`;
  return outcome === 'done'
    ? html`The last check, ${ago(age)}, compared ${link} with its facts: no difference. <span class="soft">(${time(endedAt)})</span>`
    : html`The last check, of ${link} ${ago(age)}, ${outcome}. <${Link} to=${['jobs']} query=${{ job: 'verify' }}>See why<//>`;
}

function Cards({ all, card: Card, none: None }) {
  if (all.length === 0) return html`<${None} />`;
  return html`<ul class="cards">${all.map((row) => html`<li key=${row.relation}><${Card} row=${row} /></li>`)}</ul>`;
}

function ViewCard({ row }) {
  const head = placesUpTo(row.head);
  const inDelta = row.in_delta ?? null;
  return html`
    <${Link} to=${['views', row.relation]} class="card">
      <span class="card-name">${row.relation}</span>
      <span class="card-main">${row.age_seconds == null ? `up to ${short(head)}` : ago(row.age_seconds)}</span>
      <${Split} head=${head} inDelta=${Number(inDelta ?? 0)} />
      <span class="soft">${inDelta === null ? 'delta not known' : `${number(inDelta)} of ${number(head)} in the delta`}</span>
    <//>`;
}

function TopicCard({ row }) {
  const speed = rate(row.relation);
  return html`
    <${Link} to=${['topics', row.relation]} class="card">
      <span class="card-name">${row.relation}</span>
      <span class="card-main">${speed === null ? '–' : `${short(speed)} a second`}</span>
      <${Spark} values=${rates(row.relation)} />
      <span class="soft">head ${number(placesUpTo(row.head))}${row.age_seconds != null && `, newest ${ago(row.age_seconds)}`}</span>
    <//>`;
}
