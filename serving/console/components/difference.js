// What two generations of a view differ in, as tables.

import { html } from '../vendor/preact-htm.module.js';
import { relations } from '../api.js';
import { counted, number } from '../format.js';
import { LATER, useLoad } from '../load.js';
import { Mark, Stat, useId } from './parts.js';
import { Table, Value } from './table.js';

const percent = (share, digits = 2) => `${number(Number(share) * 100, digits)} %`;
const signed = (value, write) => (value == null ? '–' : `${Number(value) > 0 ? '+' : ''}${write(value)}`);

/** By how much a total changed, as a share of what it was; null where there is no such share. */
export function changeOf({ total_a: before, total_b: after }) {
  if (before == null || after == null) return null;
  const [a, b] = [Number(before), Number(after)];
  if (a === 0) return b === 0 ? 0 : null;
  return (b - a) / Math.abs(a);
}

/** The names of a row's values, where a relation has just these columns; the answer has them in its order. */
export function namesOf(known, view, wanted) {
  const isOf = ({ name }) => name === view || (name.endsWith(`.${view}`) && !name.slice(0, -view.length - 1).includes('.'));
  const all = known.filter(isOf).map((r) => r.columns.map((c) => c.name));
  const isSame = (names) => names.length === wanted.length && wanted.every((name) => names.includes(name));
  return all.find(isSame) ?? null;
}

export function Difference({ of }) {
  const { view, generations: [a, b], diff, grain, sample } = of;
  const id = useId('difference');
  const isSame = [diff.only_a, diff.only_b, diff.changed].every((count) => Number(count) === 0);
  return html`
    <section class="difference" aria-labelledby=${id}>
      <h4 id=${id}><bdi>${view}</bdi>: g${b} compared with g${a}</h4>
      ${isSame
        ? html`<p><${Mark} level="good" /> ${counted(diff.rows_b, 'row', 'rows')}, none differs.</p>`
        : html`<${Counts} of=${diff} />`}
      ${grain && html`<p class="soft">Their keys are not the same. They are compared by those that both have: ${diff.keys.join(', ')}.</p>`}
      ${sample != null && html`<p class="soft">${percent(sample)} of the keys were compared.</p>`}
      <${OtherColumns} of=${diff} />
      ${(!isSame || diff.columns.length > 0) && html`<${Columns} of=${diff} />`}
      ${diff.largest?.length > 0 && html`<${Changes} title="Largest changes" keys=${diff.keys} rows=${diff.largest} />`}
      ${diff.largest?.length === 0 && diff.samples_changed?.length > 0 && html`
        <${Changes} title="Some changes" keys=${diff.keys} rows=${diff.samples_changed} />`}
      ${diff.segments?.length > 0 && html`<${Segments} rows=${diff.segments} />`}
      <${Samples} view=${view} diff=${diff} />
    </section>`;
}

const Counts = ({ of: { rows_a: before, rows_b: after, changed, only_a: lost, only_b: fresh } }) => html`
  <dl class="stats">
    <${Stat} says="Rows before">${number(before)}<//>
    <${Stat} says="Rows after">${number(after)}<//>
    <${Stat} says="Changed">${number(changed)}<//>
    <${Stat} says="Lost">${number(lost)}<//>
    <${Stat} says="New">${number(fresh)}<//>
  </dl>`;

function OtherColumns({ of: { columns_only_a: lost = [], columns_only_b: fresh = [] } }) {
  const named = (names) => names.map((name, at) => html`${at > 0 && ', '}<code>${name}</code>`);
  return html`
    ${lost.length > 0 && html`<p>Columns lost: ${named(lost)}</p>`}
    ${fresh.length > 0 && html`<p>Columns new: ${named(fresh)}</p>`}`;
}

function Columns({ of: { columns, rows_a: rows, only_a: lost } }) {
  const both = Number(rows) - Number(lost);
  const total = (value) => (value == null ? '–' : number(value));
  const shown = [
    { title: 'Column', cell: (c) => html`<bdi>${c.name}</bdi>` },
    { title: 'Rows changed', isNumber: true, cell: (c) => number(c.changed) },
    { title: 'Same', isNumber: true, cell: (c) => (both > 0 ? percent(1 - Number(c.changed) / both) : '–') },
    { title: 'Total before', isNumber: true, cell: (c) => total(c.total_a) },
    { title: 'Total after', isNumber: true, cell: (c) => total(c.total_b) },
    { title: 'Change', isNumber: true, cell: (c) => signed(changeOf(c), percent) },
    { title: 'Compared', cell: (c) => c.compared ?? 'by equality' },
  ];
  return html`<${Table} caption="Columns" isCaptionShown columns=${shown} rows=${columns} />`;
}

function Changes({ title, keys, rows }) {
  const shown = [
    ...keys.map((name, at) => ({ title: html`<bdi>${name}</bdi>`, cell: (row) => html`<${Value} of=${row.key[at]} />` })),
    { title: 'Column', cell: (row) => html`<bdi>${row.column}</bdi>` },
    { title: 'Before', isNumber: true, cell: (row) => html`<${Value} of=${row.a} />` },
    { title: 'After', isNumber: true, cell: (row) => html`<${Value} of=${row.b} />` },
    { title: 'By', isNumber: true, cell: (row) => signed(row.by, number) },
  ];
  return html`<${Table} caption=${title} isCaptionShown columns=${shown} rows=${rows} hasRowHeads=${false} />`;
}

function Segments({ rows }) {
  const shown = [
    { title: 'Segment', cell: (s) => html`<bdi>${s.key}</bdi> = <bdi>${s.value}</bdi>` },
    { title: 'Rows that differ', isNumber: true, cell: (s) => number(s.differing) },
    { title: 'Rows', isNumber: true, cell: (s) => number(s.rows) },
    { title: 'Of all that differ', isNumber: true, cell: (s) => percent(s.share, 1) },
    { title: 'Times as often as all', isNumber: true, cell: (s) => number(s.lift, 1) },
  ];
  return html`<${Table} caption="Where it differs more than elsewhere" isCaptionShown columns=${shown} rows=${rows} />`;
}

function Samples({ view, diff }) {
  const both = [...diff.keys, ...diff.columns.map((c) => c.name)];
  const known = useLoad(relations, [], { every: LATER }).value ?? [];
  const kinds = [
    ['Some rows that were lost', diff.samples_only_a, diff.columns_only_a],
    ['Some rows that are new', diff.samples_only_b, diff.columns_only_b],
  ];
  return kinds.filter(([, rows]) => rows?.length > 0).map(([title, rows, others = []]) => {
    const names = namesOf(known, view, [...both, ...others]);
    const columns = rows[0].map((_, at) => ({
      title: names?.length === rows[0].length ? html`<bdi>${names[at]}</bdi>` : `Value ${at + 1}`,
      cell: (row) => html`<${Value} of=${row[at]} />`,
    }));
    return html`<${Table} caption=${title} isCaptionShown columns=${columns} rows=${rows} hasRowHeads=${false} />`;
  });
}
