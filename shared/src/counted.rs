//! Counts in messages, whose words agree with them.

/// A count with its noun: `1 fact`, `0 facts`, `1,234 facts`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + many.len() + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text.push(' ');
    text.push_str(if count == 1 { one } else { many });
    text
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn the_noun_agrees_with_the_count() {
        assert_eq!(counted(0, "fact", "facts"), "0 facts");
        assert_eq!(counted(1, "fact", "facts"), "1 fact");
        assert_eq!(counted(999, "fact", "facts"), "999 facts");
        assert_eq!(counted(1_234_567, "query", "queries"), "1,234,567 queries");
    }
}
