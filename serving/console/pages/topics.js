// Topics: the list, and one of them with its fields, its newest facts, which can be followed, and its dead letters.

import { html, useMemo, useRef, useState } from '../vendor/preact-htm.module.js';
import { addressOf, relations, rows, status } from '../api.js';
import { Absent, Command, Empty, Heading, Link, NoTopics, Part, Stat, Toggle, useId } from '../components/parts.js';
import { Rows, Table } from '../components/table.js';
import { ago, counted, number, short, span } from '../format.js';
import { freshness, offsets, placesUpTo, rate } from '../freshness.js';
import { LATER, SOON, useLoad } from '../load.js';
import { change } from '../router.js';
import { relation } from '../statement.js';
import { Wrong } from './boards.js';
import { DeadLetters } from './letters.js';

export const Topics = ({ name, query }) =>
  (name === undefined ? html`<${List} />` : html`<${Topic} name=${name} query=${query} />`);

const DEAD_COUNTS = 'SELECT topic, count(*) AS dead FROM dead_letters GROUP BY topic';

function List() {
  const fresh = useLoad(freshness, [], { every: SOON });
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
    <${Part} title="Fields" load=${all}>${() => (found ? html`<${Fields} topic=${found} />` : html`<${Absent} kind="topic" name=${name} />`)}<//>
    ${found && html`
      <${Newest} topic=${found} query=${query} retries=${retries} />
      <${DeadLetters} name=${name} query=${query} onEnd=${() => setRetries((before) => before + 1)} />
      <${Part} title="Views made from it">
        <${Made} views=${all.value.filter((r) => r.topic === name)} />
      <//>`}`;
}

function How({ name }) {
  const fresh = useLoad(freshness, [], { every: SOON });
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

/** So many facts are shown, and so many are kept of those that are followed. */
const SHOWN = 50;
const KEPT = 200;

/** How often facts that come are asked for at most, in milliseconds. */
const PACE = 1_000;

/**
 * The newest facts of a topic that meet a condition; with a `tail`, those that came since, each with how many they
 * are. Facts of a partition are seen in their order; of a partition of which none was seen it is known from `since` on.
 */
export function newestOf(topic, where, most, tail) {
  const all = where ? [`(\n${where}\n)`] : [];
  if (tail?.newest) {
    const later = (than) => `_ingested_at > TIMESTAMP '${than}'`;
    const seen = [...tail.seen].map(([partition, offset]) => ` WHEN ${partition} THEN _offset > ${offset}`).join('');
    // What was seen within seconds of its coming is not sought in all that is older.
    all.push(`${later(tail.newest)} - INTERVAL '1 minute'`, `CASE _partition${seen} ELSE ${tail.since ? later(tail.since) : 'true'} END`);
  }
  const from = `FROM ${relation(topic)}${all.length ? `\nWHERE ${all.join(' AND ')}` : ''}`;
  const came = tail ? `, (SELECT count(*) ${from}) AS _came` : '';
  return `SELECT *${came}\n${from}\nORDER BY _ingested_at DESC, _partition DESC, _offset DESC\nLIMIT ${most}`;
}

/** A tail after an answer: `{ rows, came, seen, since, newest, tookMs }`. */
export function tailOf(tail, found, tookMs) {
  const [newest] = found;
  // What lies before the last row is not shown, in whatever partition, and not wanted any more.
  const isCut = found.length === KEPT;
  const seen = new Map(isCut ? [] : tail?.seen);
  for (const { _partition: partition, _offset: offset } of found) seen.set(partition, Math.max(offset, seen.get(partition) ?? 0));
  return {
    rows: [...found, ...(tail?.rows ?? [])].slice(0, KEPT),
    came: (tail?.came ?? 0) + Number(newest?._came ?? 0),
    seen,
    since: isCut ? found.at(-1)._ingested_at : tail?.since,
    newest: newest?._ingested_at ?? tail?.newest,
    tookMs,
  };
}

/** What is refused is not asked again; what takes long is asked less often. */
const paceOf = (tail, error) => (error?.status < 500 ? null : Math.max(PACE, 4 * (tail?.tookMs ?? 0)));

function Newest({ topic, query, retries }) {
  const where = query.get('where') ?? '';
  const follows = query.get('follow') === 'on';
  // What is followed: up to where, and whether it waits.
  const look = useMemo(() => ({}), [topic.name, where, follows]);
  const box = useRef(null);
  const id = useId('where');
  const sql = newestOf(topic.name, where, SHOWN);
  const load = useLoad(async (signal) => {
    if (!follows) return { rows: await rows(sql, { signal }) };
    // What somebody reads stands still.
    const isHeld = look.isHeld || box.current?.matches(':hover, :focus-within');
    if (look.tail && isHeld) return { ...look.tail, isHeld };
    const begun = Date.now();
    const found = await rows(newestOf(topic.name, where, KEPT, look.tail), { signal });
    look.tail = tailOf(look.tail, found, Date.now() - begun);
    return look.tail;
  }, [look, retries], { every: follows ? paceOf : undefined });
  const filter = (event) => {
    event.preventDefault();
    change({ where: event.target.elements[0].value.trim() || null });
  };
  const hold = () => {
    look.isHeld = !look.isHeld;
    load.again();
  };
  const address = addressOf(`topics/${encodeURIComponent(topic.name)}`);
  const example = `curl -d '${exampleFact(topic.columns)}' ${address}`;
  const form = html`
    <form class="filters" onSubmit=${filter}>
      <div class="choice">
        <label for=${id}>Only those with (SQL)</label>
        <input id=${id} value=${where} placeholder="site = 'a' AND n > 3" spellcheck="false" />
      </div>
      <button type="submit">Filter</button>
      <${Toggle} isOn=${follows} onClick=${() => change({ follow: follows ? null : 'on' })}>Follow<//>
      ${follows && html`<${Toggle} isOn=${look.isHeld} onClick=${hold}>Pause<//>`}
    </form>`;
  return html`
    <${Part} title="Newest facts" load=${{ ...load, every: follows && paceOf(load.value) }} sql=${sql} actions=${form} problem=${Wrong}>
      ${({ rows: newest, came, isHeld }) => html`
        ${follows && html`
          <p>
            ${counted(came, 'fact', 'facts')} came${came > KEPT && `, of which ${number(came - KEPT)} are not shown`}.
            ${' '}<span role="status">${load.error?.status < 500 ? 'Following has stopped.' : isHeld && 'It pauses.'}</span>
          </p>`}
        <div ref=${box}>
          <${Rows} caption="The newest facts" rows=${newest} names=${topic.columns.map((c) => c.name)}
            empty=${where ? html`<p>There is none.</p>` : html`<p>No facts yet. Send some:</p><${Command} text=${example} />`} />
        </div>`}
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

const Made = ({ views }) => (views.length === 0
  ? html`
    <${Empty}>
      <p>
        No view reads this topic yet. Write one, name it under <code>[views.NAME]</code>, and run
        ${' '}<code>anabranch apply</code>.
      </p>
    <//>`
  : html`<ul class="names">${views.map((v) => html`<li><${Link} to=${['views', v.name]}>${v.name}<//></li>`)}</ul>`);
