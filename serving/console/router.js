// Addresses: `#/topics/events?x=y`. Everything that a page shows is in its address, so that it can be sent.

import { signIn } from './api.js';
import { store } from './store.js';

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  return { path: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query ?? '') };
}

/** Whether an address is that of a board on a wall. */
export const isWall = ({ path, query }) => path[0] === 'boards' && path.length > 1 && query.has('wall');

/** Reads the address. A link of a wall carries a token, which does not stay there. */
function arrive() {
  const at = read();
  const token = isWall(at) ? at.query.get('token') : null;
  if (token === null) return at;
  at.query.delete('token');
  history.replaceState(null, '', href(at.path, at.query));
  if (token.trim() !== '') signIn(token.trim());
  return at;
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Where the reader is: the parts of the path, and the query. */
export const route = store(arrive());

window.addEventListener('hashchange', () => route.set(arrive()));

/** The address of a page. */
export function href(path, query = {}) {
  const entries = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  const given = new URLSearchParams(entries.filter(([, value]) => value != null)).toString();
  return `#/${path.map(encodeURIComponent).join('/')}${given && `?${given}`}`;
}

/** Goes to an address, which the reader can come back from. */
export function go(to) {
  location.hash = to.slice(1);
}

/**
 * Changes the query of this page; null takes a name out, and a list gives it several times. Does not add
 * to the history of the browser.
 */
export function change(values) {
  const { path, query } = route.get();
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(values)) {
    next.delete(name);
    for (const each of [value ?? []].flat()) next.append(name, each);
  }
  history.replaceState(null, '', href(path, next));
  route.set(read());
}
