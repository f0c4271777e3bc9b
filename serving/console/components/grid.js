// A table of any size: only the cells that are seen are there. Owns where cells stand and which is chosen.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../vendor/preact-htm.module.js';
import { number } from '../format.js';
import { useId } from './parts.js';

const ROW = 28;
const HEAD = 32;
const CHARACTER = 8.2;
const NARROWEST = 72;
const WIDEST = 320;

/** How many rows tell how wide a column is. */
const LOOKED_AT = 60;

/** Characters of a value that its cell has at most. */
const MOST_SHOWN = 400;

/** Cells of each side that are there before they are seen. */
const BEYOND_ROWS = 6;
const BEYOND_COLUMNS = 2;

/**
 * `columns` are names, `cell(row, column)` gives `{ text, kind }`, `onChoose({ row, column })` is told
 * which cell is chosen.
 */
export function Grid({ label, columns, rowCount, cell, onChoose }) {
  const box = useRef(null);
  const id = useId('grid');
  const [seen, setSeen] = useState({ top: 0, left: 0, width: 800, height: 400 });
  const [chosen, setChosen] = useState(null);
  const numbers = Math.max(60, String(rowCount).length * 8 + 24);
  const edges = useMemo(() => columnEdges(columns, rowCount, cell), [columns, rowCount, cell]);
  const wide = edges[columns.length];

  useEffect(() => {
    const look = () => {
      const { scrollTop: top, scrollLeft: left, clientWidth: width, clientHeight: height } = box.current;
      setSeen({ top, left, width, height });
    };
    const watch = new ResizeObserver(look);
    watch.observe(box.current);
    box.current.addEventListener('scroll', look, { passive: true });
    const { current } = box;
    return () => {
      watch.disconnect();
      current.removeEventListener('scroll', look);
    };
  }, []);

  useEffect(() => {
    setChosen(null);
    box.current.scrollTo(0, 0);
  }, [columns, cell]);

  useLayoutEffect(() => {
    if (chosen) reveal(box.current, chosen, edges, numbers);
  }, [chosen]);

  const firstRow = Math.max(0, Math.floor(seen.top / ROW) - BEYOND_ROWS);
  const lastRow = Math.min(rowCount, Math.ceil((seen.top + seen.height) / ROW) + BEYOND_ROWS);
  const firstColumn = Math.max(0, at(edges, seen.left) - BEYOND_COLUMNS);
  const lastColumn = Math.min(columns.length, at(edges, seen.left + seen.width) + 1 + BEYOND_COLUMNS);
  const shownColumns = count(firstColumn, lastColumn);

  const choose = (row, column) => {
    const next = {
      row: Math.max(0, Math.min(rowCount - 1, row)),
      column: Math.max(0, Math.min(columns.length - 1, column)),
    };
    setChosen(next);
    onChoose?.(next);
  };
  const press = (event) => {
    const page = Math.max(1, Math.floor(seen.height / ROW) - 2);
    const from = chosen ?? { row: -1, column: 0 };
    const isFar = event.ctrlKey || event.metaKey;
    const to = moved(event.key, from, { page, isFar, rowCount, columnCount: columns.length });
    if (isFar && event.key === 'c' && chosen && String(getSelection()) === '') {
      navigator.clipboard?.writeText(cell(chosen.row, chosen.column).text);
      return;
    }
    if (!to || rowCount === 0) return;
    event.preventDefault();
    choose(...to);
  };
  const isSeen = chosen && chosen.row >= firstRow && chosen.row < lastRow
    && chosen.column >= firstColumn && chosen.column < lastColumn;
  const isNumber = (c) => count(0, Math.min(rowCount, LOOKED_AT)).some((r) => cell(r, c).kind === 'number');
  const active = isSeen ? `${id}-${chosen.row}-${chosen.column}` : undefined;
  const place = (column) => ({ left: `${numbers + edges[column]}px`, width: `${edges[column + 1] - edges[column]}px` });
  return html`
    <div class="grid" ref=${box} role="grid" tabindex="0" aria-label=${label} aria-rowcount=${rowCount + 1}
      aria-colcount=${columns.length + 1} aria-activedescendant=${active} onKeyDown=${press}>
      <div class="grid-all" role="presentation" style=${{ height: `${HEAD + rowCount * ROW}px`, width: `${numbers + wide}px` }}>
        <div class="grid-head" role="row" aria-rowindex="1" style=${{ height: `${HEAD}px` }}>
          <div class="grid-number" role="columnheader" aria-colindex="1" style=${{ width: `${numbers}px` }}>Row</div>
          ${shownColumns.map((c) => html`
            <div key=${c} class="grid-cell ${isNumber(c) ? 'number' : ''}" role="columnheader" aria-colindex=${c + 2} style=${place(c)}
              title=${columns[c]}>${columns[c]}</div>`)}
        </div>
        ${count(firstRow, lastRow).map((r) => html`
          <div key=${r} class="grid-row" role="row" aria-rowindex=${r + 2}
            style=${{ top: `${HEAD + r * ROW}px`, height: `${ROW}px` }}>
            <div class="grid-number" role="rowheader" aria-colindex="1" style=${{ width: `${numbers}px` }}>${number(r + 1)}</div>
            ${shownColumns.map((c) => {
              const { text, kind } = cell(r, c);
              const isChosen = chosen?.row === r && chosen?.column === c;
              return html`
                <div key=${c} id=${`${id}-${r}-${c}`} role="gridcell" aria-colindex=${c + 2} aria-selected=${isChosen}
                  class="grid-cell ${kind ?? ''} ${isChosen ? 'chosen' : ''}" style=${place(c)}
                  onClick=${() => choose(r, c)}>${text.slice(0, MOST_SHOWN)}</div>`;
            })}
          </div>`)}
      </div>
    </div>`;
}

const count = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, nth) => from + nth);

/** Where each column begins, and the last one ends. */
function columnEdges(columns, rowCount, cell) {
  const edges = new Float64Array(columns.length + 1);
  const looked = Math.min(rowCount, LOOKED_AT);
  columns.forEach((name, column) => {
    let longest = name.length + 1;
    for (let row = 0; row < looked; row += 1) longest = Math.max(longest, cell(row, column).text.length);
    edges[column + 1] = edges[column] + Math.round(Math.max(NARROWEST, Math.min(WIDEST, longest * CHARACTER + 24)));
  });
  return edges;
}

/** The column that a place of the page is in, by halving. */
function at(edges, left) {
  let low = 0;
  let high = edges.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= left) low = middle;
    else high = middle;
  }
  return low;
}

/** Where a key leads from a cell; nothing for other keys. */
export function moved(key, { row, column }, { page, isFar, rowCount, columnCount }) {
  switch (key) {
    case 'ArrowUp': return [isFar ? 0 : row - 1, column];
    case 'ArrowDown': return [isFar ? rowCount - 1 : row + 1, column];
    case 'ArrowLeft': return [row, isFar ? 0 : column - 1];
    case 'ArrowRight': return [row, isFar ? columnCount - 1 : column + 1];
    case 'PageUp': return [row - page, column];
    case 'PageDown': return [row + page, column];
    case 'Home': return [isFar ? 0 : row, 0];
    case 'End': return [isFar ? rowCount - 1 : row, columnCount - 1];
    default: return null;
  }
}

/** Scrolls as little as brings a cell into sight. */
function reveal(box, { row, column }, edges, numbers) {
  const [top, bottom] = [row * ROW, HEAD + (row + 1) * ROW];
  if (top < box.scrollTop) box.scrollTop = top;
  else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  const [left, right] = [edges[column], numbers + edges[column + 1]];
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (right > box.scrollLeft + box.clientWidth) box.scrollLeft = right - box.clientWidth;
}
