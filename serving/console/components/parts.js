// The small parts that every page is made of.

import { html, useEffect, useLayoutEffect, useRef, useState } from '../vendor/preact-htm.module.js';
import { NoAnswer, access } from '../api.js';
import { clock, number, span, time } from '../format.js';
import { useNow, useOldness } from '../load.js';
import { go, href, route } from '../router.js';

let made = 0;

/** An id that nothing else on the page has; names that people give are none. */
export function useId(prefix = 'id') {
  const id = useRef(null);
  id.current ??= `${prefix}-${(made += 1)}`;
  return id.current;
}

/** A link to a page of the console. */
export const Link = ({ to, query, children, ...rest }) => html`<a href=${href(to, query)} ...${rest}>${children}</a>`;

/** The heading of a page. It takes the focus when the reader comes to the page. */
export const Heading = ({ children, about }) => html`
  <div class="heading">
    <h1 tabindex="-1">${children}</h1>
    ${about && html`<p class="soft">${about}</p>`}
  </div>`;

/**
 * A part of a page that loads by itself. `children` draws what was loaded. With `sql`, which is null as long as it
 * is not known, it can be looked at again and opened as a statement. An address that names it, as `?part=changes`
 * does, leads to it.
 */
export function Part({ title, name, load, children, actions, sql, class: kind = '', isQuiet = false, problem }) {
  const id = useId('part');
  const heading = useRef(null);
  const isMeant = name !== undefined && route.get().query.get('part') === name;
  const isThere = !load || load.value !== undefined || load.error !== undefined;
  useEffect(() => {
    if (!isMeant || !isThere) return;
    heading.current.focus({ preventScroll: true });
    heading.current.scrollIntoView();
  }, [isMeant, isThere]);
  return html`
    <section class="part ${kind}" aria-labelledby=${id}>
      <div class="part-head">
        <h2 id=${id} ref=${heading} tabindex=${name && '-1'} class=${isQuiet ? 'hidden' : ''}>${title}</h2>
        ${sql !== undefined && html`
          <div class="actions">
            <button type="button" class="small" onClick=${load.again} disabled=${load.isLoading}>Look again</button>
            ${sql && html`<a class="small" href=${href(['sql'], { q: sql })}>Open in SQL</a>`}
          </div>`}
        ${actions}
      </div>
      ${load ? html`<${Loaded} load=${load} what=${title} problem=${problem}>${children}<//>` : children}
    </section>`;
}

/** What was loaded, or why it was not. What is old is grey, and says how old it is, unless `what` is null. */
export function Loaded({ load, what, children, problem: Trouble = Problem }) {
  const { value, error, isLoading, again } = load;
  const isFormer = load.isFormer && !error;
  const age = useOldness(load);
  if (value === undefined) {
    // That the daemon is silent is said at the top of the page, once.
    if (error instanceof NoAnswer) return html`<p class="soft">It comes as soon as the daemon answers.</p>`;
    if (error) return html`<${Trouble} error=${error} again=${again} />`;
    return html`<p class="soft loading" aria-busy="true">${isLoading ? 'Loading …' : 'Nothing was loaded.'}</p>`;
  }
  return html`
    ${error && !(error instanceof NoAnswer) && html`<${Trouble} error=${error} again=${again} isOld=${true} />`}
    ${age !== null && what !== null && html`<p class="old-note">${what}: from ${span(age)} ago</p>`}
    <div class=${age !== null ? 'old' : isFormer ? 'former' : ''} aria-busy=${isFormer}>${children(value)}</div>`;
}

/**
 * What went wrong, and what can be done. The statement is the console's own, so its place says nothing, unless it
 * `isWhole`: then its author is who reads it.
 */
export function Problem({ error, again, isOld = false, isWhole = false }) {
  // To users what they may not read is not there.
  const isHidden = error?.status === 404 && access.get().token !== null;
  const isForbidden = error?.status === 403 || isHidden;
  const [said] = String(error?.message ?? error).split('\n');
  const why = said.replace(/^line \d+, column \d+: /, '');
  return html`
    <div class="problem" role="alert">
      ${isWhole && !isForbidden ? html`<${Said} text=${error?.message ?? error} label="The place"><${Mark} level="red" /> <//>` : html`
        <p><${Mark} level="red" /> ${isForbidden && 'You may not see this: '}<${Prose} text=${why} />.</p>`}
      ${isOld && html`<p>What is shown is from before.</p>`}
      ${isForbidden && html`
        <p class="soft">Ask whoever runs the daemon for the right; <code>anabranch users</code> gives it.</p>`}
      ${again && !isForbidden && html`<button type="button" onClick=${again}>Try again</button>`}
    </div>`;
}

const MARKS = { red: '✕', attention: '▲', note: '●', good: '✓' };
const MARK_SAYS = { red: 'Red', attention: 'Needs attention', note: 'Note', good: 'Good' };

/** A sign of how it stands: a shape and a word, never the colour alone. */
export const Mark = ({ level, isLabelled = false }) => html`
  <span class="mark ${level}">
    <span aria-hidden="true">${MARKS[level]} </span><span class=${isLabelled ? 'mark-says' : 'hidden'}>${MARK_SAYS[level]} </span>
  </span>`;

/** A text of the daemon's: what stands in backticks is code, and a command can be copied. */
export function Prose({ text }) {
  return String(text).split(/`([^`]*)`/).map((part, at) => {
    if (at % 2 === 0) return part;
    return part.startsWith('anabranch ') ? html`<${Command} text=${part} />` : html`<code>${part}</code>`;
  });
}

/** A text of the daemon's that may end with lines in which it draws a place. */
export function Said({ text, label = 'The place in the SQL', children }) {
  const [first, ...drawn] = String(text).split('\n');
  return html`
    <p>${children}<${Prose} text=${first} /></p>
    ${drawn.length > 0 && html`<${Code} text=${drawn.join('\n')} label=${label} />`}`;
}

/** A command that can be copied. */
export const Command = ({ text }) => html`<span class="command"><code>${text}</code><${Copy} text=${text} /></span>`;

/** Copies a text. Browsers allow that over HTTPS and on this machine; elsewhere it is not there. */
export function Copy({ text, says = 'Copy' }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [copied]);
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => {});
  return html`
    <button type="button" class="small" onClick=${copy} aria-label=${`${copied ? 'Copied' : says}: ${text.slice(0, 80)}`}>
      ${copied ? 'Copied' : says}
    </button>`;
}

/** Lines of code, whole. */
export function Code({ text, label }) {
  return html`<${Scroll} label=${label} class="code"><pre><code>${text}</code></pre><//>`;
}

/** Nothing is there, and what to do about it. */
export const Empty = ({ children }) => html`<div class="empty">${children}</div>`;

/** There is none of that name. */
export const Absent = ({ kind, name, to = `${kind}s` }) => html`
  <${Empty}>
    <p>There is no ${kind} <code>${name}</code> that you may read. <${Link} to=${[to]}>See those that there are<//>.</p>
  <//>`;

/** No view is there. To users what they may not read is not there either. */
export const NoViews = () => html`
  <${Empty}>${access.get().token ? html`<p>There is no view that you may read.</p>` : html`
    <p>
      No views yet. Write one as a file of SQL, name it under <code>[views.NAME]</code>
      ${' in '}<code>anabranch.toml</code>, and run <code>anabranch apply</code>.
    </p>`}<//>`;

/** The same of topics. */
export const NoTopics = () => html`
  <${Empty}>${access.get().token ? html`<p>There is no topic that you may read.</p>` : html`
    <p>
      No topics yet. Declare one under <code>[topics.NAME]</code> in <code>anabranch.toml</code>;
      ${' '}<code>anabranch init</code> writes one to begin with.
    </p>`}<//>`;

/** One of several values, which are `[value, text]`, or null for all, unless it `isOne`. */
export function Choice({ says, chosen, options, choose, isOne = false }) {
  const id = useId('choice');
  return html`
    <div class="choice">
      <label for=${id}>${says}</label>
      <select id=${id} value=${chosen ?? ''} onChange=${(event) => choose(event.target.value || null)}>
        ${!isOne && html`<option value="">all</option>`}
        ${options.map(([value, shown]) => html`<option value=${value}>${shown}</option>`)}
      </select>
    </div>`;
}

/** How long ago a moment was, in whole seconds, as time goes on. */
export const Since = ({ at }) => span(Math.max(0, Math.floor((useNow() - at) / 1000)));

/** A number with what it is. */
export const Stat = ({ says, children, hint }) => html`
  <div class="stat"><dt>${says}</dt><dd>${children}${hint && html` <span class="soft">(${hint})</span>`}</dd></div>`;

/** A button that is on or off: it acts, or leads to an address. */
export const Toggle = ({ isOn, to, children, ...rest }) => html`
  <button type="button" aria-pressed=${Boolean(isOn)} onClick=${() => go(to)} ...${rest}>${children}</button>`;

/** A moment. */
export function Time({ at, isShort = false }) {
  if (at == null) return '–';
  return html`<time dateTime=${String(at)} title=${time(at)}>${isShort ? clock(at) : time(at)}</time>`;
}

/** How much of a bound is used. */
export function Use({ says, used, bound, write = number }) {
  const share = bound > 0 ? Math.min(1, used / bound) : 0;
  const percent = Math.round(share * 100);
  return html`
    <div class="use">
      <span class="use-says">${says}</span>
      <span class="bar ${share >= 0.9 ? 'nearly-full' : ''}" role="meter" aria-label=${says}
        aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent} aria-valuetext=${`${write(used)} of ${write(bound)}`}>
        <span style=${{ width: `${share * 100}%` }}></span>
      </span>
      <span>${write(used)} of ${write(bound)} (${percent} %)</span>
    </div>`;
}

/** How much of a log a view has absorbed, and what is in its delta. The same stands beside it as text. */
export function Split({ head, inDelta }) {
  const share = head > 0 ? inDelta / head : 0;
  return html`
    <span class="split" aria-hidden="true"><span class="delta" style=${{ width: `${share * 100}%` }}></span></span>`;
}

/** A small line of how something went lately. What it says is beside it as text. */
export function Spark({ values }) {
  if (values.length < 3) return null;
  const most = Math.max(...values, 1);
  const across = 100 / (values.length - 1);
  const points = values.map((value, at) => `${(at * across).toFixed(1)},${(19 - (value / most) * 18).toFixed(1)}`);
  return html`
    <svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">
      <polyline points=${points.join(' ')} />
    </svg>`;
}

/** What may be wider than the page. It can be reached and scrolled by keyboard where it is. */
export function Scroll({ label, children, class: kind = '' }) {
  const box = useRef(null);
  const [isWide, setIsWide] = useState(false);
  const look = () => {
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = box.current;
    setIsWide(scrollWidth > clientWidth + 1 || scrollHeight > clientHeight + 1);
  };
  // At once when it is drawn, and when it is stretched.
  useLayoutEffect(look);
  useEffect(() => {
    const watch = new ResizeObserver(look);
    watch.observe(box.current);
    if (box.current.firstElementChild) watch.observe(box.current.firstElementChild);
    return () => watch.disconnect();
  }, []);
  const reached = isWide ? { tabIndex: 0, role: 'group', 'aria-label': label } : {};
  return html`<div ref=${box} class="scroll ${kind}" ...${reached}>${children}</div>`;
}
