// The forms of a board's panels, each drawn of an answer.

import { html, useMemo } from '../vendor/preact-htm.module.js';
import { compared, linesOf, rolesOf, sharesOf, shown } from '../boards.js';
import { counted, number } from '../format.js';
import { MOST_LINES, TimeChart } from './chart.js';
import { Mark, Prose } from './parts.js';
import { Name, Rows, Table, Value } from './table.js';

/** So many rows are drawn; the page of SQL shows all. */
const MOST_ROWS = 200;

/** What a panel shows. A form that the answer doesn't fit says so in its place. */
export function Drawn({ panel, value }) {
  const Form = FORMS[panel.form] ?? FORMS.table;
  // What was computed once stays the same, however often it is asked for.
  const seen = useMemo(() => {
    try {
      return { answer: value, roles: rolesOf(panel, value.columns) };
    } catch (error) {
      return { error };
    }
  }, [panel, value.computed_at]);
  if (seen.error) return html`<${Unfit} says=${seen.error.message} />`;
  if (value.rows.length === 0 && panel.form !== 'table') return html`<p class="soft">No rows.</p>`;
  return html`<${Form} panel=${panel} ...${seen} />`;
}

const Unfit = ({ says }) => html`
  <div class="problem" role="alert"><p><${Mark} level="red" /> <${Prose} text=${says} />.</p></div>`;

const NO_NUMBER = 'the answer has no number';

/** What is more than is drawn. */
const Left = ({ of }) => of > MOST_ROWS && html`<p class="soft">The first ${number(MOST_ROWS)} of ${counted(of, 'row', 'rows')}.</p>`;

function Figure({ panel, answer, roles: { value, numbers } }) {
  if (!value) return html`<${Unfit} says=${NO_NUMBER} />`;
  const row = answer.rows[0];
  const second = numbers.find((column) => column !== value);
  return html`
    <p class="figure"><strong>${shown(row[value.name])}</strong>${panel.unit && html` <span class="unit">${panel.unit}</span>`}</p>
    ${second && html`<p class="figure-second"><bdi class="soft">${second.name}</bdi> ${shown(row[second.name])}</p>`}`;
}

function Series({ panel, answer }) {
  const drawn = useMemo(() => {
    try {
      return linesOf(panel, answer, MOST_LINES);
    } catch (error) {
      return { error };
    }
  }, [panel, answer]);
  if (drawn.error) return html`<${Unfit} says=${drawn.error.message} />`;
  if (drawn.at.length === 0) return html`<p class="soft">No rows with a time.</p>`;
  return html`
    <${TimeChart} title=${panel.title} isTitleHidden ...${drawn}>
      ${panel.unit && html`<span class="soft">${panel.unit}</span>`}
      ${drawn.left > 0 && html`<span class="soft">${counted(drawn.left, 'line', 'lines')} more are not drawn</span>`}
    <//>`;
}

function Ranking({ panel, answer, roles: { label, value, others } }) {
  if (!value) return html`<${Unfit} says=${NO_NUMBER} />`;
  const rows = answer.rows.slice(0, MOST_ROWS);
  const shares = sharesOf(rows, value);
  return html`
    <p class="ranks-of soft"><bdi>${label?.name}</bdi><span><bdi>${value.name}</bdi>${panel.unit && ` (${panel.unit})`}</span></p>
    <ol class="ranks">
      ${rows.map((row, nth) => html`
        <li class="rank">
          <span class="rank-bar" style=${{ width: `${shares[nth] * 100}%` }} aria-hidden="true"></span>
          <span class="rank-name">
            ${label ? html`<${Value} of=${row[label.name]} />` : number(nth + 1)}
            ${others.length > 0 && html`
              <small class="soft">
                ${others.map(({ name }) => html`<span><bdi>${name}</bdi> <bdi><${Value} of=${row[name]} /></bdi></span> `)}
              </small>`}
          </span>
          <span class="rank-amount">${shown(row[value.name])}</span>
        </li>`)}
    </ol>
    <${Left} of=${answer.rows.length} />`;
}

const SIGNS = { more: ['▲', 'more'], less: ['▼', 'less'], same: ['=', 'the same'] };

function Difference({ value, usual }) {
  const found = compared(value, usual);
  if (!found) return html`<span class="soft">nothing usual</span>`;
  const [sign, word] = SIGNS[found.is];
  const percent = Math.abs(found.percent);
  return html`
    <span class="than ${found.is}">
      <span aria-hidden="true">${sign} </span>${found.is !== 'same' && `${number(percent, percent < 10 ? 1 : 0)} %`}
      <span class="hidden"> ${word}</span>
    </span>`;
}

function Benchmark({ panel, answer, roles: { label, value, usual } }) {
  if (!value || !usual) return html`<${Unfit} says="the answer needs two numbers: a value, and what is usual" />`;
  const columns = [
    ...(label ? [{ title: html`<${Name} of=${label.name} />`, cell: (row) => html`<${Value} of=${row[label.name]} />` }] : []),
    { title: html`<${Name} of=${value.name} />${panel.unit && ` (${panel.unit})`}`, isNumber: true, cell: (row) => html`<strong>${shown(row[value.name])}</strong>` },
    { title: html`<${Name} of=${usual.name} />`, isNumber: true, cell: (row) => shown(row[usual.name]) },
    { title: 'Difference', isNumber: true, cell: (row) => html`<${Difference} value=${row[value.name]} usual=${row[usual.name]} />` },
  ];
  return html`
    <${Table} caption=${panel.title} columns=${columns} rows=${answer.rows.slice(0, MOST_ROWS)} hasRowHeads=${Boolean(label)} />
    <${Left} of=${answer.rows.length} />`;
}

const Plain = ({ panel, answer }) => html`
  <${Rows} caption=${panel.title} rows=${answer.rows.slice(0, MOST_ROWS)} names=${answer.columns.map((c) => c.name)}
    empty=${html`<p>No rows.</p>`} />
  <${Left} of=${answer.rows.length} />`;

const FORMS = { number: Figure, series: Series, ranking: Ranking, benchmark: Benchmark, table: Plain };
