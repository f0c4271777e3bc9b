//! Panics that are caught: what they said, and those of which nobody is told, because data of strangers
//! are at fault.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is at work whose panics are nobody's news.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Runs something that may panic where what it reads is wrong. Whoever sends such data must not fill
/// the log with it, nor memory with the symbols of a backtrace: nothing is told of the panic but its
/// result.
///
/// # Errors
/// What it panicked with.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    HOOK.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                told(panic);
            }
        }));
    });
    let was_quiet = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(was_quiet);
    done
}

/// The message of a panic that was caught; `no message` where it had none.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what is caught")]

    use std::panic::panic_any;

    use super::*;

    #[test]
    fn each_kind_of_message_is_read() {
        let number = 7;
        let said = |caught: std::thread::Result<()>| {
            let panic = caught.err();
            panic.map(|p| panic_text(p.as_ref()).to_owned())
        };
        let written = said(catch_unwind(|| panic!("plain")));
        assert_eq!(written.as_deref(), Some("plain"));
        let formatted = said(catch_unwind(|| panic!("number {number}")));
        assert_eq!(formatted.as_deref(), Some("number 7"));
        let other = said(catch_unwind(|| panic_any(number)));
        assert_eq!(other.as_deref(), Some("no message"));
    }
}
