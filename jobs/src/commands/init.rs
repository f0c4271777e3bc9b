//! `anabranch init`: makes a project.

use std::io::Write;
use std::path::{Path, PathBuf};

use anabranch_shared::settings::{FILE_NAME, template};
use anabranch_shared::{Error, Result, counted, nearest};

mod examples;

/// What is made, and where.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The folder, which is made; an example's own name unless told
    #[arg(required_unless_present = "example")]
    pub dir: Option<PathBuf>,
    /// Makes a whole project instead, with its views, a step and questions: newsroom
    #[arg(long, value_name = "NAME")]
    pub example: Option<String>,
}

/// Writes a project into a folder that has none: a commented one with one view, or an example.
pub fn init(args: &InitArgs, out: &mut dyn Write) -> Result<()> {
    let example = args.example.as_deref().map(named).transpose()?;
    let dir = match (&args.dir, example) {
        (Some(dir), _) => dir.clone(),
        (None, Some(example)) => PathBuf::from(example.name),
        (None, None) => {
            return Err(Error::Invalid(
                "name the folder that is made: `anabranch init DIR`".into(),
            ));
        }
    };
    free(&dir.join(FILE_NAME))?;
    let said = match example {
        Some(example) => whole(&dir, example)?,
        None => commented(&dir)?,
    };
    writeln!(out, "{said}").map_err(|e| Error::io("standard output", e))
}

/// Writes the project with one view, and says what to do next.
fn commented(dir: &Path) -> Result<String> {
    let name = dir
        .file_name()
        .map_or("project".into(), |n| n.to_string_lossy().into_owned());
    let (text, files) = template(&name);
    for (path, text) in &files {
        write(&dir.join(path), text)?;
    }
    write(&dir.join(FILE_NAME), &text)?;
    let shown = dir.display();
    let views = counted(files.len() as u64, "view", "views");
    Ok(format!(
        "made {shown}: {FILE_NAME} and {views}\n\nnext:\n  anabranch --project {shown} up                                # daemon and scheduler\n  anabranch --project {shown} generate pageviews --facts 100000 --into-daemon\n  anabranch --project {shown} sql -c 'SELECT url, sum(page_views) AS page_views, combine(visitors) AS visitors FROM post_minutes GROUP BY url ORDER BY page_views DESC LIMIT 10'"
    ))
}

/// Writes an example, and says what to do next.
fn whole(dir: &Path, example: &examples::Example) -> Result<String> {
    for (path, _) in example.files {
        free(&dir.join(path))?;
    }
    // What makes it a project comes last.
    let (settings, others): (Vec<_>, Vec<_>) =
        example.files.iter().partition(|(p, _)| *p == FILE_NAME);
    for (path, text) in others.into_iter().chain(settings) {
        write(&dir.join(path), text)?;
    }
    let of = |folder: &str| {
        let files = example.files.iter();
        files.filter(|(path, _)| path.starts_with(folder)).count() as u64
    };
    let shown = dir.display();
    let views = counted(of("views/"), "view", "views");
    let questions = counted(of("questions/"), "question", "questions");
    let (name, joined, first) = (example.name, example.joined, example.ask_first);
    Ok(format!(
        "made {shown}: {FILE_NAME}, {views}, {questions}, a step and a README.md\n\nnext:\n  anabranch --project {shown} up                                # daemon and scheduler\n  anabranch --project {shown} generate {name} --into-daemon\n  anabranch --project {shown} batch rebuild {joined}    # 10 s later: facts meet what the crawler found since\n  anabranch --project {shown} sql -f {shown}/{first}"
    ))
}

/// Whether a file may be written: nothing is overwritten.
fn free(path: &Path) -> Result<()> {
    match path.exists() {
        true => Err(Error::Invalid(format!(
            "`{}` exists already; choose another folder",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// Writes a file, and the folder that it is in.
fn write(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|e| Error::io(path, e))
}

/// The example of a name.
fn named(name: &str) -> Result<&'static examples::Example> {
    let known = || examples::ALL.iter().map(|e| e.name);
    let found = examples::ALL.iter().find(|e| e.name == name);
    found.ok_or_else(|| {
        let near = nearest(name, known());
        let near = near.map(|n| format!("; did you mean `{n}`?"));
        let near = near.unwrap_or_else(|| ".".into());
        let all = known().collect::<Vec<_>>().join(", ");
        Error::Invalid(format!("no example `{name}`{near} There are: {all}"))
    })
}
