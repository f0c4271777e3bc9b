// Tables of a page's size: with a caption, headings, and an empty state.

import { html } from '../vendor/preact-htm.module.js';
import { isTimestamp, text, time } from '../format.js';
import { Exact } from '../json.js';
import { Empty, Scroll } from './parts.js';

/**
 * `columns` are `{ title, cell(row), isNumber, kind }`. The first is the heading of its row where
 * `hasRowHeads`.
 */
export function Table({ caption, columns, rows, empty, hasRowHeads = true, isCaptionShown = false, class: kind = '' }) {
  if (rows.length === 0 && empty) return html`<${Empty}>${empty}<//>`;
  const cell = (column, row, at) => {
    const looks = `${column.isNumber ? 'number' : ''} ${column.kind ?? ''}`;
    return at === 0 && hasRowHeads
      ? html`<th scope="row" class=${looks}>${column.cell(row)}</th>`
      : html`<td class=${looks}>${column.cell(row)}</td>`;
  };
  return html`
    <${Scroll} label=${caption} class=${kind}>
      <table>
        <caption class=${isCaptionShown ? '' : 'hidden'}>${caption}</caption>
        <thead><tr>${columns.map((c) => html`<th scope="col" class=${c.isNumber ? 'number' : ''}>${c.title}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${columns.map((c, at) => cell(c, row, at))}</tr>`)}</tbody>
      </table>
    <//>`;
}

/** A value of an answer. NULL and the empty text are told apart. */
export function Value({ of, isCut = true }) {
  if (of === null || of === undefined) return html`<span class="null">NULL</span>`;
  if (of === '') return html`<span class="null">empty text</span>`;
  const shown = isTimestamp(of) ? time(of) : text(of);
  return isCut && shown.length > 120 ? html`<span title=${shown.slice(0, 2000)}>${shown.slice(0, 120)}…</span>` : shown;
}

export const isNumeric = (value) => typeof value === 'number' || value instanceof Exact;

/** The name of a column, which may be broken where a word of it ends. */
export const Name = ({ of }) => html`<bdi>${of.split(/(?<=_)/).map((part, nth) => [nth > 0 && html`<wbr />`, part])}</bdi>`;

/** Rows of an answer as a table, with columns of these names. */
export function Rows({ caption, rows, names, empty }) {
  const columns = names.map((name) => ({
    title: html`<${Name} of=${name} />`,
    cell: (row) => html`<${Value} of=${row[name]} />`,
    isNumber: rows.length > 0 && rows.every((row) => row[name] == null || isNumeric(row[name])),
  }));
  return html`<${Table} caption=${caption} columns=${columns} rows=${rows} empty=${empty} hasRowHeads=${false} class="tall" />`;
}
