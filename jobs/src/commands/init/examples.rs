//! The examples that `anabranch init --example` writes: real files, held in the program.

/// A whole project.
pub(super) struct Example {
    pub(super) name: &'static str,
    /// Its files as paths relative to the project's folder, with their texts.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// The views that join metadata.
    pub(super) joined: &'static str,
    /// The question that is asked first.
    pub(super) ask_first: &'static str,
}

pub(super) const ALL: &[Example] = &[Example {
    name: "newsroom",
    files: NEWSROOM,
    joined: "author_hours section_hours",
    ask_first: "questions/popular_stories.sql",
}];

/// A file of the newsroom by its path.
macro_rules! newsroom {
    ($path:literal) => {
        (
            $path,
            include_str!(concat!("../../../examples/newsroom/", $path)),
        )
    };
}

const NEWSROOM: &[(&str, &str)] = &[
    newsroom!("README.md"),
    newsroom!("anabranch.toml"),
    newsroom!("views/author_hours.sql"),
    newsroom!("views/new_returning.sql"),
    newsroom!("views/post_days.sql"),
    newsroom!("views/post_hours.sql"),
    newsroom!("views/post_minutes.sql"),
    newsroom!("views/post_sources.sql"),
    newsroom!("views/section_hours.sql"),
    newsroom!("views/site_days.sql"),
    newsroom!("views/site_hours.sql"),
    newsroom!("views/site_summary.sql"),
    newsroom!("views/top_posts.sql"),
    newsroom!("views/usual_hours.sql"),
    newsroom!("views/visitor_sessions.sql"),
    newsroom!("steps/content.py"),
    newsroom!("steps/content.sql"),
    newsroom!("boards/newsroom.toml"),
    newsroom!("questions/authors_by_facebook.sql"),
    newsroom!("questions/authors_now.sql"),
    newsroom!("questions/local_days.sql"),
    newsroom!("questions/new_and_returning.sql"),
    newsroom!("questions/now_and_usual.sql"),
    newsroom!("questions/popular_stories.sql"),
    newsroom!("questions/ranked.sql"),
    newsroom!("questions/sections.sql"),
    newsroom!("questions/series.sql"),
    newsroom!("questions/sessions.sql"),
    newsroom!("questions/sharing_and_reading.sql"),
    newsroom!("questions/sources.sql"),
    newsroom!("questions/summary.sql"),
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn files_of(folder: &Path, base: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files_of(&path, base, found),
                false => {
                    let path = path.strip_prefix(base).unwrap();
                    found.insert(path.display().to_string());
                }
            }
        }
    }

    #[test]
    fn the_program_holds_every_file_of_its_examples() {
        for example in ALL {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
            let folder = folder.join(example.name);
            let mut found = BTreeSet::new();
            files_of(&folder, &folder, &mut found);
            let held: BTreeSet<String> = example.files.iter().map(|(p, _)| p.to_string()).collect();
            assert_eq!(held, found);
            assert!(held.contains(example.ask_first));
        }
    }

    #[test]
    fn a_question_begins_by_saying_what_it_asks() {
        let all = ALL.iter().flat_map(|e| e.files);
        let questions = all.filter(|(path, _)| path.starts_with("questions/"));
        for (path, text) in questions {
            let first = text.lines().next().unwrap();
            assert!(first.starts_with("-- ") && first.contains('?'), "{path}");
            assert!(text.trim_end().ends_with(';'), "{path}");
        }
    }
}
