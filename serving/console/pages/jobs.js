// Jobs: what ran, the newest first, and above it those whose last run failed.

import { html } from '../vendor/preact-htm.module.js';
import { operations, rows } from '../api.js';
import { Followed, Standing, nameOf } from '../components/operation.js';
import { Choice, Empty, Heading, Link, Mark, Part, Prose, Said, Time } from '../components/parts.js';
import { Table } from '../components/table.js';
import { bytes, counted, instant, number, short, span } from '../format.js';
import { LATER, SOON, useLoad } from '../load.js';
import { isOver } from '../operations.js';
import { change } from '../router.js';
import { statement } from '../statement.js';
import { useWho } from '../who.js';
import { Actions } from './topics.js';

const SHOWN = 200;

const LAST_RUNS = `SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY view, job ORDER BY ended_at DESC) AS nth FROM jobs
) AS runs
WHERE nth = 1 AND outcome <> 'done'
ORDER BY ended_at DESC`;

export function Jobs({ query }) {
  const { operates } = useWho();
  const given = Object.fromEntries(['view', 'job', 'outcome', 'before'].map((name) => [name, query.get(name)]));
  const asked = statement((value) => {
    const same = ['view', 'job', 'outcome'].filter((name) => given[name] !== null);
    const all = same.map((name) => `${name} = ${value(given[name])}`);
    if (given.before) all.push(`ended_at < ${value(given.before)}`);
    const where = all.length ? `\nWHERE ${all.join(' AND ')}` : '';
    return `SELECT *\nFROM jobs${where}\nORDER BY ended_at DESC\nLIMIT ${SHOWN}`;
  });
  const load = useLoad((signal) => rows(asked.sql, { parameters: asked.parameters, signal }), [asked.text], { every: LATER });
  const failed = useLoad((signal) => rows(LAST_RUNS, { signal }), [], { every: LATER });
  const views = useLoad((signal) => rows('SELECT DISTINCT view, job FROM jobs ORDER BY 1, 2', { signal }), []);
  const isNarrowed = Object.values(given).some((value) => value !== null);
  return html`
    <${Heading} about="Refreshes, rebuilds and checks of views: what ran, and what came of it.">Jobs<//>
    ${operates && html`<${Operations} follows=${query.get('op')} onEnd=${load.again} />`}
    <${Part} title="Failed when they last ran" load=${failed}>
      ${(jobs) => (jobs.length === 0
        ? html`<p><${Mark} level="good" /> None.</p>`
        : html`<ul class="items">${jobs.map((job) => html`<li class="attention"><${Failure} job=${job} /></li>`)}</ul>`)}
    <//>
    <${Part} title="What ran" load=${load} actions=${html`<${Actions} load=${load} sql=${asked.text} />`}>
      ${(jobs) => html`
        <${Filters} given=${given} known=${views.value ?? []} />
        <${JobTable} jobs=${jobs} hasView=${true} empty=${isNarrowed
          ? html`<p>No job is like that. <${Link} to=${['jobs']}>Show all<//></p>`
          : html`
            <p>
              No job has ended yet. <code>anabranch up</code> runs them by their schedules;
              ${' '}<code>anabranch batch refresh</code> runs one now.
            </p>`} />
        <p class="actions">
          ${given.before && html`<button type="button" onClick=${() => change({ before: null })}>Newest</button>`}
          ${jobs.length === SHOWN && html`
            <button type="button" onClick=${() => change({ before: jobs.at(-1).ended_at })}>Older</button>`}
        </p>`}
    <//>`;
}

/** So many operations are shown at once. */
const NEWEST = 5;

/** What was begun by buttons, and what it says. */
function Operations({ follows, onEnd }) {
  const load = useLoad(operations, [], { every: SOON });
  const ended = () => {
    load.again();
    onEnd();
  };
  // What runs is followed, as what the address names is.
  const item = (of) => html`
    <li key=${of.id}>${of.id === follows || !isOver(of)
      ? html`<${Followed} id=${of.id} onEnd=${ended} />`
      : html`<${Brief} of=${of} />`}</li>`;
  return html`
    <${Part} title="Operations" load=${load}>
      ${(all) => html`
        ${all.length === 0 && html`
          <${Empty}>
            <p>
              Nothing was begun by a button since the daemon started. Buttons are on the pages
              of <${Link} to=${['views']}>views<//> and <${Link} to=${['topics']}>topics<//>.
            </p>
          <//>`}
        ${follows && !all.some((of) => of.id === follows) && html`<${Followed} id=${follows} onEnd=${ended} />`}
        <ul class="operations">${all.slice(0, NEWEST).map(item)}</ul>
        ${all.length > NEWEST && html`
          <details open=${all.findIndex((of) => of.id === follows) >= NEWEST}>
            <summary>${counted(all.length - NEWEST, 'earlier operation', 'earlier operations')}</summary>
            <ul class="operations">${all.slice(NEWEST).map(item)}</ul>
          </details>`}`}
    <//>`;
}

const Brief = ({ of }) => html`
  <section class="operation" aria-label=${nameOf(of)}>
    <div class="part-head">
      <h3>${nameOf(of)}</h3>
      <button type="button" class="small" onClick=${() => change({ op: of.id })} aria-label=${`Show what it says: ${nameOf(of)}`}>Show what it says</button>
    </div>
    <${Standing} of=${of} isQuiet />
    ${of.error && html`<${Said} text=${of.error.error} />`}
  </section>`;

const Failure = ({ job }) => html`
  <${Mark} level="attention" />
  <strong>${job.job} of <${Link} to=${['views', job.view]}>${job.view}<//></strong>
  <span class="soft"> ${job.outcome} at <${Time} at=${job.ended_at} isShort /></span>
  ${job.error && html`<${Said} text=${job.error} />`}`;

function Filters({ given, known }) {
  const values = (name) => [...new Set([...known.map((row) => row[name]), given[name]].filter((value) => value != null))];
  const choice = (says, name, all) => html`
    <${Choice} says=${says} chosen=${given[name]} options=${all.map((value) => [value, value])}
      choose=${(value) => change({ [name]: value, before: null })} />`;
  return html`
    <div class="filters">
      ${choice('View', 'view', values('view'))}
      ${choice('Job', 'job', values('job'))}
      ${choice('Outcome', 'outcome', ['done', 'failed', 'stopped'])}
    </div>`;
}

const LEVEL_OF = { done: 'good', failed: 'red' };

/** Jobs as a table. */
export function JobTable({ jobs, empty, hasView = false }) {
  const seconds = (job) => (instant(job.ended_at) - instant(job.started_at)) / 1000;
  const columns = [
    { title: 'Ended', cell: (job) => html`<${Time} at=${job.ended_at} isShort />` },
    ...(hasView ? [{ title: 'View', cell: (job) => html`<${Link} to=${['views', job.view]}>${job.view}<//>` }] : []),
    { title: 'Job', cell: (job) => job.job },
    { title: 'Outcome', kind: 'outcome', cell: (job) => html`<${Mark} level=${LEVEL_OF[job.outcome] ?? 'note'} /> ${job.outcome}` },
    { title: 'Took', isNumber: true, cell: (job) => span(seconds(job)) },
    { title: 'Facts', isNumber: true, cell: (job) => number(job.facts) },
    { title: 'Facts a second', isNumber: true, cell: (job) => short(job.facts_per_second) },
    { title: 'Written', isNumber: true, cell: (job) => bytes(job.bytes) },
    { title: 'Peak memory', isNumber: true, cell: (job) => bytes(job.peak_memory_bytes) },
    { title: 'Started by', cell: (job) => job.trigger },
    { title: 'Error', kind: 'wrap', cell: (job) => (job.error ? html`<${Prose} text=${job.error} />` : '–') },
  ];
  return html`<${Table} caption="Jobs" columns=${columns} rows=${jobs} empty=${empty} hasRowHeads=${false} />`;
}
