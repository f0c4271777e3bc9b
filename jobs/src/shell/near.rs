//! Owns which known name a mistyped one was meant to be.

/// The name of `known` that `typed` was most likely meant to be, if one is near enough to say so: by a
/// third of its letters, or as the beginning of the other.
pub(super) fn nearest<'k>(
    typed: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let typed = typed.to_lowercase();
    let letters = typed.chars().count();
    // Of one letter every other one is as near.
    if letters < 2 {
        return None;
    }
    let distance = |known: &str| {
        let known = known.to_lowercase();
        let begins = known.starts_with(&typed) || typed.starts_with(&known);
        match known.chars().count() > 1 && begins {
            true => 1,
            false => strsim::osa_distance(&typed, &known),
        }
    };
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= (letters / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
