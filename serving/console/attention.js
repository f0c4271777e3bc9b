// What needs somebody, from what the daemon says of itself. Pure, so that it can be tried without one.

/** From worst to least. */
const LEVELS = ['red', 'attention', 'note'];

/**
 * A list of `{ level, about, why, link, mends }`: red is what keeps the daemon from taking facts or from
 * answering. `why` is as the daemon says it, with names and commands in backticks. `mends` is the place
 * of the button that mends it, as `{ says, to, query }`. What could not be asked is null; `plan` and
 * `letters`, counts of dead letters, are for those who may act.
 */
export function attention(ready, status, { plan = null, letters = null } = {}) {
  const items = [];
  const mayAct = plan !== null;
  const add = (level, about, why, link, mends) => {
    const text = String(why);
    const isKnown = items.some((item) => item.why.includes(text) || text.includes(item.why));
    if (!isKnown) items.push({ level, about, why: text, link, mends: mayAct ? mends : undefined });
  };
  const each = (map, tell) => Object.entries(map ?? {}).forEach(([name, value]) => tell(name, value));
  const topic = (name) => ['topics', name];
  const view = (name) => ['views', name];
  const isPlanned = (name) => plan?.views.some((v) => v.view === name && v.is_change);

  each(ready?.red, (what, why) => add('red', what, why, linkOf(what)));
  each(ready?.topics_red, (name, why) => add('red', `topic ${name}`, why, topic(name)));
  each(status?.ended_tasks, (name, why) =>
    add('red', `task ${name}`, `it has ended, and what it did is not done any more: ${why}; restart the daemon`));

  each(ready?.views_that_fail, (name, why) =>
    add('attention', `view ${name}`, `it does not answer: ${why}`, view(name), mendsView(name, status, isPlanned)));
  each(ready?.topics_untaken, (name, why) => add('attention', `topic ${name}`, `${why}; it is tried again`, topic(name)));
  for (const why of ready?.attention ?? []) {
    const repeats = [ready.views_that_fail, ready.topics_untaken].flatMap((map) => Object.values(map ?? {}));
    if (!repeats.some((known) => why.includes(known))) add('attention', aboutOf(why), why, linkOf(why));
  }
  each(status?.landing, (name, why) =>
    add('attention', `topic ${name}`, `${why}; nothing that was acknowledged is lost`, topic(name)));
  each(status?.wanted, (name) =>
    add('attention', `view ${name}`, `the daemon asks for a refresh; a running scheduler begins it, `
      + `otherwise run \`anabranch batch refresh ${name}\``, view(name), { says: 'Refresh it', to: view(name), query: { part: 'actions' } }));
  if (status?.bounds?.full) {
    const why = `deltas stay in memory, and facts are refused once it is full: ${status.bounds.full}`;
    add('attention', 'memory', why, ['system']);
  }
  each(status?.dedup, (name, dedup) => {
    if (!dedup.is_shortened) return;
    const seconds = Math.floor(dedup.window_us / 1e6);
    add('attention', `topic ${name}`, `duplicates are known for ${seconds} s only, because the memory for their `
      + `keys is full; raise \`memory\` in \`[topics.${name}.dedup]\``, topic(name));
  });
  each(status?.kafka, (name, state) => source(name, state, 'reading from Kafka', add));
  each(status?.steps, (name, state) => source(name, state, `the step \`${state.step}\``, add));
  each(status?.misfits, (field, count) =>
    add('note', `field ${field}`, `${count} values in \`_extra\` of facts from before it was declared do not fit `
      + 'it, and are read as NULL'));
  for (const door of status?.doors ?? []) {
    const danger = dangerOf(door);
    if (danger) add('attention', `door ${door.name}`, danger, ['system']);
  }
  for (const change of plan?.views ?? []) edited(change, add);
  for (const { topic: name, dead } of letters ?? []) {
    if (Number(dead) === 0) continue;
    const says = `${dead} ${Number(dead) === 1 ? 'dead letter waits' : 'dead letters wait'} to be tried again`;
    add('note', `topic ${name}`, says, topic(name), { says: 'Try a fix', to: topic(name), query: { part: 'dead-letters' } });
  }
  each(ready?.notes, (name, why) => {
    // That it was edited is said with what is to be done.
    if (!(isPlanned(name) && why.includes('`anabranch plan`'))) add('note', `view ${name}`, why, view(name));
  });
  return items.sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level));
}

const toChanges = (name) => ({ says: 'See its changes', to: ['views', name], query: { part: 'changes' } });

/** A view that fails answers again by the generation before, or by what its author has mended. */
function mendsView(name, status, isPlanned) {
  if (isPlanned(name)) return toChanges(name);
  const hasPrevious = status?.served?.[`previous.${name}`] !== undefined;
  return hasPrevious ? { says: 'Roll it back', to: ['views', name], query: { part: 'actions' } } : undefined;
}

/** A view whose files say something else than what runs. It answers all the same. */
function edited({ view: name, is_change: isChange, doing, stopped_by: stops }, add) {
  const why = stops?.length > 0
    ? `a gate keeps its candidate from answering: ${stops.join('; ')}`
    : `the project differs from what runs; to do: ${doing}`;
  if (isChange) add('note', `view ${name}`, why, ['views', name], toChanges(name));
}

function source(name, { stopped, trouble, paused }, what, add) {
  const link = ['topics', name];
  if (stopped) add('attention', `topic ${name}`, `${what} has stopped: ${stopped}`, link);
  else if (trouble) add('attention', `topic ${name}`, `${what}: ${trouble}; it is tried again`, link);
  else if (paused) add('attention', `topic ${name}`, `${what} pauses until facts have landed or been absorbed`, link);
}

function dangerOf({ address, is_beyond: isBeyond, has_users: hasUsers, is_encrypted: isEncrypted }) {
  if (!isBeyond || (hasUsers && isEncrypted)) return null;
  const why = [
    ...(hasUsers ? [] : ['lets everybody do everything (`insecure_no_users` in `[users]`)']),
    ...(isEncrypted ? [] : ['encrypts nothing (`insecure_no_tls` in `[tls]`)']),
  ];
  return `other machines reach it at ${address}, and it ${why.join(' and ')}`;
}

const KIND_AND_NAME = /\b(topic|view|step|task)s? `?([^\s`:]+)`?/;

function aboutOf(text) {
  const found = KIND_AND_NAME.exec(text);
  return found ? `${found[1]} ${found[2]}` : 'the daemon';
}

function linkOf(text) {
  const found = KIND_AND_NAME.exec(text);
  if (found?.[1] === 'topic') return ['topics', found[2]];
  return found?.[1] === 'view' ? ['views', found[2]] : undefined;
}
