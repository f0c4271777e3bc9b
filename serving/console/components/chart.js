// Lines over time: drawn by uPlot, with a cursor for the keyboard and the same as a table.

import { html, useEffect, useMemo, useRef, useState } from '../vendor/preact-htm.module.js';
import { day, number, short, text, time, zone, zoneName } from '../format.js';
import { useStore } from '../store.js';
import { Table } from './table.js';
import { useId } from './parts.js';

/** Lines differ by their dashes too. */
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
const DASH_NAMES = ['solid', 'dashed', 'dotted', 'dash and dot'];
export const MOST_LINES = DASHES.length;

/** The table beside a chart has so many rows. */
const MOST_ROWS = 1_000;

/** In pixels, where the page's letters have their usual size. */
const HEIGHT = 260;

/** How much larger than usual the page's letters are, as on a wall. */
const scale = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16 || 1;

const darkness = matchMedia('(prefers-color-scheme: dark)');

function useIsDark() {
  const [isDark, setIsDark] = useState(darkness.matches);
  useEffect(() => {
    const look = () => setIsDark(darkness.matches);
    darkness.addEventListener('change', look);
    return () => darkness.removeEventListener('change', look);
  }, []);
  return isDark;
}

/** Where lines would stand for many points of a pixel, only the table tells each. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * `at` are seconds since 1970 in their order, `lines` are `{ name, values, isUsual }` with a number or null for
 * each of them; the last two may be the least and the most of what is usual, which are drawn as a band. `children`
 * stands beside the title, which may be hidden where it stands above already. Days are those of UTC, whatever zone
 * the reader chose.
 */
export function TimeChart({ title, at, lines, children, isTitleHidden = false, isByDay = false }) {
  const shownZone = useStore(zone);
  const isDark = useIsDark();
  const box = useRef(null);
  const plot = useRef(null);
  const data = useRef(null);
  const names = lines.map((line) => text(line.name)).join('\n');
  const [place, setPlace] = useState(null);
  const [isOpen, setIsOpen] = useState(false);
  const id = useId('chart');
  const last = at.length - 1;
  data.current = useMemo(() => [at, ...lines.map((line) => line.values)], [at, lines]);

  useEffect(() => {
    let isOver = false;
    let watch = null;
    import('../vendor/uPlot.esm.js').then(({ default: UPlot }) => {
      if (isOver || !box.current) return;
      const isUtc = isByDay || shownZone === 'utc';
      const options = chartOptions(UPlot, { lines, isByDay, isUtc, width: box.current.clientWidth });
      plot.current = new UPlot(options, data.current, box.current);
      watch = new ResizeObserver(() => {
        const width = box.current?.clientWidth;
        if (width) plot.current?.setSize({ width, height: HEIGHT * scale() });
      });
      watch.observe(box.current);
    });
    return () => {
      isOver = true;
      watch?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names, shownZone, isDark, isByDay]);

  // What is newer moves the lines that are drawn, so that nothing flickers.
  useEffect(() => {
    plot.current?.setData(data.current);
  }, [at, lines]);

  const point = place === null ? last : Math.min(place, last);
  const write = writer(isByDay);
  const says = last < 0 ? 'no points' : `${write(at[point])}: ${pointText(lines, point)}`;
  const move = (event) => {
    const next = nextPlace(event.key, point, last);
    if (next === null) return;
    event.preventDefault();
    setPlace(next);
    showCursor(plot.current, next);
  };
  return html`
    <figure class="chart" aria-labelledby=${id}>
      <figcaption id=${id}><span class=${isTitleHidden ? 'hidden' : 'chart-title'}>${title}</span>
        ${children}<span class="soft">${isByDay ? 'days are those of UTC' : `times are in ${zoneName()}`}</span></figcaption>
      ${lines.length > 1 && html`<${Legend} lines=${lines} />`}
      <div class="plot" ref=${box} tabindex="0" role="slider"
        aria-label=${`${title}, point by point: left and right arrow keys`} aria-valuetext=${says}
        aria-valuemin="0" aria-valuemax=${Math.max(last, 0)} aria-valuenow=${Math.max(point, 0)}
        onKeyDown=${move} onBlur=${() => showCursor(plot.current, null)} onFocus=${() => showCursor(plot.current, point)}></div>
      <p class="point" aria-hidden="true">${place === null ? '' : says}</p>
      <details onToggle=${(event) => setIsOpen(event.target.open)}>
        <summary>The same as a table</summary>
        ${isOpen && html`<${PointTable} title=${title} at=${at} lines=${lines} write=${write} />`}
      </details>
    </figure>`;
}

/** How a moment of the chart is written. */
const writer = (isByDay) => (seconds) => (isByDay ? day(seconds * 1000) : time(seconds * 1000));

const pointText = (lines, point) =>
  lines.map((l) => `${l.values[point] == null ? 'none' : number(l.values[point])} ${l.name}`).join(', ');

/** Where a key leads from a place; null for other keys. */
export function nextPlace(key, from, last) {
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 };
  if (key === 'Home') return 0;
  if (key === 'End') return last;
  return key in steps ? Math.max(0, Math.min(last, from + steps[key])) : null;
}

function showCursor(plot, place) {
  if (!plot) return;
  if (place === null) {
    plot.setCursor({ left: -10, top: -10 });
    return;
  }
  const left = plot.valToPos(plot.data[0][place], 'x');
  const value = plot.data[1]?.[place];
  plot.setCursor({ left, top: value == null ? 0 : plot.valToPos(value, 'y') });
}

const Legend = ({ lines }) => html`
  <ul class="legend">
    ${lines.map(({ name, isUsual }, nth) => !isUsual && html`
      <li>
        <svg width="28" height="8" aria-hidden="true">
          <line x1="0" y1="4" x2="28" y2="4" stroke=${`var(--line-${nth + 1})`} stroke-width="2.5"
            stroke-dasharray=${DASHES[nth].join(' ')} />
        </svg>
        <bdi>${name}</bdi> <span class="hidden">(${DASH_NAMES[nth]})</span>
      </li>`)}
    ${lines.at(-1)?.isUsual && html`<li><span class="band"></span> usual: least to most of the weeks before</li>`}
  </ul>`;

function PointTable({ title, at, lines, write }) {
  const from = Math.max(0, at.length - MOST_ROWS);
  const points = at.slice(from).map((_, nth) => from + nth).reverse();
  const columns = [
    { title: 'Time', cell: (point) => write(at[point]) },
    ...lines.map((line) => ({ title: line.name, isNumber: true, cell: (point) => number(line.values[point]) })),
  ];
  return html`
    ${from > 0 && html`<p class="soft">The newest ${number(MOST_ROWS)} of ${number(at.length)} points.</p>`}
    <${Table} caption=${title} columns=${columns} rows=${points} class="tall" />`;
}

function chartOptions(UPlot, { lines, isByDay, isUtc, width }) {
  const ink = colour('--soft');
  const grid = { stroke: colour('--line'), width: 1 };
  const font = `${12 * scale()}px system-ui, sans-serif`;
  const axis = { stroke: ink, grid, ticks: grid, font };
  const drawn = lines.map(({ name, isUsual }, nth) => {
    if (isUsual) return { label: text(name), stroke: colour('--band'), points: { show: false } };
    const stroke = colour(`--line-${nth + 1}`);
    const fill = lines.length === 1 ? colour('--line-fill') : undefined;
    return { label: text(name), stroke, width: 2, dash: DASHES[nth], fill, spanGaps: true };
  });
  return {
    width: Math.max(width, 200),
    height: HEIGHT * scale(),
    tzDate: (seconds) => (isUtc ? UPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC') : new Date(seconds * 1000)),
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 8 } },
    scales: { x: { time: true }, y: { range: fromZero } },
    axes: [
      { ...axis, size: 50 * scale(), values: isByDay ? dayLabels : timeLabels },
      { ...axis, size: 56 * scale(), values: (_, splits) => splits.map((value) => (value == null ? '' : short(value))) },
    ],
    series: [{}, ...drawn],
    bands: lines.at(-1)?.isUsual ? [{ series: [lines.length, lines.length - 1], fill: colour('--band') }] : [],
    plugins: [tooltip(writer(isByDay))],
  };
}

/** Amounts are seen from nought, or the eye is misled. */
function fromZero(_, least, most) {
  if (least == null || most == null) return [0, 1];
  const room = (Math.max(most, 0) - Math.min(least, 0)) * 0.08 || 1;
  return [least < 0 ? least - room : 0, most > 0 ? most + room : 0];
}

/** Marks of the axis of time in the reader's zone: the hour, and below it the day where that begins. */
function timeLabels(_, splits, __, ___, step) {
  return splits.map((seconds, nth) => {
    const whole = time(seconds * 1000);
    const before = nth > 0 ? time(splits[nth - 1] * 1000) : '';
    const ofDay = whole.slice(5, 10);
    if (step >= 86_400) return step >= 86_400 * 28 ? whole.slice(0, 7) : ofDay;
    const clock = step < 60 ? whole.slice(11, 19) : whole.slice(11, 16);
    return before.slice(0, 10) === whole.slice(0, 10) ? clock : `${clock}\n${ofDay}`;
  });
}

/** Marks of an axis of days; between two of them there is none. */
function dayLabels(_, splits, __, ___, step) {
  return splits.map((seconds) => {
    if (seconds % 86_400) return '';
    const whole = day(seconds * 1000);
    return step >= 86_400 * 28 ? whole.slice(0, 7) : whole.slice(5);
  });
}

/** What is under the pointer. The keyboard's cursor says the same below the chart. */
function tooltip(write) {
  const box = document.createElement('div');
  box.className = 'tip';
  box.hidden = true;
  return {
    hooks: {
      init: (u) => u.over.append(box),
      setCursor: (u) => {
        const { idx, left } = u.cursor;
        box.hidden = idx == null || left < 0;
        if (box.hidden) return;
        const lines = u.series.slice(1).map((s, nth) => `${number(u.data[nth + 1][idx])} ${s.label}`);
        box.textContent = [write(u.data[0][idx]), ...lines].join('\n');
        const isRight = left > u.over.clientWidth / 2;
        box.style.left = isRight ? '' : `${left + 12}px`;
        box.style.right = isRight ? `${u.over.clientWidth - left + 12}px` : '';
      },
    },
  };
}
