// A button that acts. It shows the command that it would run, asks once, and begins it.

import { html, useEffect, useRef, useState } from '../vendor/preact-htm.module.js';
import { commandOf } from '../api.js';
import { useLoad } from '../load.js';
import { begin, takesWhy, wordsOf } from '../operations.js';
import { change } from '../router.js';
import { Copy, Mark, Said, useId } from './parts.js';

/** Where an operation that was begun stands: in the address of the page, which shows it. */
const follow = ({ id }) => change({ op: id });

/**
 * `asked` is what the daemon is sent. `again` looks at the page anew, where the daemon says that it is no
 * longer as it was shown. `follow` is given the operation.
 */
export function Act({ says, asked, again, isMain = false, onBegun = follow }) {
  // What was shown when the button was pressed is what is asked for.
  const [shown, setShown] = useState(null);
  return html`
    <button type="button" class=${isMain ? 'main' : ''} aria-haspopup="dialog" onClick=${() => setShown(asked)}>${says}</button>
    ${shown && html`<${Ask} asked=${shown} again=${again} onBegun=${onBegun} leave=${() => setShown(null)} />`}`;
}

function Ask({ asked: shown, again, onBegun, leave }) {
  const box = useRef(null);
  const id = useId('ask');
  const [why, setWhy] = useState('');
  const [trouble, setTrouble] = useState(null);
  const [isBeginning, setIsBeginning] = useState(false);
  const asked = why.trim() === '' ? shown : { ...shown, message: why.trim() };
  // The last command stays until the next is there.
  const { value: command, error } = useLoad((signal) => commandOf(asked, signal), [asked.message]);
  const { title, says } = wordsOf(shown);
  // What the reader came from has the focus again, because the dialog closes before it is taken away.
  const close = () => box.current.close();
  useEffect(() => box.current.showModal(), []);
  const wrong = trouble ?? error;
  const isReady = command !== undefined && !wrong && !isBeginning;
  const send = async (event) => {
    event.preventDefault();
    if (!isReady) return;
    setIsBeginning(true);
    try {
      const operation = await begin(asked);
      close();
      onBegun(operation);
    } catch (refused) {
      setTrouble(refused);
      setIsBeginning(false);
    }
  };
  const lookAgain = () => {
    close();
    again?.();
  };
  return html`
    <dialog ref=${box} class="ask" aria-labelledby=${id} aria-describedby=${`${id}-says`} onClose=${leave}>
      <form onSubmit=${send}>
        <h2 id=${id} tabindex="-1" autofocus>${title}</h2>
        <p id=${`${id}-says`}>${says}</p>
        ${!error && html`
          <p class="soft">The same as a command:</p>
          <div class="ask-command">
            <pre aria-busy=${command === undefined}><code>${command ?? '…'}</code></pre>
            ${command && html`<${Copy} text=${command} />`}
          </div>`}
        ${takesWhy(shown) && html`
          <div class="choice">
            <label for=${`${id}-why`}>Why, if you like; it is kept with the history</label>
            <input id=${`${id}-why`} autocomplete="off" value=${why} onChange=${(event) => setWhy(event.target.value)} />
          </div>`}
        <div role="alert">
          ${wrong && html`
            <div class="problem">
              <${Mark} level="red" /> <${Said} text=${wrong.message} />
              ${wrong.status === 409 && html`<p>It is no longer as it was shown, and nothing was done.</p>`}
            </div>`}
        </div>
        <p class="actions">
          ${wrong
            ? html`<button type="button" class="main" onClick=${lookAgain}>Look again</button>`
            : html`<button type="submit" class="main" aria-disabled=${!isReady}>${isBeginning ? 'Beginning …' : 'Do it'}</button>`}
          <button type="button" onClick=${close}>Leave it</button>
        </p>
      </form>
    </dialog>`;
}
