//! What a panic said, for those who catch one.

use std::any::Any;

/// The message of a panic that was caught; `no message` where it had none.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what is caught")]

    use std::panic::{catch_unwind, panic_any};

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
