//! Owns what a terminal pastes. The line editor inserts it and waits for a key, also where it ends
//! with the one that means "run it", and has no way to be told otherwise. So a paste that ends with
//! Enter leaves the editor by unwinding, from the hook that the editor calls when its line has changed,
//! with the line; the terminal is put back as at any other end of a line. What the editor did not get
//! to show is shown here, each line behind its prompt.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::error::ReadlineError;
use rustyline::{
    Cmd, ConditionalEventHandler, Event, EventContext, KeyCode, KeyEvent, RepeatCount,
};

use super::lex::unfinished;
use super::typed::prompt;

/// Lines of a paste up to which each is shown behind the prompt that it would have been typed at.
const PROMPTED: usize = 100;

/// Knows when something is pasted.
#[derive(Debug, Default, Clone)]
pub(super) struct Watch {
    /// Where a paste has begun and is not in the line yet.
    begun: Arc<Mutex<Option<Shown>>>,
}

/// What of a line the terminal shows already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// So many bytes of it, and no more.
    UpTo(usize),
    /// What stood there before something was pasted amid it.
    Otherwise,
}

/// What a line is that was pasted with its Enter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pasted {
    /// The whole line, which may be several.
    pub(super) text: String,
    /// What of it is shown.
    pub(super) shown: Shown,
}

impl Watch {
    /// To be called when the line has changed. Does not return where a paste has ended with Enter.
    pub(super) fn changed(&self, line: &str, cursor: usize) {
        let begun = self.take();
        let Some(shown) = begun else { return };
        if line.get(..cursor).is_some_and(|text| text.ends_with('\n')) {
            let text = line.to_owned();
            resume_unwind(Box::new(Pasted { text, shown }));
        }
    }

    fn take(&self) -> Option<Shown> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.take()
    }
}

impl ConditionalEventHandler for Watch {
    /// Looks at each key before the editor does, and leaves it to it.
    fn handle(
        &self,
        event: &Event,
        _: RepeatCount,
        _: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        let is_paste = matches!(
            event.get(0),
            Some(KeyEvent(KeyCode::BracketedPasteStart, _))
        );
        let begins_at = match (is_paste, context.pos() == context.line().len()) {
            (true, true) => Some(Shown::UpTo(context.pos())),
            (true, false) => Some(Shown::Otherwise),
            (false, _) => None,
        };
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begins_at;
        None
    }
}

/// What reading a line came to.
#[derive(Debug)]
pub(super) enum Read {
    /// It ended with a key.
    Typed(Result<String, ReadlineError>),
    /// It ended with a paste.
    Pasted(Pasted),
}

/// Reads a line by an editor whose changes are [`Watch::changed`].
pub(super) fn read(readline: impl FnOnce() -> Result<String, ReadlineError>) -> Read {
    match catch_unwind(AssertUnwindSafe(readline)) {
        Ok(line) => Read::Typed(line),
        Err(payload) => match payload.downcast::<Pasted>() {
            Ok(pasted) => Read::Pasted(*pasted),
            // A defect, which is not ours to hide.
            Err(other) => resume_unwind(other),
        },
    }
}

impl Pasted {
    /// What a terminal shows of it that does not show it yet: its lines, each behind its prompt, and
    /// the end of the last one. `before` are the statement's lines before it.
    pub(super) fn to_show(&self, name: &str, before: &str) -> String {
        let text = self.text.trim_end();
        let waits_for = |so_far: &str| match so_far.trim().is_empty() {
            true => None,
            false => unfinished(so_far),
        };
        let (at, mut shown) = match self.shown {
            Shown::UpTo(at) => (at, String::new()),
            Shown::Otherwise => (0, format!("\n{}", prompt(name, waits_for(before)))),
        };
        let hidden = text.get(at..).unwrap_or_default();
        let has_prompts = hidden.lines().count() <= PROMPTED;
        let mut so_far = format!("{before}\n{}", text.get(..at).unwrap_or_default());
        for (nth, line) in hidden.split('\n').enumerate() {
            if nth > 0 {
                shown.push('\n');
                if has_prompts {
                    shown.push_str(&prompt(name, waits_for(&so_far)));
                }
                so_far.push('\n');
            }
            shown.push_str(line);
            so_far.push_str(line);
        }
        shown.push('\n');
        shown
    }
}
