// JSON without loss: numbers that JavaScript would round keep all their digits.

/** A number with more digits than JavaScript's own numbers have. */
export class Exact {
  constructor(text) {
    this.text = text;
  }

  /** For charts and sums, which may round. */
  valueOf() {
    return Number(this.text);
  }

  toString() {
    return this.text;
  }

  toJSON() {
    return JSON.rawJSON ? JSON.rawJSON(this.text) : this.text;
  }
}

/** Shorter texts of numbers fit. */
const FITS = 16;

/** A number this long may be somewhere in the text. */
const MAY_BE_LONG = /[\d.]{16}/;

const STRING_OR_NUMBER = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Whether the browser tells a reviver how a number was written. */
const tellsSource = (() => {
  let source;
  JSON.parse('1', (_, value, context) => {
    source = context?.source;
    return value;
  });
  return source === '1';
})();

export function parse(text) {
  if (!MAY_BE_LONG.test(text)) return JSON.parse(text);
  if (!tellsSource) return JSON.parse(longAsText(text));
  return JSON.parse(text, (_, value, context) => {
    const fits = typeof value !== 'number' || context.source.length < FITS || String(value) === context.source;
    return fits ? value : new Exact(context.source);
  });
}

/** The same JSON with long numbers as strings, for browsers that do not tell how they were written. */
export function longAsText(text) {
  return text.replace(STRING_OR_NUMBER, (token) => {
    const fits = token[0] === '"' || token.length < FITS || String(Number(token)) === token;
    return fits ? token : `"${token}"`;
  });
}

/** The names of an object in the order in which they are written: JavaScript puts names like `7` first. */
export function namesInOrder(text, object) {
  const names = Object.keys(object);
  if (!names.some((name) => /^\d+$/.test(name))) return names;
  const found = [];
  let depth = 0;
  let isName = false;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g)) {
    if (token === '{' || token === '[') {
      depth += 1;
      isName = depth === 1;
    } else if (token === '}' || token === ']') {
      depth -= 1;
    } else if (token === ',') {
      isName = depth === 1;
    } else if (token[0] === '"' && depth === 1 && isName) {
      found.push(JSON.parse(token));
      isName = false;
    }
  }
  return found.length === names.length ? found : names;
}
