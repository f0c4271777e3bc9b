//! How large a regular expression is once its repetitions are written out: the worst case of matching
//! is the product of that and the text.

/// The largest pattern that an operator (`~`, `SIMILAR TO`) takes.
pub(super) const LARGEST_PATTERN: u64 = 10_000;

/// States of a class of characters, about.
const CLASS: u64 = 4;

/// About how many states a pattern has.
pub(super) fn pattern_size(pattern: &str) -> u64 {
    // What is in each group that is open, and the last thing in it.
    let mut open: Vec<(u64, u64)> = vec![(0, 0)];
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let is_inner = open.len() > 1;
        let Some((sum, last)) = open.last_mut() else {
            break;
        };
        match c {
            '(' => open.push((0, 0)),
            ')' if is_inner => {
                let group = sum.saturating_add(*last);
                open.pop();
                if let Some((outer, of_outer)) = open.last_mut() {
                    *outer = outer.saturating_add(*of_outer);
                    *of_outer = group;
                }
            }
            '{' => {
                let mut most = 0_u64;
                let mut number = 0_u64;
                for c in chars.by_ref().take_while(|c| *c != '}') {
                    number = match c.to_digit(10) {
                        Some(digit) => number.saturating_mul(10).saturating_add(digit.into()),
                        None => 0,
                    };
                    most = most.max(number);
                }
                *last = last.saturating_mul(most.max(1));
            }
            '*' | '+' | '?' | '|' | '^' | '$' => {}
            c => {
                *sum = sum.saturating_add(*last);
                *last = match c {
                    '[' => {
                        let mut escaped = false;
                        // A bracket that comes first is one of the class.
                        let mut length = 0;
                        while let Some(c) = chars.next_if(|c| *c != ']' || escaped || length == 0) {
                            escaped = c == '\\' && !escaped;
                            length += 1;
                        }
                        chars.next();
                        CLASS.max(length)
                    }
                    '\\' => {
                        let class = chars.next();
                        // The name of a class of Unicode is no repetition.
                        if matches!(class, Some('p' | 'P' | 'x' | 'u'))
                            && chars.peek() == Some(&'{')
                        {
                            chars.by_ref().take_while(|c| *c != '}').for_each(drop);
                        }
                        CLASS
                    }
                    _ => 1,
                };
            }
        }
    }
    let of_group = |(sum, last): &(u64, u64)| sum.saturating_add(*last);
    open.iter().map(of_group).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_within_each_other_multiply() {
        let cases = [
            ("abc", 3),
            ("a{10}", 10),
            ("(ab){10}c", 21),
            ("((ab){10}){10}", 200),
            ("(a{2,1000}){1000}", 1_000_000),
            ("[a-z]{8}-[0-9]{4}", 8 * 4 + 1 + 4 * 4),
            (r"\p{Greek}+\d{3}", 4 + 12),
            ("[]a{9}]b", 5 + 1),
            ("", 0),
            ("((((", 0),
        ];
        for (pattern, size) in cases {
            assert_eq!(pattern_size(pattern), size, "{pattern}");
        }
        assert_eq!(pattern_size(&"(".repeat(100)), 0);
        assert!(pattern_size("((((a{99999}){99999}){99999}){99999}){99999}") > 1 << 60);
    }
}
