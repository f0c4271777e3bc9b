// Changes: what the project's files say that does not run yet, and the buttons that make it run.

import { html } from '../vendor/preact-htm.module.js';
import { Refusal, plan } from '../api.js';
import { Act } from '../components/act.js';
import { Link, Mark, Part, Prose, Said, Scroll } from '../components/parts.js';
import { counted } from '../format.js';
import { useLoad } from '../load.js';

/** What would change, or why the project can't be read, which is for its author to mend. */
async function loadPlan(views, signal) {
  try {
    return { plan: await plan(views, signal) };
  } catch (error) {
    if (error instanceof Refusal && error.status === 400) return { wrong: error };
    throw error;
  }
}

export const usePlan = (views) => useLoad((signal) => loadPlan(views, signal), [views.join('\n')]);

/** The changes of all views, or of one alone. `load` is of `usePlan`. */
export function Changes({ load, view }) {
  return html`
    <${Part} title="Changes" name="changes" load=${load} sql=${null}
      actions=${view !== undefined && html`<a class="small" href="#/views?part=changes">All changes</a>`}>
      ${({ plan: planned, wrong }) => html`
        ${wrong && html`<${Wrong} error=${wrong} />`}
        ${planned && html`<${Planned} of=${planned} view=${view} again=${load.again} />`}`}
    <//>`;
}

const Wrong = ({ error }) => html`
  <div class="problem" role="alert">
    <p><${Mark} level="red" /> The project can't be read as it is now:</p>
    <${Said} text=${error.message} />
    <p class="soft">What runs goes on as before. Mend the file, then look again.</p>
  </div>`;

function Planned({ of, view, again }) {
  const changed = of.views.filter((v) => v.is_change);
  const isRefused = of.refusals.length > 0;
  const isOfAll = view === undefined;
  if (!of.has_changes && !isRefused) {
    return html`
      <p><${Mark} level="good" /> Nothing to do: what runs is what the project says.</p>
      <p class="soft">
        Edit ${isOfAll ? 'the SQL of a view' : 'its SQL'} in the project's folder, then look again.
      </p>`;
  }
  return html`
    ${isRefused && html`
      <div class="problem">
        <p><${Mark} level="red" /> This can't be done, so nothing of it can be applied:</p>
        <ul>${of.refusals.map((text) => html`<li><${Said} text=${text} /></li>`)}</ul>
      </div>`}
    <ul class="changes">
      ${of.topics.map(({ topic, why }) => html`
        <li>
          <h3>topic <${Link} to=${['topics', topic]}>${topic}<//></h3>
          <p><${Prose} text=${why} /></p>
        </li>`)}
      ${changed.map((each) => html`<li key=${each.view}><${Change} of=${each} isOfAll=${isOfAll} /></li>`)}
    </ul>
    ${!isRefused && html`<${Apply} of=${of} view=${view} changed=${changed} again=${again} />`}`;
}

function Change({ of, isOfAll }) {
  const { view, doing, details, sql, stopped_by: stops } = of;
  const isOfGate = ([name]) => name === 'gate' && stops?.length > 0;
  return html`
    ${isOfAll && html`
      <div class="part-head">
        <h3>view <${Link} to=${['views', view]}>${view}<//></h3>
        <${Link} class="small" to=${['views', view]} query=${{ part: 'changes' }} aria-label=${`This view alone: ${view}`}>This view alone<//>
      </div>`}
    <p><${Prose} text=${doing} /></p>
    <dl class="pairs">
      ${details.filter((each) => !isOfGate(each)).map(([name, text]) => html`<dt>${name}</dt><dd><${Prose} text=${text} /></dd>`)}
    </dl>
    ${stops?.length > 0 && html`
      <p><${Mark} level="attention" /> <strong>Its gate was broken when it was compared:</strong></p>
      <ul>${stops.map((text) => html`<li><${Prose} text=${text} /></li>`)}</ul>`}
    ${sql && html`<${SqlChange} text=${sql} view=${view} />`}`;
}

const LINE_KINDS = { '+': 'line-new', '-': 'line-lost', '@': 'line-place' };

/** How a view's SQL changes: by signs at the lines, and by colours too. */
export const linesOf = (text) =>
  text.replace(/\n$/, '').split('\n').map((line) => ({ line, kind: LINE_KINDS[line[0]] ?? '' }));

function SqlChange({ text, view }) {
  return html`
    <${Scroll} label=${`How the SQL of ${view} changes`} class="code sql-change">
      <pre><code>${linesOf(text).map(({ line, kind }) => html`<span class=${kind}>${`${line}\n`}</span>`)}</code></pre>
    <//>`;
}

function Apply({ of, view, changed, again }) {
  const asked = { do: 'apply', plan: of.id, ...(view === undefined ? {} : { views: [view] }) };
  // What gets no generation beside what answers has nothing to be compared with.
  const isCompared = changed.some((v) => v.is_candidate);
  const stands = view !== undefined && changed[0]?.candidate != null;
  return html`
    <div class="acts">
      ${isCompared && html`
        <${Act} says=${stands ? 'Build and compare again' : 'Build and compare'} asked=${{ ...asked, cut_over: false }} again=${again} />`}
      <${Act} says=${stands ? 'Cut over' : 'Apply'} asked=${{ ...asked, cut_over: true }} again=${again} isMain />
    </div>
    ${view === undefined && changed.length > 1 && html`
      <p class="soft">That is for all ${counted(changed.length, 'view', 'views')} at once. Of one alone the buttons are on its page.</p>`}`;
}
