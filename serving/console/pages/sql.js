// SQL: a statement, its answer as a grid and as a chart, what it was asked before.

import { html, useEffect, useMemo, useRef, useState } from '../vendor/preact-htm.module.js';
import { answer, csv, relations, replay } from '../api.js';
import { plain } from '../boards.js';
import { MOST_LINES, TimeChart } from '../components/chart.js';
import { Editor, RUN_KEYS, replace } from '../components/editor.js';
import { Grid } from '../components/grid.js';
import { Choice, Code, Copy, Empty, Heading, Loaded, Mark, Prose, Said, Since, Time, useId } from '../components/parts.js';
import { isNumeric } from '../components/table.js';
import { Tabs } from '../components/tabs.js';
import { counted, instant, isDate, isTimestamp, number, span, text, time, zone, zoneName } from '../format.js';
import { Exact } from '../json.js';
import { useLoad } from '../load.js';
import { change } from '../router.js';
import { relation, shortName } from '../statement.js';
import { forThisBrowser, keep, kept, useStore } from '../store.js';

const DRAFT = 'anabranch.sql.draft';
const HISTORY = 'anabranch.sql.history';
const RECEIPTS = 'anabranch.sql.receipts';
const KEPT_STATEMENTS = 50;

/** What is read of an answer at most; all of it is in the file. */
const MOST = { rows: 100_000, cells: 5_000_000 };

/** Longer statements are in no address. */
const MOST_IN_ADDRESS = 20_000;

/** A chart has so many points at most. */
const MOST_POINTS = 20_000;

export function Sql({ query }) {
  const asked = query.get('q');
  const [draft, setDraft] = useState(() => asked ?? kept(forThisBrowser, DRAFT, ''));
  const [run, setRun] = useState(null);
  const [history, setHistory] = useState(readHistory);
  const [receipt, setReceipt] = useState(() => kept(forThisBrowser, RECEIPTS, '') === 'on');
  const box = useRef(null);
  const write = (value) => {
    setDraft(value);
    keep(forThisBrowser, DRAFT, value);
    // The address is of what was asked; what is written now is another statement.
    if (asked !== null && asked !== value) change({ q: null });
  };
  useEffect(() => {
    if (asked === null || asked === draft) return;
    setDraft(asked);
    keep(forThisBrowser, DRAFT, asked);
  }, [asked]);
  // Whoever leaves the page has no use for the answer.
  useEffect(() => () => run?.controller.abort(), [run?.controller]);

  const start = async () => {
    const statement = draft;
    if (statement.trim() === '') return;
    run?.controller.abort();
    const controller = new AbortController();
    const begunAt = Date.now();
    const mine = { controller, statement, begunAt, rows: 0, isRunning: true };
    setRun(mine);
    change({ q: statement.length <= MOST_IN_ADDRESS ? statement : null });
    const update = (changes) => setRun((before) => (before?.controller === controller ? { ...before, ...changes } : before));
    let outcome;
    try {
      const result = await answer(statement, {
        signal: controller.signal, most: MOST, onProgress: (rows) => update({ rows }), receipt,
      });
      outcome = { result, rows: result.rows.length };
    } catch (error) {
      outcome = controller.signal.aborted ? { isCancelled: true } : { error };
    }
    const tookMs = Date.now() - begunAt;
    update({ ...outcome, isRunning: false, tookMs });
    setHistory(remember({ statement, at: begunAt, tookMs, rows: outcome.rows ?? null }));
  };
  const take = (statement) => {
    write(statement);
    box.current?.focus();
  };
  const wantReceipt = ({ target }) => {
    setReceipt(target.checked);
    keep(forThisBrowser, RECEIPTS, target.checked ? 'on' : null);
  };
  return html`
    <${Heading}>SQL<//>
    <section class="part" aria-label="Statement">
      <${Editor} label="Statement" text=${draft} onInput=${write} onRun=${start} box=${box} />
      <div class="toolbar">
        <button type="button" class="main" onClick=${start} disabled=${draft.trim() === ''}>Run</button>
        ${run?.isRunning && html`<button type="button" onClick=${() => run.controller.abort()}>Cancel</button>`}
        <label class="check"><input type="checkbox" checked=${receipt} onChange=${wantReceipt} /> With a receipt</label>
        <span role="status" class="run-says"><${RunSays} run=${run} /></span>
      </div>
    </section>
    <div class="sql-rest">
      <div class="sql-answer">
        ${run?.error && html`<${SqlProblem} run=${run} box=${box} draft=${draft} />`}
        ${run?.result && html`<${Answer} key=${run.begunAt} run=${run} />`}
        ${!run && html`
          <${Empty}>
            <p>Write a statement and run it with ${RUN_KEYS}. <code>SHOW TABLES</code> lists what there is.</p>
          <//>`}
      </div>
      <aside class="sql-side" aria-label="Help with statements">
        <${Known} take=${(name) => insert(box.current, name)} />
        <${History} entries=${history} take=${take} clear=${() => setHistory(forgetAll())} />
      </aside>
    </div>`;
}

function RunSays({ run }) {
  if (!run) return null;
  if (run.isRunning) {
    const soFar = run.rows > 0 && `, ${counted(run.rows, 'row', 'rows')} so far`;
    return html`Running … <span aria-hidden="true"><${Since} at=${run.begunAt} />${soFar}</span>`;
  }
  if (run.isCancelled) return 'Cancelled.';
  if (run.error) return 'It failed.';
  return `${run.result.hasMore ? 'The first ' : ''}${counted(run.rows, 'row', 'rows')} in ${span(run.result.tookMs / 1000)}.`;
}

function readHistory() {
  try {
    const entries = JSON.parse(kept(forThisBrowser, HISTORY, '[]'));
    return Array.isArray(entries) ? entries.filter((e) => typeof e?.statement === 'string') : [];
  } catch {
    return [];
  }
}

function remember(entry) {
  const others = readHistory().filter((e) => e.statement !== entry.statement);
  const entries = [entry, ...others].slice(0, KEPT_STATEMENTS);
  keep(forThisBrowser, HISTORY, JSON.stringify(entries));
  return entries;
}

function forgetAll() {
  keep(forThisBrowser, HISTORY, null);
  return [];
}

/** What is wrong, with its place as the daemon draws it. */
function SqlProblem({ run: { error, statement }, box, draft }) {
  const { line, column } = error;
  const goThere = () => {
    const lines = statement.split('\n').slice(0, line);
    const before = [...lines.pop()].slice(0, (column ?? 1) - 1);
    const at = [...lines, before.join('')].join('\n').length;
    box.current.focus();
    box.current.setSelectionRange(at, at);
  };
  return html`
    <div class="problem" role="alert">
      <${Said} text=${error.message} label="The place in the statement"><${Mark} level="red" /> <//>
      ${line > 0 && statement === draft && html`
        <button type="button" class="small" onClick=${goThere}>Go to line ${line}, column ${column ?? 1}</button>`}
    </div>`;
}

/** Of each column whether all that is seen of it are times, or numbers. */
function kindsOf({ columns, rows }) {
  const seen = rows.length > 2000 ? rows.filter((_, nth) => nth % Math.ceil(rows.length / 2000) === 0) : rows;
  return columns.map((_, nth) => {
    const values = seen.map((row) => row[nth]).filter((value) => value != null);
    if (values.length === 0) return 'text';
    if (values.every(isNumeric)) return 'number';
    return values.every((value) => isTimestamp(value) || isDate(value)) ? 'time' : 'text';
  });
}

function Answer({ run: { result } }) {
  const [tab, setTab] = useState('rows');
  const kinds = useMemo(() => kindsOf(result), [result]);
  const hasChart = kinds.includes('time') && kinds.includes('number') && result.rows.length > 1;
  const tabs = [{ name: 'rows', says: 'Rows' }, ...(hasChart ? [{ name: 'chart', says: 'Chart' }] : [])];
  return html`
    <section class="part" aria-label="Answer">
      <div class="part-head">
        <h2>Answer</h2>
        <div class="actions"><${Download} statement=${result.statement} /></div>
      </div>
      ${result.hasMore && html`
        <p class="soft">
          Only the first ${number(result.rows.length)} rows are here. The file that you download has all of them.
        </p>`}
      <${Tabs} label="The answer" tabs=${tabs} chosen=${tab} choose=${setTab}>
        ${(name) => (name === 'rows'
          ? html`<${ResultGrid} result=${result} kinds=${kinds} />`
          : html`<${ResultChart} result=${result} kinds=${kinds} />`)}
      <//>
      <${Sources} result=${result} />
    </section>`;
}

function ResultGrid({ result, kinds }) {
  const shownZone = useStore(zone);
  const [chosen, setChosen] = useState(null);
  const cell = useMemo(() => (row, at) => {
    const value = result.rows[row][at];
    if (value === null || value === undefined) return { text: 'NULL', kind: 'null' };
    if (kinds[at] === 'time' && isTimestamp(value)) return { text: time(value), kind: 'time' };
    return { text: text(value), kind: kinds[at] === 'number' ? 'number' : '' };
  }, [result, kinds, shownZone]);
  if (result.rows.length === 0) return html`<p class="soft">No rows.</p>`;
  return html`
    <${Grid} label="Rows of the answer. Arrow keys go from cell to cell." columns=${result.columns}
      rowCount=${result.rows.length} cell=${cell} onChoose=${setChosen} />
    ${chosen && html`
      <${Whole} name=${result.columns[chosen.column]} value=${result.rows[chosen.row]?.[chosen.column]} row=${chosen.row} />`}`;
}

/** The chosen value, whole. */
function Whole({ name, value, row }) {
  const raw = text(value);
  const isNested = value !== null && typeof value === 'object' && !(value instanceof Exact);
  const shown = isNested ? JSON.stringify(value, null, 2) : raw;
  return html`
    <div class="whole">
      <div class="part-head">
        <h3><bdi>${name}</bdi>, row ${number(row + 1)}</h3>
        <div class="actions"><${Copy} text=${raw} says="Copy value" /></div>
      </div>
      ${value === ''
        ? html`<p class="soft">The empty text.</p>`
        : html`<${Code} text=${shown.slice(0, 100_000)} label="The value" />`}
    </div>`;
}

function ResultChart({ result, kinds }) {
  const of = (kind) => kinds.flatMap((k, nth) => (k === kind ? [nth] : []));
  const [timeAt, setTimeAt] = useState(of('time')[0]);
  const [values, setValues] = useState(of('number').slice(0, 1));
  const { data, isCut } = useMemo(() => {
    const usable = result.rows.filter((row) => row[timeAt] != null).slice(0, MOST_POINTS);
    const sorted = usable.map((row) => [instant(row[timeAt]) / 1000, row]).sort((a, b) => a[0] - b[0]);
    const lines = values.map((nth) => ({ name: result.columns[nth], values: sorted.map(([, row]) => plain(row[nth])) }));
    return { data: { at: sorted.map(([at]) => at), lines }, isCut: result.rows.length > MOST_POINTS };
  }, [result, timeAt, values]);
  const isByDay = result.rows.every((row) => row[timeAt] == null || isDate(row[timeAt]));
  const toggle = (nth) => setValues((before) => (before.includes(nth) ? before.filter((v) => v !== nth) : [...before, nth]));
  return html`
    <div class="controls">
      <${Choice} says="Time" chosen=${timeAt} options=${of('time').map((nth) => [nth, result.columns[nth]])}
        choose=${(nth) => setTimeAt(Number(nth))} isOne />
      <fieldset class="choice"><legend>Lines</legend>
        ${of('number').slice(0, 40).map((nth) => html`
          <label class="check"><input type="checkbox" checked=${values.includes(nth)} onChange=${() => toggle(nth)}
            disabled=${!values.includes(nth) && values.length >= MOST_LINES} /> <bdi>${result.columns[nth]}</bdi></label>`)}
      </fieldset>
    </div>
    ${isCut && html`<p class="soft">Drawn of the first ${number(MOST_POINTS)} rows.</p>`}
    ${values.length === 0
      ? html`<p class="soft">Choose a line.</p>`
      : html`
        <${TimeChart} title=${`By ${result.columns[timeAt]}`} isByDay=${isByDay} at=${data.at} lines=${data.lines} />`}`;
}

/** What the daemon says of the answer. */
const Sources = ({ result }) => html`
  <dl class="pairs said">
    <dt>Asked</dt><dd><${Time} at=${result.readAt} /> ${zoneName()}</dd>
    ${result.freshness && html`<dt>Seen up to</dt><dd><code>${result.freshness}</code></dd>`}
    ${result.notes.map((note) => html`<dt>Note</dt><dd><${Prose} text=${note} /></dd>`)}
    ${result.receipt && html`<dt>Receipt</dt><dd><${Receipt} receipt=${result.receipt} /></dd>`}
  </dl>`;

/** What the answer was computed from, signed, by which the daemon computes it again. */
function Receipt({ receipt }) {
  const [said, setSaid] = useState(null);
  const again = async () => {
    setSaid('It is computed again …');
    try {
      const { same, differences, notes } = await replay(receipt);
      const rest = [...differences, ...notes].map((text) => `${text}.`);
      setSaid([same ? 'The same answer comes of it now.' : 'Another answer comes of it now:', ...rest].join(' '));
    } catch (error) {
      setSaid(error.message);
    }
  };
  return html`
    <code class="cut">${receipt.slice(0, 24)}…</code>
    <${Copy} text=${receipt} says="Copy receipt" />
    <button type="button" class="small" onClick=${again}>Compute it again</button>
    <p class="soft" role="status">${said && html`<${Prose} text=${said} />`}</p>`;
}

function Download({ statement }) {
  const [state, setState] = useState(null);
  const load = async () => {
    setState('on its way');
    try {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(await csv(statement));
      link.download = 'answer.csv';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      setState(null);
    } catch (error) {
      setState(error.message);
    }
  };
  return html`
    <span role="status" class="soft">${state}</span>
    <button type="button" class="small" onClick=${load} disabled=${state === 'on its way'}>Download CSV</button>`;
}

function insert(area, name) {
  area.focus();
  replace(area, area.selectionStart, area.selectionEnd, name);
}

/** What can be asked: relations and their columns, with a search. */
function Known({ take }) {
  const load = useLoad(relations, []);
  const [sought, setSought] = useState('');
  const id = useId('seek');
  return html`
    <details class="known" open=${innerWidth > 1100}>
      <summary>Tables and columns</summary>
      <${Loaded} load=${load} what="Tables">
        ${(all) => {
          const wanted = sought.trim().toLowerCase();
          const has = (name) => name.toLowerCase().includes(wanted);
          const found = all.filter((r) => has(r.name) || r.columns.some((c) => has(c.name)));
          return html`
            <label for=${id} class="hidden">Look for a name</label>
            <input id=${id} type="search" placeholder="Look for a name" value=${sought}
              onInput=${(event) => setSought(event.target.value)} />
            ${found.length === 0 && html`<p class="soft">None is called like that.</p>`}
            <ul class="names">
              ${found.slice(0, 200).map((r) => html`
                <li key=${r.name}>
                  <details open=${wanted !== '' && !has(r.name)}>
                    <summary><bdi>${r.name}</bdi> <span class="soft">${r.kind}</span></summary>
                    <button type="button" class="small" onClick=${() => take(relation(r.name))}>Put in the name</button>
                    <ul>
                      ${r.columns.map((c) => html`
                        <li>
                          <button type="button" class="name" onClick=${() => take(shortName(c.name))}>${c.name}</button>
                          ${' '}<span class="soft">${c.type}</span>
                        </li>`)}
                    </ul>
                  </details>
                </li>`)}
            </ul>
            ${found.length > 200 && html`<p class="soft">And ${number(found.length - 200)} more; look for a name.</p>`}`;
        }}
      <//>
    </details>`;
}

const History = ({ entries, take, clear }) => html`
  <details class="history">
    <summary>What was asked before (${entries.length})</summary>
    ${entries.length === 0 ? html`
      <p class="soft">Nothing yet. The last ${KEPT_STATEMENTS} statements are kept in this browser.</p>` : html`
      <ul>
        ${entries.map((e) => html`
          <li key=${e.at}>
            <button type="button" class="past" onClick=${() => take(e.statement)}>
              <code>${e.statement.trim().slice(0, 300)}</code>
            </button>
            <span class="soft">
              <${Time} at=${e.at} isShort />, ${e.rows === null ? 'no answer' : counted(e.rows, 'row', 'rows')},
              ${' '}${span(e.tookMs / 1000)}
            </span>
          </li>`)}
      </ul>
      <button type="button" class="small" onClick=${clear}>Forget them</button>`}
  </details>`;
