//! `${VAR}` in strings, replaced from the environment.

/// Gives the value of an environment variable, or nothing where it is unset.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a `${…}` could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// The variable is not set.
    Unset { name: String },
    /// What stands in the braces is not the name of a variable.
    NotAName { written: String },
    /// The brace is never closed.
    Open { written: String },
}

impl Unexpanded {
    /// The part of the text at fault, as written.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Unset { name } => format!("${{{name}}}"),
            Self::NotAName { written } => format!("${{{written}}}"),
            Self::Open { written } => format!("${{{written}"),
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Unset { name } => format!(
                "environment variable `{name}` is not set; set it, or write the value in place of `${{{name}}}`"
            ),
            Self::NotAName { written } => format!(
                "`{}` is not the name of an environment variable; write `${{NAME}}`, or `$${{` for a literal `${{`",
                written.escape_debug()
            ),
            Self::Open { .. } => {
                "`${` lacks its `}`; write `${NAME}`, or `$${` for a literal `${`".to_owned()
            }
        }
    }
}

/// Replaces each `${NAME}` of `text`; `$${` stands for `${`. What is put in is not searched again.
///
/// # Errors
/// Everything that could not be replaced, in order.
pub(super) fn expand(text: &str, environment: Environment<'_>) -> Result<String, Vec<Unexpanded>> {
    let mut expanded = String::with_capacity(text.len());
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, braced) = rest.split_at(at);
        let inside = &braced[2..];
        if let Some(kept) = before.strip_suffix('$') {
            expanded.push_str(kept);
            expanded.push_str("${");
            rest = inside;
            continue;
        }
        expanded.push_str(before);
        let Some((name, after)) = inside.split_once('}') else {
            errors.push(Unexpanded::Open {
                written: inside.to_owned(),
            });
            rest = "";
            break;
        };
        if is_name(name) {
            match environment(name) {
                Some(value) => expanded.push_str(&value),
                None => errors.push(Unexpanded::Unset {
                    name: name.to_owned(),
                }),
            }
        } else {
            errors.push(Unexpanded::NotAName {
                written: name.to_owned(),
            });
        }
        rest = after;
    }
    expanded.push_str(rest);
    if errors.is_empty() {
        Ok(expanded)
    } else {
        Err(errors)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
