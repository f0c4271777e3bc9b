// Tabs, as one expects them of a keyboard: the arrows change between them.

import { html, useRef } from '../vendor/preact-htm.module.js';
import { useId } from './parts.js';

/** `tabs` are `{ name, says }`; `children(name)` draws the chosen one. */
export function Tabs({ label, tabs, chosen, choose, children }) {
  const id = useId('tabs');
  const list = useRef(null);
  const at = Math.max(0, tabs.findIndex((tab) => tab.name === chosen));
  const press = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (at + step + tabs.length) % tabs.length;
    choose(tabs[next].name);
    list.current.children[next].focus();
  };
  return html`
    <div class="tabs" role="tablist" aria-label=${label} ref=${list} onKeyDown=${press}>
      ${tabs.map(({ name, says }, nth) => html`
        <button type="button" role="tab" id=${`${id}-${name}`} aria-selected=${nth === at} aria-controls=${`${id}-panel`}
          tabindex=${nth === at ? 0 : -1} onClick=${() => choose(name)}>${says}</button>`)}
    </div>
    <div role="tabpanel" id=${`${id}-panel`} aria-labelledby=${`${id}-${tabs[at].name}`}>${children(tabs[at].name)}</div>`;
}
