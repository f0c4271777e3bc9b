//! Which known word a mistyped one was meant to be.

/// The word of `known` that `typed` was most likely meant to be, if one is near enough to say so.
#[must_use]
pub fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let typed = typed.to_lowercase();
    // A third of the letters: one slip in `ack`, up to four in `refresh_every`.
    let limit = (typed.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| {
            let distance = strsim::osa_distance(&typed, &word.to_lowercase());
            (distance, word)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
