// Dead letters of a topic: each with its reason and its record, and what is tried to make facts of them.

import { html, useState } from '../vendor/preact-htm.module.js';
import { rows } from '../api.js';
import { Act } from '../components/act.js';
import { Editor } from '../components/editor.js';
import { Followed } from '../components/operation.js';
import { Choice, Code, Empty, Part, Problem, Prose, Time } from '../components/parts.js';
import { counted, number } from '../format.js';
import { useLoad } from '../load.js';
import { begin } from '../operations.js';
import { change } from '../router.js';
import { statement } from '../statement.js';
import { mayIngest, useWho } from '../who.js';

const SHOWN = 50;

/** A fix to begin with: it gives each record back as it came. */
const PREFILLED = 'SELECT raw\nFROM dead_letters';

const placeOf = (letter) => `${letter._partition}:${letter._offset}`;

/** What is chosen, as it is sent: places, or all of one reason; null where nothing is. */
export function chosenOf(query) {
  const places = query.getAll('place');
  if (places.length > 0) return { places };
  const reason = query.get('reason');
  return reason === null ? null : { where: statement((value) => `reason = ${value(reason)}`).text };
}

/** What the daemon is asked for. A fix that changes nothing is none. */
export function retryOf(topic, chosen, fix, isDry) {
  const isFix = fix.trim() !== '' && fix.trim() !== PREFILLED;
  return { do: 'retry', topic, ...chosen, ...(isFix ? { fix: fix.trim() } : {}), dry_run: isDry };
}

export function DeadLetters({ name, query, onEnd }) {
  const { operates, rights } = useWho();
  const mayRetry = operates && mayIngest(rights, name);
  const reason = query.get('reason');
  const asked = statement((value) => {
    const narrowed = reason === null ? '' : ` AND reason = ${value(reason)}`;
    return `SELECT *\nFROM dead_letters\nWHERE topic = ${value(name)}${narrowed}\nORDER BY received_at DESC\nLIMIT ${SHOWN}`;
  });
  const load = useLoad((signal) => rows(asked, { signal }), [asked.text]);
  const reasons = useLoad((signal) => askReasons(name, signal), [name]);
  const written = () => {
    load.again();
    reasons.again();
    onEnd();
  };
  return html`
    <${Part} title="Dead letters" name="dead-letters" load=${load} sql=${asked.text}>
      ${(letters) => html`
        ${(reasons.value?.length > 1 || reason !== null) && html`<${Reasons} all=${reasons.value ?? []} chosen=${reason} />`}
        ${letters.length === 0
          ? html`<${None} isNarrowed=${reason !== null} />`
          : html`<${Letters} letters=${letters} query=${query} mayRetry=${mayRetry} />`}
        ${mayRetry && html`<${Fix} topic=${name} query=${query} isEmpty=${letters.length === 0} onWritten=${written} />`}`}
    <//>`;
}

/** The reasons of those that were not retried, the most frequent first. */
function askReasons(topic, signal) {
  const asked = statement((value) => `SELECT reason, count(*) AS letters
FROM dead_letters
WHERE topic = ${value(topic)} AND retried_at IS NULL
GROUP BY reason
ORDER BY letters DESC, reason
LIMIT 100`);
  return rows(asked, { signal });
}

const None = ({ isNarrowed }) => html`
  <${Empty}><p>${isNarrowed
    ? html`None is of that reason. <button type="button" class="small" onClick=${() => change({ reason: null })}>Show all</button>`
    : 'None. Records that can\'t become facts are kept here, with the reason.'}</p><//>`;

function Reasons({ all, chosen }) {
  const options = all.map(({ reason, letters }) => [reason, `${number(letters)} × ${reason}`]);
  if (chosen !== null && !all.some(({ reason }) => reason === chosen)) options.unshift([chosen, chosen]);
  return html`
    <div class="filters">
      <${Choice} says="Reason" chosen=${chosen} options=${options} choose=${(reason) => change({ reason, place: null })} />
    </div>`;
}

function Letters({ letters, query, mayRetry }) {
  const places = query.getAll('place');
  const open = letters.filter((letter) => letter.retried_at == null).map(placeOf);
  const isAll = open.length > 0 && open.every((place) => places.includes(place));
  const choose = (place, isChosen) => change({ place: isChosen ? [...places, place] : places.filter((other) => other !== place) });
  return html`
    <p class="soft">The ${letters.length === 1 ? 'newest' : `${letters.length} newest`}.${!mayRetry && html`
      ${' To try them again, corrected: '}<code>anabranch dead-letters retry</code>`}</p>
    ${mayRetry && open.length > 1 && html`
      <label class="check">
        <input type="checkbox" checked=${isAll} onChange=${() => change({ place: isAll ? null : open })} />
        ${`Choose all ${open.length} of these`}
      </label>`}
    <ul class="letters">
      ${letters.map((letter) => html`
        <li key=${placeOf(letter)} class=${mayRetry ? 'chooseable' : ''}>
          ${mayRetry && html`
            <input type="checkbox" aria-label=${`Choose the dead letter at ${placeOf(letter)}`} disabled=${letter.retried_at != null}
              checked=${places.includes(placeOf(letter))} onChange=${(event) => choose(placeOf(letter), event.target.checked)} />`}
          <${Letter} of=${letter} />
        </li>`)}
    </ul>`;
}

const Letter = ({ of }) => html`
  <details>
    <summary>
      <${Time} at=${of.received_at} /> <span class="reason"><${Prose} text=${of.reason} /></span>
      ${of.retried_at != null && html` <span class="soft">tried again <${Time} at=${of.retried_at} /></span>`}
    </summary>
    <dl class="pairs">
      ${of.field != null && html`<dt>Field</dt><dd><code>${of.field}</code></dd>`}
      ${of.source != null && html`<dt>From</dt><dd>${of.source}${of.line != null && `, line ${of.line}`}</dd>`}
      <dt>Place</dt><dd>partition ${of._partition}, ${number(of._offset)}</dd>
    </dl>
    <${Code} text=${of.raw ?? ''} label="The record as it came" />
  </details>`;

/** Tries a fix on what is chosen, and writes what comes of it. What was begun stays to be seen. */
function Fix({ topic, query, isEmpty, onWritten }) {
  const chosen = isEmpty ? null : chosenOf(query);
  const follows = query.get('op');
  const [fix, setFix] = useState(query.get('fix') ?? PREFILLED);
  const [begun, setBegun] = useState({});
  const [trouble, setTrouble] = useState(null);
  const [isTrying, setIsTrying] = useState(false);
  const asked = chosen && retryOf(topic, chosen, fix, true);
  const text = JSON.stringify(asked);
  const tryIt = async () => {
    if (isTrying || !chosen) return;
    setIsTrying(true);
    setTrouble(null);
    try {
      const { id } = await begin(asked);
      setBegun({ id, tried: text });
      change({ op: id, fix: asked.fix ?? null });
    } catch (error) {
      setTrouble(error);
    }
    setIsTrying(false);
  };
  const write = ({ id }) => {
    setBegun({ id });
    change({ op: id });
  };
  const ended = ({ id, result }) => {
    if (id !== begun.id) return;
    if (begun.tried) {
      setBegun({ ...begun, facts: Number(result?.facts) });
      return;
    }
    // What was written is chosen no more.
    change({ place: null });
    onWritten();
  };
  const isWorthIt = begun.tried === text && begun.facts > 0;
  return html`
    ${chosen
      ? html`
        <section class="fix" aria-label="Try a fix">
          <h3>Try a fix on ${saysChosen(query)}</h3>
          <p class="soft">
            A SELECT that gives for each dead letter one text with a JSON object, or the topic's fields as columns. It
            sees ${['topic', 'raw', 'reason', 'field', 'source', 'line'].map((name, at) => html`${at > 0 && ', '}<code>${name}</code>`)}.
            What it gives no row for is left. Trying writes nothing; Retry is there once a try finds facts.
          </p>
          <${Editor} label="Fix" text=${fix} onInput=${setFix} onRun=${tryIt} runs="tries" rows="4" />
          ${trouble && html`<${Problem} error=${trouble} />`}
          <div class="acts">
            <button type="button" class=${isWorthIt ? '' : 'main'} onClick=${tryIt} aria-disabled=${isTrying}>${isTrying ? 'Trying …' : 'Try it'}</button>
            ${isWorthIt && html`<${Act} says="Retry" asked=${retryOf(topic, chosen, fix, false)} again=${onWritten} onBegun=${write} isMain />`}
            <button type="button" onClick=${() => change({ place: null, reason: null, fix: null })}>Choose none</button>
          </div>
        </section>`
      : !isEmpty && html`<p class="soft hint">Choose some, or a reason with all that are of it, to try a fix.</p>`}
    ${follows && html`<${Followed} id=${follows} onEnd=${ended} />`}`;
}

function saysChosen(query) {
  const places = query.getAll('place');
  if (places.length > 0) return counted(places.length, 'dead letter', 'dead letters');
  return html`all of the reason <q><${Prose} text=${query.get('reason')} /></q>`;
}
