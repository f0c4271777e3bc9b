// System: the daemon, its doors, what it takes of its bounds, and the queries that run on it.

import { html, useState } from '../vendor/preact-htm.module.js';
import { cancelQuery, health, queries, status } from '../api.js';
import { Code, Empty, Heading, Link, Mark, Part, Problem, Stat, Use } from '../components/parts.js';
import { Table } from '../components/table.js';
import { bytes, number, span } from '../format.js';
import { LATER, SOON, useLoad } from '../load.js';

export function System() {
  const who = useLoad(health, [], { every: LATER });
  const state = useLoad(status, [], { every: SOON });
  return html`
    <${Heading} about="The daemon that answers here.">System<//>
    <${Part} title="Daemon" load=${who}>
      ${({ id, pid, postgres, flight }) => html`
        <dl class="stats">
          <${Stat} says="Name"><code>${id}</code><//>
          <${Stat} says="Process">${pid}<//>
          <${Stat} says="PostgreSQL's protocol">${postgres ? html`<code>${postgres}</code>` : 'off'}<//>
          <${Stat} says="Arrow Flight SQL">${flight ? html`<code>${flight}</code>` : 'off'}<//>
        </dl>`}
    <//>
    <${Running} />
    <${Part} title="Memory and disk" load=${state}>${(s) => html`<${Bounds} of=${s} />`}<//>
    <${Part} title="Doors" load=${state}>${(s) => html`<${Doors} doors=${s.doors ?? []} />`}<//>
    <${Part} title="Deltas" load=${state}>${(s) => html`<${Deltas} deltas=${s.deltas ?? {}} />`}<//>
    ${state.value?.references?.length > 0 && html`
      <${Part} title="References" load=${state}>${(s) => html`<${References} all=${s.references} />`}<//>`}`;
}

function Bounds({ of: { bounds, unlanded_facts: unlanded = {}, dedup = {} } }) {
  const waiting = Object.values(unlanded).reduce((sum, facts) => sum + Number(facts), 0);
  const keys = Object.values(dedup).reduce((sum, d) => sum + Number(d.bytes), 0);
  return html`
    <${Use} says="Memory of facts and deltas" used=${bounds.memory_bytes} bound=${bounds.memory_bound_bytes} write=${bytes} />
    ${bounds.spill_bound_bytes > 0
      ? html`
        <${Use} says="Disk of deltas that memory has no room for" used=${bounds.spilled_bytes}
          bound=${bounds.spill_bound_bytes} write=${bytes} />`
      : html`<p>Nothing is put on disk when memory is full (<code>spill</code> in <code>[daemon]</code>).</p>`}
    ${bounds.full && html`<p class="bad">✕ ${bounds.full}</p>`}
    <dl class="stats">
      <${Stat} says="Facts that wait to land">${number(waiting)}<//>
      <${Stat} says="Keys kept to find duplicates">${bytes(keys)}<//>
    </dl>`;
}

function Doors({ doors }) {
  const isOpen = (d) => d.is_beyond && !(d.has_users && d.is_encrypted);
  const columns = [
    { title: 'Door', cell: (d) => d.name },
    { title: 'Address', cell: (d) => html`<code>${d.address}</code>` },
    { title: 'Reached by', cell: (d) => (d.is_beyond ? 'other machines' : 'this machine alone') },
    { title: 'Lets in', cell: (d) => (d.has_users ? 'users' : 'everybody') },
    { title: 'Sent', cell: (d) => (d.is_encrypted ? 'encrypted' : 'in clear text') },
    { title: 'Safe', cell: (d) => (isOpen(d) ? html`<${Mark} level="attention" isLabelled />` : html`<span class="good">✓ yes</span>`) },
  ];
  return html`<${Table} caption="Doors" columns=${columns} rows=${doors} empty=${html`<p>The daemon names none.</p>`} />`;
}

function Deltas({ deltas }) {
  const columns = [
    { title: 'View', cell: ([name]) => html`<${Link} to=${['views', name]}>${name}<//>` },
    { title: 'States', isNumber: true, cell: ([, d]) => number(d.states) },
    { title: 'Memory', isNumber: true, cell: ([, d]) => bytes(d.bytes) },
    { title: 'On disk', isNumber: true, cell: ([, d]) => bytes(d.spilled_bytes) },
    { title: 'Pieces', isNumber: true, cell: ([, d]) => number(d.pieces) },
  ];
  return html`<${Table} caption="Deltas" columns=${columns} rows=${Object.entries(deltas)} empty=${html`<p>No view has a delta.</p>`} />`;
}

function References({ all }) {
  const columns = [
    { title: 'Reference', cell: (r) => html`<bdi>${r.name}</bdi>` },
    { title: 'Rows', isNumber: true, cell: (r) => number(r.rows) },
    { title: 'Memory', isNumber: true, cell: (r) => bytes(r.bytes) },
    { title: 'All versions kept', cell: (r) => (r.history ? 'yes' : 'no') },
  ];
  return html`<${Table} caption="References in memory" columns=${columns} rows=${all} />`;
}

function Running() {
  const load = useLoad(queries, [], { every: SOON });
  const [trouble, setTrouble] = useState(null);
  const [stopping, setStopping] = useState([]);
  const stop = async (id) => {
    setStopping((before) => [...before, id]);
    setTrouble(null);
    try {
      await cancelQuery(id);
    } catch (error) {
      setTrouble(error);
      setStopping((before) => before.filter((other) => other !== id));
    }
    load.again();
  };
  return html`
    <${Part} title="Queries that run" load=${load}>
      ${(list) => html`
        ${trouble && html`<${Problem} error=${trouble} />`}
        ${list.length === 0
          ? html`<${Empty}><p>None runs. <${Link} to=${['sql']}>Ask something<//>.</p><//>`
          : html`
            <ul class="queries">
              ${list.map((q) => html`
                <li key=${q.id}><${Query} of=${q} stop=${stop} isStopping=${stopping.includes(q.id)} /></li>`)}
            </ul>`}`}
    <//>`;
}

const Query = ({ of, stop, isStopping }) => html`
  <div class="query">
    <p><strong>${of.state}</strong> for ${span(of.seconds)}, ${bytes(of.memory_bytes)} <span class="soft">asked by ${of.who}</span></p>
    <${Code} text=${of.statement} label="Statement" />
    <button type="button" onClick=${() => stop(of.id)} disabled=${isStopping || of.state === 'stopping'}
      aria-label=${`Stop it: the query that has been ${of.state} for ${span(of.seconds)}`}>${isStopping ? 'Stopping …' : 'Stop it'}</button>
  </div>`;
