// Explore: charts that are made from a view's own columns. A time becomes a line, which stands beside the
// usual, every other key a ranking that narrows the rest, and all that was chosen is in the address.

import { html, useMemo } from '../vendor/preact-htm.module.js';
import { Refusal, relations, rows } from '../api.js';
import { compared, plain, shown } from '../boards.js';
import { TimeChart } from '../components/chart.js';
import { Absent, Choice, Empty, Heading, Link, Loaded, NoViews, Part, Time, Toggle } from '../components/parts.js';
import { Rows, Value } from '../components/table.js';
import { counted, instant, number, text, zoneName } from '../format.js';
import { LATER, useLoad } from '../load.js';
import { go, href } from '../router.js';
import { RANGES, WEEKS, explorable, formerly, ranking, sample, series, total } from '../statement.js';

/** Names of the address that are no keys. A key of such a name is written with `key.` before it. */
const OWN = ['view', 'range', 'measure', 'null', 'live', 'usual'];
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
  const isAlone = query.get('usual') === 'off';
  const { name, topic, sql } = view;
  // Days that begin at any hour.
  const isDaily = /'day'/.test(sql);
  return { view: name, topic, isDaily, columns, time, keys, measures, measure, range: time ? range : {}, filters, isLive, isAlone };
}

/** The address of what is looked at, with some of it changed. */
function address(look, changes) {
  const { view, range, measure, measures, filters, time, isLive, isAlone } = { ...look, ...changes };
  const query = new URLSearchParams({ view });
  if (time) query.set('range', range.name);
  if (measure !== measures[0]) query.set('measure', measure.name);
  for (const [key, values] of Object.entries(filters)) {
    for (const value of values) query.append(...(value === null ? ['null', key] : [inAddress(key), value]));
  }
  if (isLive) query.set('live', 'on');
  if (isAlone) query.set('usual', 'off');
  return href(['explore'], query);
}

/** Whether there are weeks before to look at. */
const hasUsual = ({ step = 'day' }) => step !== 'day';

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
        if (!view) return html`<${Absent} kind="view" name=${name} to="explore" />`;
        const look = chosen(query, view);
        return html`
          <${Controls} look=${look} views=${views} />
          <${Look} key=${view.name} look=${look} />`;
      }}
    <//>`;
}

/** The view to begin with: one that has a time. */
const best = (views) => views.find((v) => explorable(v).time !== null) ?? views[0];

function Controls({ look, views }) {
  const filters = Object.entries(look.filters);
  const turnTo = (view) => go(href(['explore'], { view, range: look.time ? look.range.name : null }));
  const without = (key) => Object.fromEntries(filters.filter(([name]) => name !== key));
  return html`
    <div class="controls">
      <${Choice} says="View" chosen=${look.view} options=${views.map((v) => [v.name, v.name])} choose=${turnTo} isOne />
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
      <div class="buttons">
        ${hasUsual(look.range) && html`
          <${Toggle} isOn=${!look.isAlone} to=${address(look, { isAlone: !look.isAlone })}>Beside the usual<//>`}
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

const shownName = (value) => (value === null ? 'NULL' : value === '' ? 'empty text' : text(value));

/**
 * Asks by the first of a measure's functions that the server takes: where values don't add up, `sum` is
 * refused and `combine` is not.
 */
async function measured(look, write, key, signal) {
  const { functions } = look.measure;
  for (const [nth, how] of functions.entries()) {
    const asked = write(look, how, key);
    try {
      return { found: await rows(asked, { signal }), asked, of: look };
    } catch (error) {
      const isRefused = error instanceof Refusal && error.status < 500 && ![401, 403, 429].includes(error.status);
      if (!isRefused || nth === functions.length - 1) throw error;
    }
  }
  return undefined;
}

/** What is looked at by a statement that `write(look, how, key)` gives; nothing without. */
function useMeasured(look, write, key) {
  // The address says all of it, so it tells when to ask again.
  const place = address(look, {});
  const load = async (signal) => (write ? measured(look, write, key, signal) : {});
  return useLoad(load, [place], { every: look.isLive ? LATER : undefined });
}

const Look = ({ look }) => html`
  <${Total} look=${look} />
  ${look.time && html`<${Series} look=${look} />`}
  <div class="rankings">
    ${look.keys.map(({ name }) => html`<${Ranking} key=${name} look=${look} of=${name} />`)}
  </div>
  ${(!look.time || look.keys.length === 0) && html`<${Sample} look=${look} />`}`;

function Total({ look }) {
  const load = useMeasured(look, total);
  return html`
    <${Part} title="Total" load=${load} sql=${load.value?.asked.text ?? null}>
      ${({ found: [row], of }) => html`
        <p class="total">
          <strong>${number(row?.amount ?? (of.measure.isNought ? 0 : null))}</strong>
          ${' '}${of.measure.says}${of.time && html`<span class="soft">, ${of.range.says}</span>`}
        </p>
        ${look.time && row?.newest == null && html`<${Nothing} look=${look} />`}`}
    <//>`;
}

/** Says where there is something. */
function Nothing({ look }) {
  const all = RANGES.at(-1);
  const load = useMeasured({ ...look, range: all }, total);
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

/** Rows as `[seconds since 1970, amount]`. */
const amounts = (found) => found.filter((row) => row.at !== null).map((row) => [instant(row.at) / 1000, plain(row.amount)]);

/** The points of a line. Steps that nothing is said of are nought where amounts add up. */
export function points(found, isNought) {
  const known = amounts(found);
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

const WEEK = 7 * 86_400;

/**
 * The points of a line beside the same of the weeks before: of each step that has ended the least and the most of
 * them, `low` and `high`; how many `weeks` they are at most; and how the line is to their mean, `than`, which is null
 * where they can't be compared. Of weeks before the first of all rows nothing is known.
 */
export function besideUsual(found, before, isNought, isDaily) {
  const own = new Map(amounts(found));
  const former = amounts(before);
  const until = instant(before[0].until) / 1000;
  const weeks = WEEKS.map(() => new Map());
  for (const [at, amount] of former) {
    const nth = Math.ceil((until - at) / WEEK) - 2;
    weeks[nth].set(at + WEEKS[nth] * WEEK, amount);
  }
  const places = weeks.flatMap((week) => [...week.keys()]);
  const known = [...new Set([...own.keys(), ...places])].sort((a, b) => a - b);
  // Rows of a view may be further apart than the steps.
  const width = isDaily ? WEEK / 7 : Math.min(...known.slice(1).map((at, nth) => at - known[nth]));
  const hasEnded = (at) => at + width <= until;
  const amount = (line, at, isKnown) => (line.has(at) ? line.get(at) : isKnown && isNought ? 0 : null);
  const drawn = known.filter((at) => own.has(at) || hasEnded(at));
  const { at, values } = points(drawn.map((each) => ({ at: each * 1000, amount: amount(own, each, true) })), isNought);
  const first = Math.min(...places);
  const usual = at.map((each) => (each < first || !hasEnded(each) ? [] : weeks
    .map((week, nth) => amount(week, each, each - WEEKS[nth] * WEEK >= former[0][0])).filter((value) => value !== null)));
  let now = 0;
  let mean = null;
  usual.forEach((all, nth) => {
    if (all.length === 0 || values[nth] === null) return;
    now += values[nth];
    mean += all.reduce((a, b) => a + b) / all.length;
  });
  const of = (tell) => usual.map((all) => (all.length ? tell(...all) : null));
  return { at, values, low: of(Math.min), high: of(Math.max), weeks: Math.max(...usual.map((all) => all.length)), than: compared(now, mean) };
}

function Series({ look }) {
  const load = useMeasured(look, series);
  const past = useMeasured(look, hasUsual(look.range) && !look.isAlone && formerly);
  return html`
    <${Part} title=${`${look.measure.says} by ${look.range.step}, ${look.range.says}`} load=${load} sql=${load.value?.asked.text ?? null}>
      ${({ found, of }) => html`<${Line} look=${of} found=${found} past=${past} isFormer=${load.isFormer || past.isFormer} />`}
    <//>`;
}

function Line({ look, found, past, isFormer }) {
  const before = isFormer ? undefined : past.value?.found;
  const data = useMemo(() => {
    const { says, isNought } = look.measure;
    const drawn = before?.length ? besideUsual(found, before, isNought, look.isDaily) : points(found, isNought);
    const { at, values, low, high } = drawn;
    const band = low ? [{ name: 'usual from', values: low, isUsual: true }, { name: 'usual to', values: high, isUsual: true }] : [];
    return { ...drawn, at, lines: [{ name: says, values }, ...band] };
  }, [found, before]);
  const isByDay = look.range.step === 'day';
  const chart = data.at.length === 0 ? html`<p class="soft">Nothing in this time.</p>` : html`
    <${TimeChart} title=${`${look.measure.says}, ${look.range.says}`} isTitleHidden isByDay=${isByDay}
      at=${data.at} lines=${data.lines}>
      <span class="soft">${counted(data.at.length, 'point', 'points')}</span>
    <//>`;
  return html`
    <${Loaded} load=${past} what=${null}>
      ${({ asked }) => asked && html`<p class="loading">${!isFormer && html`<${Than} ...${data} step=${look.range.step} />`}</p>`}
    <//>
    ${chart}`;
}

/** How now is to the usual, in words. */
function Than({ than, weeks = 0, step }) {
  if (!than) return html`<span class="soft">Nothing of the weeks before to compare with yet.</span>`;
  const percent = Math.abs(than.percent);
  const says = than.is === 'same' ? 'As usual' : `${number(percent, percent < 10 ? 1 : 0)} % ${than.is === 'more' ? 'above' : 'below'} the usual`;
  return html`
    <strong>${says}</strong><span class="soft">, the mean of the same ${step}s in ${weeks} of the 4 weeks before, as far as
    they have ended. Weeks are 7 × 24 hours of UTC.</span>`;
}

function Ranking({ look, of }) {
  const load = useMeasured(look, ranking, of);
  return html`
    <${Part} title=${of} load=${load} class="ranking" sql=${load.value?.asked.text ?? null}>
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
              <span class="rank-amount">${amount === undefined ? '' : shown(amount)}</span>
            <//>
          </li>`;
      })}
    </ol>`;
}

/** The rows themselves, the newest first where they have a time. */
export function Sample({ look }) {
  const { view, topic, time, columns } = look;
  const asked = sample(look);
  const load = useLoad((signal) => rows(asked, { signal }), [asked.text]);
  return html`
    <${Part} title="Rows" load=${load} sql=${asked.text}>
      ${(found) => html`
        ${found.length > 0 && html`
          <p class="soft">${counted(found.length, 'row', 'rows')}${time && ', the newest first'}. Times are in ${zoneName()}.</p>`}
        <${Rows} caption=${`Rows of ${view}`} rows=${found} names=${columns}
          empty=${html`<p>No rows. They come with the facts of <${Link} to=${['topics', topic]}>${topic}<//>.</p>`} />`}
    <//>`;
}
