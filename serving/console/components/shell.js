// What is around every page: the way to the others, whether the daemon answers, the zone, who asks.

import { html, useState } from '../vendor/preact-htm.module.js';
import { access, connection, signIn, signOut, whoami } from '../api.js';
import { setZone, time, zone, zoneName } from '../format.js';
import { href } from '../router.js';
import { useStore } from '../store.js';
import { useWho } from '../who.js';
import { Mark, Since, useId } from './parts.js';

export function Shell({ pages, start, current, urgent, children }) {
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the page</a>
    <header class="top">
      <a class="brand" href=${href([start])}><img src="icon.svg" alt="" width="26" height="26" /> Anabranch</a>
      <nav aria-label="Pages">
        <ul>
          ${pages.map(({ path, title }) => html`
            <li>
              <a href=${href([path])} aria-current=${path === current ? 'page' : undefined}>
                ${title}${path === 'now' && urgent > 0 && html`<${Badge} count=${urgent} />`}
              </a>
            </li>`)}
        </ul>
      </nav>
      <div class="top-end"><${Zone} /><${Who} /></div>
    </header>
    <${Silence} />
    <main id="main" tabindex="-1">${children}</main>`;
}

const Badge = ({ count }) => html`
  <span class="badge"><span aria-hidden="true">▲ ${count}</span><span class="hidden">, ${count} to look at</span></span>`;

function skip(event) {
  // The address holds the page; it is not to become `#main`.
  event.preventDefault();
  document.getElementById('main').focus();
}

/** Says that the daemon does not answer, and since when. */
export function Silence() {
  const { answers, since } = useStore(connection);
  return html`
    <div class="silence" role="status">
      ${!answers && html`
        <p><${Mark} level="red" /> <strong>The daemon has not answered since ${time(since).slice(11)}</strong></p>
        <p aria-live="off">
          That is <${Since} at=${since} />. What you see is from before.
          It is asked again every 2 seconds.
        </p>`}
    </div>`;
}

function Zone() {
  const chosen = useStore(zone);
  const isUtc = chosen === 'utc';
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return html`
    <button type="button" class="quiet" aria-label=${`Times are in ${zoneName()}. Show them in ${isUtc ? name : 'UTC'}`}
      onClick=${() => setZone(isUtc ? 'local' : 'utc')}>${zoneName()}</button>`;
}

function Who() {
  const { token } = useStore(access);
  const { user } = useWho();
  return html`
    ${user !== null && html`<span class="who"><span class="hidden">Signed in as </span><bdi>${user}</bdi></span>`}
    ${token && html`<button type="button" class="quiet" onClick=${signOut}>Sign out</button>`}`;
}

/** Asks for a token. It is kept for this tab, and sent to nobody but the daemon. */
export function SignIn() {
  const { why } = useStore(access);
  const [text, setText] = useState('');
  const [isTrying, setIsTrying] = useState(false);
  const [trouble, setTrouble] = useState(null);
  const id = useId('token');
  const send = async (event) => {
    event.preventDefault();
    setIsTrying(true);
    setTrouble(null);
    const token = text.trim();
    try {
      await whoami(undefined, token);
      signIn(token);
    } catch (error) {
      setTrouble(error.message);
      setIsTrying(false);
    }
  };
  const said = trouble ?? why;
  return html`
    <section class="sign-in part">
      <h1 tabindex="-1">Sign in</h1>
      <p>This daemon answers to its users. Give the token that <code>anabranch users add</code> printed for you.</p>
      <form onSubmit=${send}>
        <label for=${id}>Token</label>
        <input id=${id} type="password" autocomplete="off" spellcheck="false" required value=${text}
          aria-describedby=${`${id}-why`} onInput=${(event) => setText(event.target.value)} />
        <button type="submit" class="main" disabled=${isTrying || text.trim() === ''}>${isTrying ? 'Looking …' : 'Sign in'}</button>
      </form>
      <p id=${`${id}-why`} role="alert" class="sign-in-why">${said && html`<${Mark} level="red" /> ${said}.`}</p>
      <p class="soft">It is kept in this tab until you close it or sign out.</p>
    </section>`;
}
