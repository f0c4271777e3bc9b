// Explore: charts that are made from a view's own columns. A time becomes a line, every other key a
// ranking that narrows the rest, and all that was chosen is in the address.

import { html, useMemo } from '../vendor/preact-htm.module.js';
import { Refusal, relations, rows } from '../api.js';
import { TimeChart } from '../components/chart.js';
import { Empty, Heading, Link, NoViews, Part, Time, useId } from '../components/parts.js';
import { Rows, Value } from '../components/table.js';
import { counted, instant, number, text, zoneName } from '../format.js';
import { Exact } from '../json.js';
import { LATER, useLoad } from '../load.js';
import { go, href } from '../router.js';
import { RANGES, explorable, ranking, sample, series, total } from '../statement.js';

/** Names of the address that are no keys. A key of such a name is written with `key.` before it. */
const OWN = ['view', 'range', 'measure', 'null', 'live'];
const PREFIX = 'key.';

const inAddress = (key) => (OWN.includes(key) || key.startsWith(PREFIX) ? PREFIX + key : key);

/** What the address asks for, as far as the view has it. */
export function chosen(query, view) {
  const { time, keys, measures } = explorable(view);
  const range = RANGES.find((r) => r.name === query.get('range')) ?? RANGES.find((r) => r.name === '1d');
  const measure = measures.find((m) => m.name === query.get('measure')) ?? measures[0];
  const nulls = query.getAll('null');
  const filters = {};
  for (const { name } of keys) {
    const values = [...query.getAll(inAddress(name)), ...(nulls.includes(name) ? [null] : [])];
    if (values.length) filters[name] = values;
  }
  const columns = view.columns.map((c) => c.name);
  const isLive = query.get('live') === 'on';
  const { name, topic } = view;
  return { view: name, topic, columns, time, keys, measures, measure, range: time ? range : {}, filters, isLive };
}

/** The address of what is looked at, with some of it changed. */
function address(look, changes) {
  const { view, range, measure, measures, filters, time, isLive } = { ...look, ...changes };
  const query = new URLSearchParams({ view });
  if (time) query.set('range', range.name);
  if (measure !== measures[0]) query.set('measure', measure.name);
  for (const [key, values] of Object.entries(filters)) {
    for (const value of values) query.append(...(value === null ? ['null', key] : [inAddress(key), value]));
  }
  if (isLive) query.set('live', 'on');
  return href(['explore'], query);
}

/** How often what is looked at is asked for again, if it is. */
const pace = (look) => ({ every: look.isLive ? LATER : undefined });

const ABOUT = `Choose a view. A time of it becomes a line, its other keys become rankings; click a value to look
at that alone.`;

export function Explore({ query }) {
  const all = useLoad(relations, [], { every: LATER });
  const name = query.get('view');
  return html`
    <${Heading} about=${ABOUT}>Explore<//>
    <${Part} title="What is looked at" load=${all} isQuiet class="bare">
      ${(list) => {
        const views = list.filter((r) => r.kind === 'view');
        if (views.length === 0) return html`<${NoViews} />`;
        const view = name === null ? best(views) : views.find((v) => v.name === name);
        if (!view) return html`<${NoSuchView} name=${name} />`;
        const look = chosen(query, view);
        return html`
          <${Controls} look=${look} views=${views} />
          <${Look} key=${view.name} look=${look} />`;
      }}
    <//>`;
}

const NoSuchView = ({ name }) => html`
  <${Empty}>
    <p>There is no view <code>${name}</code> that you may read. <${Link} to=${['explore']}>See another<//>.</p>
  <//>`;

/** The view to begin with: one that has a time. */
const best = (views) => views.find((v) => explorable(v).time !== null) ?? views[0];

function Controls({ look, views }) {
  const id = useId('view');
  const filters = Object.entries(look.filters);
  const turnTo = (view) => go(href(['explore'], { view, range: look.time ? look.range.name : null }));
  const without = (key) => Object.fromEntries(filters.filter(([name]) => name !== key));
  return html`
    <div class="controls">
      <div class="choice">
        <label for=${id}>View</label>
        <select id=${id} value=${look.view} onChange=${(event) => turnTo(event.target.value)}>
          ${views.map((v) => html`<option value=${v.name}>${v.name}</option>`)}
        </select>
      </div>
      ${look.time && html`
        <div class="choice" role="group" aria-label="How far back">
          <span class="label" aria-hidden="true">How far back</span>
          <span class="buttons">${RANGES.map((range) => html`
            <${Toggle} isOn=${range === look.range} title=${range.says} to=${address(look, { range })}>
              ${range.name}
            <//>`)}</span>
        </div>`}
      <div class="choice" role="group" aria-label="What is counted">
        <span class="label" aria-hidden="true">What is counted</span>
        <span class="buttons">${look.measures.map((measure) => html`
          <${Toggle} isOn=${measure === look.measure} to=${address(look, { measure })}>${measure.says}<//>`)}</span>
      </div>
      <div class="choice">
        <${Toggle} isOn=${look.isLive} to=${address(look, { isLive: !look.isLive })}>Again every 15 s<//>
      </div>
    </div>
    ${filters.length > 0 && html`
      <p class="chosen-filters" aria-live="polite">Only
        ${filters.map(([key, values]) => html`
          ${' '}<span class="filter">
            <bdi>${key}</bdi> ${values.length > 1 ? 'is one of' : 'is'}
            ${values.map((value, at) => html`${at > 0 && 'or '}<bdi>${shownName(value)}</bdi>`)}
            <a href=${address(look, { filters: without(key) })} aria-label=${`Show every ${key}`}>✕</a>
          </span>`)}
        ${filters.length > 1 && html` <a href=${address(look, { filters: {} })}>Show everything</a>`}
      </p>`}`;
}

/** A button that is on or off, and leads to an address. */
const Toggle = ({ isOn, to, children, ...rest }) => html`
  <button type="button" aria-pressed=${isOn} onClick=${() => go(to)} ...${rest}>${children}</button>`;

const shownName = (value) => (value === null ? 'NULL' : value === '' ? 'empty text' : text(value));

/**
 * Asks by the first of a measure's functions that the server takes: where values don't add up, `sum` is
 * refused and `combine` is not.
 */
async function measured(look, write, signal) {
  const { functions } = look.measure;
  for (const [nth, how] of functions.entries()) {
    const asked = write(how);
    try {
      return { found: await rows(asked.sql, { parameters: asked.parameters, signal }), asked, how, of: look };
    } catch (error) {
      const isRefused = error instanceof Refusal && error.status < 500 && ![401, 403, 429].includes(error.status);
      if (!isRefused || nth === functions.length - 1) throw error;
    }
  }
  return undefined;
}

function Look({ look }) {
  // The address says all of it, so it tells when to ask again.
  const place = address(look, {});
  return html`
    <${Total} look=${look} place=${place} />
    ${look.time && html`<${Series} look=${look} place=${place} />`}
    <div class="rankings">
      ${look.keys.map(({ name }) => html`<${Ranking} key=${name} look=${look} of=${name} place=${place} />`)}
    </div>
    ${(!look.time || look.keys.length === 0) && html`<${Sample} look=${look} place=${place} />`}`;
}

const InSql = ({ load }) => html`
  <div class="actions">
    <button type="button" class="small" onClick=${load.again} disabled=${load.isLoading}>Look again</button>
    ${load.value?.asked && html`<a class="small" href=${href(['sql'], { q: load.value.asked.text })}>SQL</a>`}
  </div>`;

function Total({ look, place }) {
  const load = useLoad((signal) => measured(look, (how) => total(look, how), signal), [place], pace(look));
  return html`
    <${Part} title="Total" load=${load} actions=${html`<${InSql} load=${load} />`}>
      ${({ found: [row], how, of }) => html`
        <p class="total">
          <strong>${number(row?.amount ?? (how === 'avg' ? null : 0))}</strong>
          ${' '}${of.measure.says}${of.time && html`<span class="soft">, ${of.range.says}</span>`}
        </p>
        ${look.time && row?.newest == null && html`<${Nothing} look=${look} />`}`}
    <//>`;
}

/** Says where there is something. */
function Nothing({ look }) {
  const all = RANGES.at(-1);
  const everything = { ...look, range: all };
  const load = useLoad((signal) => measured(look, (how) => total(everything, how), signal), [address(everything, {})]);
  const newest = load.value?.found[0]?.newest;
  if (load.value === undefined) return null;
  if (newest != null) {
    const toAll = address(look, { range: all });
    return html`
      <${Empty}>
        <p>Nothing in this time. The newest is of <${Time} at=${newest} />. <a href=${toAll}>Show all time</a></p>
      <//>`;
  }
  if (Object.keys(look.filters).length) return html`<${Empty}><p>Nothing has these values.</p><//>`;
  const topic = html`<${Link} to=${['topics', look.topic]}>${look.topic}<//>`;
  return html`<${Empty}><p>Nothing is there yet. It comes with the facts of ${topic}.</p><//>`;
}

const plain = (value) => (value == null ? null : Number(value));

/** The points of a line. Steps that nothing is said of are nought where amounts add up. */
export function points(found, isNought) {
  const known = found.filter((row) => row.at !== null).map((row) => [instant(row.at) / 1000, plain(row.amount)]);
  let step = Infinity;
  for (let nth = 1; nth < known.length; nth += 1) step = Math.min(step, known[nth][0] - known[nth - 1][0]);
  const at = [];
  const values = [];
  for (const [seconds, amount] of known) {
    while (isNought && at.length && at.at(-1) + step * 1.5 < seconds && at.length < 20_000) {
      at.push(at.at(-1) + step);
      values.push(0);
    }
    at.push(seconds);
    values.push(amount);
  }
  return { at, values };
}

function Series({ look, place }) {
  const load = useLoad((signal) => measured(look, (how) => series(look, how), signal), [place], pace(look));
  return html`
    <${Part} title=${`${look.measure.says} by ${look.range.step}, ${look.range.says}`} load=${load}
      actions=${html`<${InSql} load=${load} />`}>
      ${({ found, how, of }) => html`<${Line} look=${of} found=${found} how=${how} />`}
    <//>`;
}

function Line({ look, found, how }) {
  const data = useMemo(() => {
    const { at, values } = points(found, how !== 'avg');
    return { at, lines: [{ name: look.measure.says, values }] };
  }, [found]);
  const isByDay = look.range.step === 'day';
  if (data.at.length === 0) return html`<p class="soft">Nothing in this time.</p>`;
  return html`
    <${TimeChart} title=${`${look.measure.says}, ${look.range.says}`} isTitleHidden isByDay=${isByDay}
      at=${data.at} lines=${data.lines}>
      <span class="soft">
        ${counted(data.at.length, 'point', 'points')}; ${isByDay ? 'days are those of UTC' : `times are in ${zoneName()}`}
      </span>
    <//>`;
}

function Ranking({ look, of, place }) {
  const load = useLoad((signal) => measured(look, (how) => ranking(look, how, of), signal), [place], pace(look));
  return html`
    <${Part} title=${of} load=${load} class="ranking" actions=${html`<${InSql} load=${load} />`}>
      ${({ found }) => html`<${Ranks} look=${look} of=${of} found=${found} />`}
    <//>`;
}

function Ranks({ look, of, found }) {
  const given = look.filters[of] ?? [];
  const asText = (value) => (value === null || value === undefined ? null : text(value));
  const missing = given.filter((value) => !found.some((row) => asText(row.name) === value));
  const all = [...found, ...missing.map((name) => ({ name, amount: undefined }))];
  if (all.length === 0) return html`<p class="soft">Nothing.</p>`;
  const most = Math.max(...found.map((row) => plain(row.amount) ?? 0), 0);
  const toggled = (value) => {
    const values = given.includes(value) ? given.filter((v) => v !== value) : [...given, value];
    return { filters: { ...look.filters, [of]: values } };
  };
  return html`
    <ol class="ranks">
      ${all.map(({ name, amount }) => {
        const value = asText(name);
        const isChosen = given.includes(value);
        const share = most > 0 ? Math.max(0, (plain(amount) ?? 0) / most) : 0;
        return html`
          <li key=${String(value)}>
            <${Toggle} class="rank" isOn=${isChosen} to=${address(look, toggled(value))} title=${shownName(value)}>
              <span class="rank-bar" style=${{ width: `${share * 100}%` }} aria-hidden="true"></span>
              <span class="rank-name">${isChosen && html`<span aria-hidden="true">✓ </span>`}<${Value} of=${name ?? null} /></span>
              <span class="rank-amount">${amount === undefined ? '' : number(amount instanceof Exact ? amount : plain(amount))}</span>
            <//>
          </li>`;
      })}
    </ol>`;
}

function Sample({ look, place }) {
  const load = useLoad(async (signal) => {
    const asked = sample(look);
    return { found: await rows(asked.sql, { parameters: asked.parameters, signal }), asked };
  }, [place]);
  return html`
    <${Part} title="Rows" load=${load} actions=${html`<${InSql} load=${load} />`}>
      ${({ found }) => html`
        <${Rows} caption=${`Rows of ${look.view}`} rows=${found} names=${look.columns} empty=${html`<p>No rows.</p>`} />`}
    <//>`;
}
