// Views: the list, and one of them with its SQL, its columns, how far it is, rows of it and its jobs.

import { html } from '../vendor/preact-htm.module.js';
import { ready, relations, rows, status } from '../api.js';
import { Act } from '../components/act.js';
import { Begun } from '../components/operation.js';
import { Absent, Code, Copy, Empty, Heading, Link, NoViews, Part, Said, Split, Stat } from '../components/parts.js';
import { Table } from '../components/table.js';
import { ago, bytes, counted, number } from '../format.js';
import { freshness, placesUpTo } from '../freshness.js';
import { LATER, SOON, useLoad } from '../load.js';
import { href } from '../router.js';
import { shortName, statement } from '../statement.js';
import { useWho } from '../who.js';
import { Changes, usePlan } from './changes.js';
import { Sample, chosen } from './explore.js';
import { JobTable } from './jobs.js';

export const Views = ({ name, query }) =>
  (name === undefined ? html`<${List} query=${query} />` : html`<${View} name=${name} query=${query} />`);

function List({ query }) {
  const { operates } = useWho();
  const all = useLoad(relations, [], { every: LATER });
  const fresh = useLoad(freshness, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  const known = useLoad(ready, [], { every: SOON });
  const of = (name) => fresh.value?.find((r) => r.relation === name && r.kind === 'view') ?? {};
  const columns = [
    { title: 'View', cell: (v) => html`<${Link} to=${['views', v.name]}>${v.name}<//>` },
    { title: 'Answers', cell: (v) => answers(v, state.value) },
    { title: 'Made from', cell: (v) => (v.topic ? html`<${Link} to=${['topics', v.topic]}>${v.topic}<//>` : '–') },
    { title: 'Keys', kind: 'wrap', cell: (v) => keysOf(v).join(', ') || '–' },
    { title: 'Generation', isNumber: true, cell: (v) => number(of(v.name).generation) },
    { title: 'In the delta', isNumber: true, cell: (v) => number(of(v.name).in_delta) },
    { title: 'Newest fact', isNumber: true, cell: (v) => ago(of(v.name).age_seconds) },
  ];
  return html`
    <${Heading} about="Each is written once, as SQL, and answers up to the newest fact.">Views<//>
    ${operates && html`<${ChangesOf} query=${query} onEnd=${all.again} />`}
    <${Part} title="All views" load=${all} isQuiet>
      ${(list) => {
        const views = list.filter((v) => v.kind === 'view');
        // One that can't be used at all is no relation, and is to be seen all the same.
        const failing = Object.keys(known.value?.views_that_fail ?? {});
        const unusable = failing.filter((name) => !views.some((v) => v.name === name));
        views.push(...unusable.map((name) => ({ name, columns: [], fails: true })));
        return views.length ? html`<${Table} caption="Views" columns=${columns} rows=${views} />` : html`<${NoViews} />`;
      }}
    <//>`;
}

/** The changes of all views or of one, with what was begun to make them. */
function ChangesOf({ view, query, onEnd }) {
  const load = usePlan(view === undefined ? [] : [view]);
  const ended = () => {
    load.again();
    onEnd();
  };
  return html`<${Begun} query=${query} onEnd=${ended} /><${Changes} load=${load} view=${view} />`;
}

const keysOf = (view) => view.columns.filter((c) => c.role === 'key').map((c) => c.name);

function answers({ name, fails = false }, state) {
  const delta = state?.deltas?.[name];
  if (!fails && delta === undefined) return '–';
  return fails || delta.failed ? html`<span class="bad">✕ no</span>` : html`<span class="good">✓ yes</span>`;
}

function View({ name, query }) {
  const { operates } = useWho();
  const all = useLoad(relations, [], { every: LATER });
  const known = useLoad(ready, [], { every: SOON });
  const view = all.value?.find((r) => r.name === name && r.kind === 'view');
  const why = known.value?.views_that_fail?.[name];
  return html`
    <p class="back"><${Link} to=${['views']}>All views<//></p>
    <div class="with-actions">
      <${Heading}><bdi>${name}</bdi><//>
      ${view && html`<p class="actions"><a class="button" href=${href(['explore'], { view: name })}>Explore it</a></p>`}
    </div>
    ${why && html`<${Part} title="It does not answer"><div class="problem" role="alert"><${Said} text=${why} /></div><//>`}
    ${!(why && all.value && !view) && html`<${How} name=${name} />`}
    ${operates && all.value && html`<${Acting} name=${name} query=${query} known=${all.value} onEnd=${all.again} />`}
    <${Part} title="SQL" load=${all} actions=${view?.sql && html`<div class="actions"><${Copy} text=${view.sql} /></div>`}>
      ${() => (view ? html`
        ${view.topic && html`<p class="soft">Made from the topic <${Link} to=${['topics', view.topic]}>${view.topic}<//>.</p>`}
        <${Code} text=${view.sql ?? ''} label="SQL of the view" />` : why
        ? html`<${Empty}><p>Mend its SQL in the project; it is taken as soon as it can be used.</p><//>`
        : html`<${Absent} kind="view" name=${name} />`)}
    <//>
    ${view && html`
      <${Part} title="Columns"><${Columns} view=${view} /><//>
      <${Sample} look=${chosen(new URLSearchParams('range=all'), view)} />
      <${JobsOf} name=${name} />`}`;
}

/** A generation that does not answer: it is asked, and nothing is done to it by itself. */
const isOther = (name) => /^(candidate|previous|g\d+)\./.test(name);

/**
 * What can be done to a view: by buttons, and by its changes. One that is new in the project is not there
 * yet; whoever comes for its changes is shown them.
 */
function Acting({ name, query, known, onEnd }) {
  const has = (relation) => known.some((r) => r.kind === 'view' && r.name === relation);
  const fresh = useLoad(freshness, [], { every: SOON });
  const looks = () => {
    fresh.again();
    onEnd();
  };
  if (isOther(name)) {
    const of = name.slice(name.indexOf('.') + 1);
    return html`<p class="part">What can be done to it is at <${Link} to=${['views', of]}>${of}<//>.</p>`;
  }
  const live = fresh.value?.find((r) => r.relation === name && r.kind === 'view')?.generation;
  return html`
    ${has(name) && html`
      <${Part} title="Actions" name="actions">
        <${Buttons} view=${name} live=${live} hasCandidate=${has(`candidate.${name}`)} hasPrevious=${has(`previous.${name}`)}
          again=${looks} />
      <//>`}
    ${(has(name) || query.get('part') === 'changes') && html`<${ChangesOf} view=${name} query=${query} onEnd=${looks} />`}`;
}

function Buttons({ view, live, hasCandidate, hasPrevious, again }) {
  return html`
    <div class="acts">
      <${Act} says="Refresh" asked=${{ do: 'refresh', view }} again=${again} />
      <${Act} says="Rebuild" asked=${{ do: 'rebuild', view }} again=${again} />
      <${Act} says="Verify" asked=${{ do: 'verify', view }} again=${again} />
      ${hasCandidate && html`
        <${Act} says="Compare with the candidate" asked=${{ do: 'diff', view, a: 'live', b: 'candidate' }} again=${again} />`}
      ${hasPrevious && html`
        <${Act} says="Compare with the previous" asked=${{ do: 'diff', view, a: 'previous', b: 'live' }} again=${again} />`}
      ${hasPrevious && live != null && html`
        <${Act} says=${`Roll back from g${live}`} asked=${{ do: 'roll_back', view, generation: Number(live) }} again=${again} />`}
    </div>
    ${(hasCandidate || hasPrevious) && html`
      <p class="soft">
        ${hasCandidate && html`A candidate stands beside what answers: <${Link} to=${['views', `candidate.${view}`]}>candidate.${view}<//>. `}
        ${hasPrevious && html`What answered before is kept: <${Link} to=${['views', `previous.${view}`]}>previous.${view}<//>.`}
      </p>`}`;
}

function How({ name }) {
  const fresh = useLoad(freshness, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  const delta = state.value?.deltas?.[name];
  return html`
    <${Part} title="How it stands" load=${fresh}>
      ${(all) => {
        const row = all.find((r) => r.relation === name && r.kind === 'view');
        if (!row) return html`<p class="soft">Nothing is known of it.</p>`;
        const head = placesUpTo(row.head);
        return html`
          <dl class="stats">
            <${Stat} says="Generation">${number(row.generation)}<//>
            <${Stat} says="Newest fact">${ago(row.age_seconds)}<//>
            <${Stat} says="Seen up to" hint="the head">${number(head)}<//>
            <${Stat} says="Absorbed by the batch layer" hint="the boundary">
              ${row.boundary == null ? '–' : number(placesUpTo(row.boundary))}
            <//>
            <${Stat} says="In the delta" hint=${delta && sizeOf(delta)}>${number(row.in_delta)}<//>
          </dl>
          <${Split} head=${head} inDelta=${Number(row.in_delta ?? 0)} />`;
      }}
    <//>`;
}

function sizeOf({ states, bytes: inMemory, spilled_bytes: onDisk }) {
  const disk = onDisk ? `, ${bytes(onDisk)} on disk` : '';
  return `${counted(states, 'state', 'states')}, ${bytes(inMemory)}${disk}`;
}

function Columns({ view }) {
  const trust = { exact: 'exact', approximate: 'approximate', 'by order': 'depends on the order of facts' };
  const columns = [
    { title: 'Column', cell: (c) => html`<bdi>${c.name}</bdi>` },
    { title: 'Type', cell: (c) => html`<code>${c.type}</code>` },
    { title: 'Is', cell: (c) => c.role ?? '–' },
    { title: 'Made by', cell: (c) => (c.function ? html`<code>${c.function}</code>` : '–') },
    { title: 'Value', cell: (c) => trust[c.exactness] ?? c.exactness ?? '–' },
    { title: 'At another grain', cell: (c) => (c.combines ? html`<code>combine(${shortName(c.name)})</code>` : '–') },
    { title: 'May be NULL', cell: (c) => (c.nullable ? 'yes' : 'no') },
  ];
  return html`<${Table} caption="Columns" columns=${columns} rows=${view.columns} />`;
}

const noJobs = html`
  <p>No job of it has ended yet. A scheduler runs them; so does <code>anabranch batch refresh</code>.</p>`;

function JobsOf({ name }) {
  const asked = statement((value) => `SELECT *\nFROM jobs\nWHERE view = ${value(name)}\nORDER BY ended_at DESC\nLIMIT 20`);
  const load = useLoad((signal) => rows(asked, { signal }), [name], { every: LATER });
  return html`
    <${Part} title="Jobs" load=${load}
      actions=${html`<div class="actions"><a class="small" href=${href(['jobs'], { view: name })}>All its jobs</a></div>`}>
      ${(jobs) => html`<${JobTable} jobs=${jobs} empty=${noJobs} />`}
    <//>`;
}
