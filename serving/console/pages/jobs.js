// Jobs: what ran, the newest first, and above it those whose last run failed, and when each ran.

import { html } from '../vendor/preact-htm.module.js';
import { operations, rows } from '../api.js';
import { nextPlace } from '../components/chart.js';
import { Followed, Standing, nameOf } from '../components/operation.js';
import { Choice, Empty, Heading, Link, Mark, Part, Prose, Said, Time, Toggle } from '../components/parts.js';
import { Table } from '../components/table.js';
import { bytes, clock, counted, instant, number, short, span } from '../format.js';
import { LATER, SOON, useLoad } from '../load.js';
import { isOver } from '../operations.js';
import { change, href } from '../router.js';
import { statement } from '../statement.js';
import { useWho } from '../who.js';

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
  const load = useLoad((signal) => rows(asked, { signal }), [asked.text], { every: LATER });
  const failed = useLoad((signal) => rows(LAST_RUNS, { signal }), [], { every: LATER });
  const views = useLoad((signal) => rows('SELECT DISTINCT view, job FROM jobs ORDER BY 1, 2', { signal }), []);
  const begun = useLoad(async (signal) => (operates ? operations(signal) : []), [operates], { every: SOON });
  const isNarrowed = Object.values(given).some((value) => value !== null);
  return html`
    <${Heading} about="Refreshes, rebuilds and checks of views: what ran, and what came of it.">Jobs<//>
    ${operates && html`<${Operations} load=${begun} follows=${query.get('op')} onEnd=${load.again} />`}
    <${Part} title="Failed when they last ran" load=${failed}>
      ${(jobs) => (jobs.length === 0
        ? html`<p><${Mark} level="good" /> None.</p>`
        : html`<ul class="items">${jobs.map((job) => html`<li class="attention"><${Failure} job=${job} /></li>`)}</ul>`)}
    <//>
    <${Lanes} range=${query.get('range')} begun=${(begun.value ?? []).filter((of) => !isOver(of)).map(runOf)} />
    <${Part} key=${given.before} name="ran" title="What ran" load=${load} sql=${asked.text}>
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
function Operations({ load, follows, onEnd }) {
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

/** An operation as a run. */
const runOf = ({ id, do: job, of: view, state, begun_at: at }) => ({ id, job, view, outcome: state, started_at: at });

/** How far back lanes go. */
const HOURS = new Map([['1h', 1], ['4h', 4], ['1d', 24], ['7d', 168]]);

/** So many runs are drawn. */
const MOST_BARS = 500;

/**
 * Runs, which come the newest first, by the names of their lanes: one for each view, and another for each of its jobs
 * that is no refresh. Places are shares of the time from `from` to `until`; a lane begins with its oldest run.
 */
export function lanesOf(runs, from, until) {
  const lanes = {};
  const share = (at) => Math.max(0, Math.min(1, (at - from) / (until - from))) * 100;
  for (const run of runs) {
    const name = run.job === 'refresh' ? run.view : `${run.view}, ${run.job}`;
    const left = share(instant(run.started_at));
    (lanes[` ${name}`] ??= []).unshift({ run, left, width: share(run.ended_at ? instant(run.ended_at) : until) - left });
  }
  return Object.entries(lanes).sort(([a], [b]) => (a < b ? -1 : 1));
}

function Lanes({ range, begun }) {
  const hours = HOURS.get(range) ?? 4;
  const sql = `SELECT *, count(*) OVER () AS all_runs FROM jobs
WHERE ended_at >= now() - INTERVAL '${hours} hours'\nORDER BY ended_at DESC\nLIMIT ${MOST_BARS}`;
  const load = useLoad((signal) => rows(sql, { signal }), [sql], { every: LATER });
  const press = (event) => {
    const bars = [...event.currentTarget.querySelectorAll('a')];
    const next = bars[nextPlace(event.key, bars.indexOf(event.target), bars.length - 1)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  };
  const choices = html`
    <span class="buttons">${[...HOURS].map(([name, each]) => html`
      <${Toggle} class="small" isOn=${each === hours} onClick=${() => change({ range: name })}>${name}<//>`)}</span>`;
  return html`
    <${Part} title="When they ran" load=${load} actions=${choices}>
      ${(ended) => {
        const until = Date.now();
        const from = until - hours * 3_600_000;
        const all = [...begun, ...ended];
        const more = ended[0]?.all_runs - MOST_BARS;
        return all.length === 0 ? html`<p class="soft">Nothing ran in this time.</p>` : html`
          <p class="soft">
            Striped is what failed, hollow what was stopped or still runs.
            ${more > 0 && ` ${counted(more, 'earlier run is', 'earlier runs are')} not drawn.`}
          </p>
          <ul class="lanes" onKeyDown=${press}>
            ${lanesOf(all, from, until).map(([name, bars], lane) => html`
              <li key=${name}>
                <bdi>${name}</bdi>
                <span class="lane">${bars.map(({ run, left, width }, nth) => html`
                  <a class="run ${run.outcome}" tabindex=${lane + nth ? -1 : 0} ...${linkOf(run, range)}
                    style=${{ left: `min(${left}%, 100% - 5px)`, width: `${width}%` }}></a>`)}</span>
              </li>`)}
            <li aria-hidden="true"><bdi></bdi><span class="lane ends"><span>${clock(from)}</span><span>now</span></span></li>
          </ul>`;
      }}
    <//>`;
}

/** Where a run leads: to its row, which is the first then, or to what is said of it while it runs. */
function linkOf({ id, view, job, outcome, started_at: started, ended_at: ended }, range) {
  const took = ended ? `, took ${span((instant(ended) - instant(started)) / 1000)}` : '';
  const query = ended ? { view, job, before: new Date(instant(ended) + 1).toISOString(), part: 'ran' } : { op: id };
  return { href: href(['jobs'], { range, ...query }), title: `${job} of ${view}: ${outcome}, ${clock(started)}${took}` };
}

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
