// An operation: how it stands, how far it is, what it says and what came of it.

import { html, useEffect, useRef } from '../vendor/preact-htm.module.js';
import { counted, instant, number, short, span } from '../format.js';
import { isOver, outcomeOf, useOperation } from '../operations.js';
import { change, route } from '../router.js';
import { Difference } from './difference.js';
import { Code, Command, Empty, Mark, Part, Problem, Prose, Said, Since, Time, useId } from './parts.js';
import { Table } from './table.js';

/** Whether it writes nothing, but tells what would be written. */
const isDry = ({ do: what, command }) => what === 'retry' && / --dry-run\b/.test(command);

/** What it is called: `apply of all views`. */
export const nameOf = (it) => `${it.do.replace('_', ' ')} of ${it.of}${isDry(it) ? ', tried only' : ''}`;

/** The operation that the address of a page names, as a part of the page; nothing where it names none. */
export const Begun = ({ query, onEnd }) => query.get('op') && html`
  <${Part} title="What was begun" isQuiet><${Followed} id=${query.get('op')} onEnd=${onEnd} /><//>`;

/** An operation, followed to its end. */
export const Followed = ({ id, onEnd }) => html`<${Following} key=${id} id=${id} onEnd=${onEnd} />`;

function Following({ id, onEnd }) {
  const heading = useRef(null);
  const label = useId('operation');
  const { value, error, speed, isMine, stop, isStopping } = useOperation(id, onEnd);
  // Whoever has begun it is led to it; whoever only tries goes on trying.
  useEffect(() => {
    if (!isMine || isDry(value)) return;
    heading.current.focus({ preventScroll: true });
    heading.current.scrollIntoView({ block: 'nearest' });
  }, []);
  const isUnknown = error?.status === 404;
  return html`
    <section class="operation" aria-labelledby=${label}>
      <div class="part-head">
        <h3 id=${label} tabindex="-1" ref=${heading}>${value ? nameOf(value) : `operation ${id}`}</h3>
        ${route.get().query.get('op') === id && html`
          <button type="button" class="small" onClick=${() => change({ op: null })}>Put away</button>`}
      </div>
      ${isUnknown && html`
        <${Empty}>
          <p>
            The daemon does not know it any more: it forgets them when it ends. What was built stays, and the
            same command goes on with it.
          </p>
        <//>`}
      ${error && !isUnknown && html`<${Problem} error=${error} />`}
      ${value && html`<${Operation} of=${value} speed=${speed} stop=${stop} isStopping=${isStopping} />`}
      ${!value && !error && html`<p class="soft loading" aria-busy="true">Loading …</p>`}
    </section>`;
}

function Operation({ of, speed, stop, isStopping }) {
  const result = of.result && html`<${Result} of=${of} />`;
  const said = of.said && html`<${Code} text=${of.said} label="What the command says" />`;
  return html`
    <${Standing} of=${of} />
    ${!isOver(of) && html`
      <${Progress} of=${of} speed=${speed} />
      <p class="actions">
        <button type="button" onClick=${stop} disabled=${isStopping}>${isStopping ? 'Stopping …' : 'Stop it'}</button>
      </p>`}
    ${of.error && html`<div class="problem"><${Said} text=${of.error.error} /></div>`}
    ${result}
    ${said && (hasTables(of)
      ? html`<details><summary>What the command says</summary>${said}</details>`
      : said)}
    <p class="soft"><${Command} text=${of.command} /></p>`;
}

/** Its state as a sentence, which is read out when it changes unless `isQuiet`, and who began it when. */
export function Standing({ of, isQuiet = false }) {
  const { level, says } = outcomeOf(of);
  return html`
    <p role=${isQuiet ? undefined : 'status'}><${Mark} level=${level} /> <strong>${says}</strong></p>
    <p class="soft">
      Begun${of.by != null && html` by <bdi>${of.by}</bdi>`} at <${Time} at=${of.begun_at} isShort />, ${isOver(of)
        ? `took ${span((instant(of.ended_at) - instant(of.begun_at)) / 1000)}`
        : html`for <${Since} at=${instant(of.begun_at)} /> so far`}
    </p>`;
}

/** How far it is, in facts. */
function Progress({ of, speed = null }) {
  if (!of.progress) return null;
  const [done, total] = [Number(of.progress.done), Number(of.progress.total)];
  const share = total > 0 ? Math.min(1, done / total) : 0;
  const text = `${number(done)} of ${counted(total, 'fact', 'facts')}`;
  const left = speed > 0 && total > done && `, about ${span(Math.ceil((total - done) / speed))} left`;
  return html`
    <div class="progress">
      <span class="bar" role="progressbar" aria-label=${nameOf(of)} aria-valuemin="0" aria-valuemax="100"
        aria-valuenow=${Math.round(share * 100)} aria-valuetext=${text}>
        <span style=${{ width: `${share * 100}%` }}></span>
      </span>
      <span>${text}${speed !== null && `, ${short(speed)} a second`}${left}</span>
    </div>`;
}

const isRetry = (of) => of.do === 'retry' && of.result?.chosen !== undefined;
const comparedOf = ({ result }) => [result?.compared ?? []].flat().filter((each) => typeof each === 'object' && each !== null);
const hasTables = (of) => isRetry(of) || (of.result?.diff !== undefined) || comparedOf(of).length > 0;

/** What came of it, as tables, where there are some for it. */
function Result({ of }) {
  if (of.result.diff) return html`<${Difference} of=${of.result} />`;
  if (isRetry(of)) return html`<${Retried} of=${of.result} isDry=${isDry(of)} />`;
  const all = comparedOf(of);
  return html`
    ${all.flatMap(({ compared, broken = [] }) => broken.map(({ limit, allowed, found }) => html`
      <p>
        <${Mark} level="attention" /> The gate${compared && html` of <bdi>${compared.view}</bdi>`} is broken:
        ${' '}<code>${limit}</code> allows ${allowed}, found ${found}.
      </p>`))}
    ${all.map(({ compared, not_compared: why }) => html`
      ${why && html`<p>Not compared: <${Prose} text=${why} /></p>`}
      ${compared && html`<${Difference} of=${compared} />`}`)}`;
}

function Retried({ of, isDry: isTried }) {
  const { facts, failed, duplicates = 0, repeated = 0, skipped = 0, reasons = [] } = of;
  const others = [
    [duplicates, isTried ? 'would be duplicates' : 'are duplicates'],
    [repeated, 'were facts already'],
    [skipped, 'are left, as the fix gives no row for them'],
  ].filter(([count]) => Number(count) > 0);
  const columns = [
    { title: 'Place', cell: ([place]) => html`<code>${place}</code>` },
    { title: 'Why it can\'t become a fact', kind: 'wrap', cell: ([, why]) => html`<${Prose} text=${why} />` },
  ];
  return html`
    <p>
      Of ${counted(of.chosen, 'dead letter', 'dead letters')}
      ${' '}<strong>${number(facts)} ${isTried ? 'would become' : 'became'} ${Number(facts) === 1 ? 'a fact' : 'facts'}</strong>,
      ${' '}${number(failed)} can't.${others.map(([count, says]) => ` ${number(count)} ${says}.`)}
    </p>
    ${reasons.length > 0 && html`<${Table} caption="Those that can't become facts" columns=${columns} rows=${reasons} />`}`;
}
