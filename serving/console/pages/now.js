// Now: what needs somebody, what goes well, and how fresh everything is.

import { html, useMemo } from '../vendor/preact-htm.module.js';
import { ready, rows, status } from '../api.js';
import { attention } from '../attention.js';
import { Empty, Heading, Link, Loaded, Mark, Part, Prose, Spark, Split } from '../components/parts.js';
import { ago, counted, number, short, time } from '../format.js';
import { freshness, noteHeads, placesUpTo, rate, rates } from '../freshness.js';
import { LATER, SOON, useLoad, useNow } from '../load.js';

const LAST_CHECKS = `SELECT view, ended_at, outcome FROM jobs
WHERE job = 'verify' ORDER BY ended_at DESC LIMIT 1`;

export function Now() {
  const isReady = useLoad(ready, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  const fresh = useLoad(loadFreshness, [], { every: SOON });
  const checks = useLoad((signal) => rows(LAST_CHECKS, { signal }), [], { every: LATER });
  const items = useMemo(
    () => attention(isReady.value ?? null, state.value ?? null),
    [isReady.value, state.value],
  );
  // What one of the two can't tell, the other may.
  const known = isReady.value === undefined ? state : isReady;
  return html`
    <${Heading} about="What needs you, and how fresh each answer is. It is asked for again every 2 seconds.">Now<//>
    <${Part} title="What needs you" load=${known} class="attention">
      ${() => html`<${Attention} items=${items} ready=${isReady.value} state=${state} />`}
    <//>
    <${Part} title="What goes well" load=${fresh}>
      ${(all) => html`<${Well} all=${all} items=${items} checks=${checks.value} />`}
    <//>
    <${Part} title="Views" load=${fresh}>
      ${(all) => html`<${Cards} all=${all.filter((r) => r.kind === 'view')} card=${ViewCard} empty=${noViews} />`}
    <//>
    <${Part} title="Topics" load=${fresh}>
      ${(all) => html`<${Cards} all=${all.filter((r) => r.kind === 'topic')} card=${TopicCard} empty=${noTopics} />`}
    <//>`;
}

async function loadFreshness(signal) {
  const all = await freshness(signal);
  noteHeads(all);
  return all;
}

function Attention({ items, ready: known, state }) {
  const notes = items.filter((item) => item.level === 'note');
  const urgent = items.filter((item) => item.level !== 'note');
  const isBlind = known && known.red === undefined;
  return html`
    <div aria-live="polite">
      ${urgent.length === 0 && !isBlind && html`<p class="verdict"><${Mark} level="good" /> Nothing needs you.</p>`}
      ${isBlind && html`
        <p class="verdict"><${Mark} level=${known.ready ? 'good' : 'red'} /> The daemon says that it is ${known.ready ? '' : 'not '}ready.</p>
        <p class="soft">Why it would not be is told to those who have the right <code>operate</code>.</p>`}
      ${urgent.length > 0 && html`<${Items} items=${urgent} />`}
    </div>
    ${state.error && state.value === undefined && !isBlind && html`<${Loaded} load=${state} what="The daemon's state">${() => null}<//>`}
    ${notes.length > 0 && html`
      <details open=${urgent.length === 0}><summary>${counted(notes.length, 'note', 'notes')}</summary><${Items} items=${notes} /></details>`}`;
}

const Items = ({ items }) => html`
  <ul class="items">
    ${items.map(({ level, about, why, link }) => html`
      <li class=${level}>
        <${Mark} level=${level} isLabelled=${level !== 'note'} />
        <strong>${link ? html`<${Link} to=${link}>${about}<//>` : about}</strong>
        <p><${Prose} text=${why} /></p>
      </li>`)}
  </ul>`;

function Well({ all, items, checks }) {
  const topics = all.filter((r) => r.kind === 'topic');
  const views = all.filter((r) => r.kind === 'view');
  const moving = topics.map((r) => rate(r.relation)).filter((r) => r !== null);
  const speed = moving.length ? moving.reduce((sum, r) => sum + r, 0) : null;
  const failing = new Set(items.filter((i) => i.level !== 'note' && i.link?.[0] === 'views').map((i) => i.link[1]));
  const ages = topics.map((r) => r.age_seconds).filter((age) => age != null);
  const check = checks?.[0];
  return html`
    <ul class="well">
      <li>${speed === null ? 'How fast facts come in is known in a moment.' : html`
        <strong>${number(speed, speed < 10 ? 1 : 0)}</strong> ${speed === 1 ? 'fact' : 'facts'} a second come in.`}
        ${ages.length > 0 && ` The newest came ${ago(Math.min(...ages))}.`}</li>
      <li>${views.length === 0 ? 'There are no views yet.' : failing.size === 0
        ? `${views.length === 1 ? 'The view answers' : `All ${views.length} views answer`}, up to the newest fact.`
        : `${counted(views.length - failing.size, 'view answers', 'views answer')} up to the newest fact; ${counted(failing.size, 'view needs', 'views need')} you.`}</li>
      ${check && html`<li><${Check} of=${check} /></li>`}
      ${checks?.length === 0 && html`<li>No view has been compared with its facts yet. <${Prose} text="\`anabranch verify\`" /> does that.</li>`}
    </ul>`;
}

function Check({ of: { view, ended_at: endedAt, outcome } }) {
  const now = useNow();
  const age = (now - Date.parse(endedAt)) / 1000;
  const link = html`<${Link} to=${['views', view]}>${view}<//>`;
  return outcome === 'done'
    ? html`The last check, ${ago(age)}, compared ${link} with its facts: no difference. <span class="soft">(${time(endedAt)})</span>`
    : html`The last check, of ${link} ${ago(age)}, ${outcome}. <${Link} to=${['jobs']} query=${{ job: 'verify' }}>See why<//>`;
}

const noViews = html`<p>No views yet. Write one as a file of SQL, name it under <code>[views.NAME]</code> in <code>anabranch.toml</code>, and run <code>anabranch apply</code>.</p>`;
const noTopics = html`<p>No topics yet. Declare one under <code>[topics.NAME]</code> in <code>anabranch.toml</code>; <code>anabranch init</code> writes one to begin with.</p>`;

function Cards({ all, card: Card, empty }) {
  if (all.length === 0) return html`<${Empty}>${empty}<//>`;
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
      <span class="soft">${counted(placesUpTo(row.head), 'fact', 'facts')}${row.age_seconds != null && `, newest ${ago(row.age_seconds)}`}</span>
    <//>`;
}
