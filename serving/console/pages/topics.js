// Topics: the list, and one of them with its fields, its newest facts and its dead letters.

import { html, useState } from '../vendor/preact-htm.module.js';
import { addressOf, relations, rows, status } from '../api.js';
import { Command, Empty, Heading, Link, NoTopics, Part, Stat } from '../components/parts.js';
import { Rows, Table } from '../components/table.js';
import { ago, counted, number, short, span } from '../format.js';
import { freshness, noteHeads, offsets, placesUpTo, rate } from '../freshness.js';
import { LATER, SOON, useLoad } from '../load.js';
import { href } from '../router.js';
import { column, relation } from '../statement.js';
import { DeadLetters } from './letters.js';

export const Topics = ({ name, query }) =>
  (name === undefined ? html`<${List} />` : html`<${Topic} name=${name} query=${query} />`);

async function loadAll(signal) {
  const all = await freshness(signal);
  noteHeads(all);
  return all;
}

const DEAD_COUNTS = 'SELECT topic, count(*) AS dead FROM dead_letters GROUP BY topic';

function List() {
  const fresh = useLoad(loadAll, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  // Without a topic there is no such table.
  const isEmpty = !fresh.value?.some((r) => r.kind === 'topic');
  const dead = useLoad(async (signal) => (isEmpty ? [] : rows(DEAD_COUNTS, { signal })), [isEmpty], { every: LATER });
  const deadOf = (topic) => dead.value?.find((row) => row.topic === topic)?.dead ?? (dead.value ? 0 : null);
  const columns = [
    { title: 'Topic', cell: (r) => html`<${Link} to=${['topics', r.relation]}>${r.relation}<//>` },
    { title: 'Head', isNumber: true, cell: (r) => number(placesUpTo(r.head)) },
    { title: 'Facts a second', isNumber: true, cell: (r) => short(rate(r.relation)) },
    { title: 'Newest came', isNumber: true, cell: (r) => ago(r.age_seconds) },
    { title: 'Not landed', isNumber: true, cell: (r) => number(state.value?.unlanded_facts?.[r.relation]) },
    { title: 'Dead letters', isNumber: true, cell: (r) => number(deadOf(r.relation)) },
  ];
  return html`
    <${Heading} about="Logs of facts that only grow. Views are made from them.">Topics<//>
    <${Part} title="All topics" load=${fresh} isQuiet>
      ${(all) => {
        const topics = all.filter((r) => r.kind === 'topic');
        return topics.length ? html`<${Table} caption="Topics" columns=${columns} rows=${topics} />` : html`<${NoTopics} />`;
      }}
    <//>`;
}

function Topic({ name, query }) {
  // Each retry may bring facts.
  const [retries, setRetries] = useState(0);
  const all = useLoad(relations, [], { every: LATER });
  const found = all.value?.find((r) => r.name === name && r.kind === 'topic');
  return html`
    <p class="back"><${Link} to=${['topics']}>All topics<//></p>
    <${Heading}><bdi>${name}</bdi><//>
    <${How} name=${name} />
    <${Part} title="Fields" load=${all}>${() => (found ? html`<${Fields} topic=${found} />` : html`<${Absent} name=${name} />`)}<//>
    ${found && html`
      <${Newest} topic=${found} retries=${retries} />
      <${DeadLetters} name=${name} query=${query} onEnd=${() => setRetries((before) => before + 1)} />
      <${Part} title="Views made from it">
        <${Made} views=${all.value.filter((r) => r.topic === name)} />
      <//>`}`;
}

const Absent = ({ name }) => html`
  <${Empty}>
    <p>There is no topic <code>${name}</code> that you may read. <${Link} to=${['topics']}>See those that there are<//>.</p>
  <//>`;

function How({ name }) {
  const fresh = useLoad(loadAll, [], { every: SOON });
  const state = useLoad(status, [], { every: SOON });
  const { unlanded_facts: unlanded, intake, kafka, steps, landed } = state.value ?? {};
  return html`
    <${Part} title="How it stands" load=${fresh}>
      ${(all) => {
        const row = all.find((r) => r.relation === name && r.kind === 'topic');
        if (!row) return html`<p class="soft">Nothing is known of it.</p>`;
        return html`
          <dl class="stats">
            <${Stat} says="Head" hint="offsets">${number(placesUpTo(row.head))}<//>
            <${Stat} says="Facts a second">${short(rate(name))}<//>
            <${Stat} says="Newest came">${ago(row.age_seconds)}<//>
            <${Stat} says="Not landed yet">${number(unlanded?.[name])}<//>
            ${intake?.[name] && html`<${Intake} of=${intake[name]} />`}
            ${kafka?.[name] && html`<${FromKafka} of=${kafka[name]} />`}
            ${steps?.[name] && html`<${FromStep} of=${steps[name]} />`}
          </dl>
          <${Partitions} head=${row.head} landed=${landed?.[name]} />`;
      }}
    <//>`;
}

function Intake({ of: { facts, duplicates, dead_letters: dead } }) {
  const others = `${counted(duplicates, 'duplicate', 'duplicates')}, ${counted(dead, 'dead letter', 'dead letters')}`;
  return html`<${Stat} says="Since the daemon started" hint=${others}>${counted(facts, 'fact', 'facts')}<//>`;
}

function FromKafka({ of: { partitions = {} } }) {
  return html`<${Stat} says="Comes from">Kafka, ${counted(Object.keys(partitions).length, 'partition', 'partitions')}<//>`;
}

function FromStep({ of: { step, from } }) {
  return html`<${Stat} says="Made by">step ${step}, from <${Link} to=${['topics', from]}>${from}<//><//>`;
}

function Partitions({ head, landed }) {
  const heads = offsets(head);
  if (heads.length === 0) return null;
  const down = new Map(offsets(landed));
  const columns = [
    { title: 'Partition', cell: ([partition]) => partition },
    { title: 'Head', isNumber: true, cell: ([, offset]) => number(offset) },
    { title: 'Landed up to', isNumber: true, cell: ([partition]) => number(down.get(partition)) },
  ];
  return html`<${Table} caption="Head by partition" isCaptionShown=${true} columns=${columns} rows=${heads} />`;
}

function Fields({ topic }) {
  const columns = [
    { title: 'Field', cell: (c) => html`<bdi>${c.name}</bdi>` },
    { title: 'Type', cell: (c) => html`<code>${c.type}</code>` },
    { title: 'May be NULL', cell: (c) => (c.nullable ? 'yes' : 'no') },
  ];
  return html`<${Table} caption="Fields" columns=${columns} rows=${topic.columns} />`;
}

const INGESTED = '_ingested_at';

function Newest({ topic, retries }) {
  const hasTime = topic.columns.some((c) => c.name === INGESTED);
  const sql = `SELECT *\nFROM ${relation(topic.name)}${hasTime ? `\nORDER BY ${column(INGESTED)} DESC` : ''}\nLIMIT 50`;
  const load = useLoad((signal) => rows(sql, { signal }), [sql, retries]);
  const address = addressOf(`topics/${encodeURIComponent(topic.name)}`);
  const example = `curl -d '${exampleFact(topic.columns)}' ${address}`;
  return html`
    <${Part} title="Newest facts" load=${load} actions=${html`<${Actions} load=${load} sql=${sql} />`}>
      ${(newest) => html`<${Rows} caption="The 50 newest facts" rows=${newest} names=${topic.columns.map((c) => c.name)}
        empty=${html`<p>No facts yet. Send some:</p><${Command} text=${example} />`} />`}
    <//>`;
}

/** A fact that the topic would take, to begin with. */
function exampleFact(columns) {
  const value = ({ type }) => {
    if (/^timestamp/.test(type)) return new Date().toISOString();
    if (/^date/.test(type)) return new Date().toISOString().slice(0, 10);
    if (/int|real|double|decimal/.test(type)) return 1;
    return type === 'boolean' ? true : 'a';
  };
  const own = columns.filter((c) => !c.name.startsWith('_'));
  return JSON.stringify(Object.fromEntries(own.map((c) => [c.name, value(c)]))).replaceAll("'", "'\\''");
}

export const Actions = ({ load, sql }) => html`
  <div class="actions">
    <button type="button" class="small" onClick=${load.again} disabled=${load.isLoading}>Look again</button>
    <a class="small" href=${href(['sql'], { q: sql })}>Open in SQL</a>
  </div>`;

const Made = ({ views }) => (views.length === 0
  ? html`
    <${Empty}>
      <p>
        No view reads this topic yet. Write one, name it under <code>[views.NAME]</code>, and run
        ${' '}<code>anabranch apply</code>.
      </p>
    <//>`
  : html`<ul class="names">${views.map((v) => html`<li><${Link} to=${['views', v.name]}>${v.name}<//></li>`)}</ul>`);
