// A box for a statement: Ctrl+Enter runs it, Tab indents, and after Escape Tab leaves the box.

import { html, useRef } from '../vendor/preact-htm.module.js';
import { useId } from './parts.js';

const INDENT = '  ';
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

export const RUN_KEYS = isMac ? '⌘ Enter' : 'Ctrl+Enter';

export function Editor({ label, text, onInput, onRun, box, runs = 'runs', rows = '8' }) {
  const id = useId('editor');
  const leaves = useRef(false);
  const press = (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onRun();
    } else if (event.key === 'Escape') {
      leaves.current = true;
      return;
    } else if (event.key === 'Tab' && !leaves.current && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      indent(event.target, event.shiftKey);
    }
    if (event.key !== 'Tab' && event.key !== 'Shift') leaves.current = false;
  };
  return html`
    <label for=${id} class="hidden">${label}</label>
    <textarea id=${id} ref=${box} class="editor" rows=${rows} spellcheck="false" autocomplete="off" autocapitalize="off" wrap="off"
      aria-describedby=${`${id}-keys`} value=${text} onInput=${(event) => onInput(event.target.value)} onKeyDown=${press}
      onBlur=${() => { leaves.current = false; }}></textarea>
    <p id=${`${id}-keys`} class="soft keys">${RUN_KEYS} ${runs} it. Tab indents; press Escape first, and Tab leaves the box.</p>`;
}

/** Moves the chosen lines to the right or back, or puts in an indent where there is only a cursor. */
function indent(area, isBack) {
  const { selectionStart: from, selectionEnd: to, value } = area;
  const line = value.lastIndexOf('\n', from - 1) + 1;
  if (from === to && !isBack) {
    replace(area, from, to, INDENT);
    return;
  }
  const before = value.slice(line, to);
  const after = isBack ? before.replace(/^ {1,2}|^\t/gm, '') : before.replace(/^(?=.)/gm, INDENT);
  if (after === before) return;
  const first = isBack ? before.match(/^ {0,2}|^\t/)[0].length * -1 : INDENT.length;
  replace(area, line, to, after);
  area.setSelectionRange(Math.max(line, from + first), line + after.length);
}

/** Puts text in place of other, so that undo takes it back. */
export function replace(area, from, to, text) {
  area.setSelectionRange(from, to);
  const isDone = document.execCommand(text === '' ? 'delete' : 'insertText', false, text);
  if (isDone) return;
  area.setRangeText(text, from, to, 'end');
  area.dispatchEvent(new InputEvent('input', { bubbles: true }));
}
