//! `anabranch du`: what each part of a project takes, in files and bytes. It lists the storage and this
//! machine's WAL, and writes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anabranch_shared::{Entry, Error, Result, Role, ViewEntry, blocking, layout};
use arrow::array::{ArrayRef, RecordBatch, StringViewArray, UInt64Array};
use futures::TryStreamExt;

use crate::commands::fitting::fitted;
use crate::commands::printing::Printing;
use crate::output::{Style, human_bytes, human_count};
use crate::project::context::Context;

/// What takes room, in the order in which it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The facts of a topic.
    Log(String),
    /// What of a topic could not become a fact.
    DeadLetters(String),
    /// What of a topic has not landed yet, on this machine.
    Wal(String),
    /// A generation of a view.
    Generation {
        /// The view.
        view: String,
        /// Its number.
        generation: u64,
    },
    /// A view's answers for other engines.
    Export(String),
    /// The history of jobs.
    Jobs,
    /// What was sent in again.
    Retries,
    /// Deltas that memory has no room for, and temporary files, on this machine.
    Spilled,
    /// The catalogue, leases, and what daemons make known.
    Rest,
}

impl Part {
    /// The part that an object of a storage belongs to, by its path.
    fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["topics", topic, "log", ..] => Self::Log((*topic).to_owned()),
            ["topics", topic, "dead_letters", ..] => Self::DeadLetters((*topic).to_owned()),
            [layout::VIEWS, view, "export", ..] => Self::Export((*view).to_owned()),
            [layout::VIEWS, view, name, ..] => {
                let generation = name.strip_prefix('g').and_then(|n| n.parse().ok());
                generation.map_or(Self::Rest, |generation| Self::Generation {
                    view: (*view).to_owned(),
                    generation,
                })
            }
            [layout::JOBS, ..] => Self::Jobs,
            [layout::DEAD_LETTER_RETRIES, ..] => Self::Retries,
            _ => Self::Rest,
        }
    }

    /// What it is of: a topic or a view; empty where it is of neither.
    fn of_what(&self) -> &str {
        match self {
            Self::Log(name)
            | Self::DeadLetters(name)
            | Self::Wal(name)
            | Self::Export(name)
            | Self::Generation { view: name, .. } => name,
            Self::Jobs | Self::Retries | Self::Spilled | Self::Rest => "",
        }
    }

    /// What it is; the catalogue's entry tells which generations play a part.
    fn what(&self, entry: &Entry) -> String {
        match self {
            Self::Log(_) => "log".to_owned(),
            Self::DeadLetters(_) => "dead letters".to_owned(),
            Self::Wal(_) => "WAL".to_owned(),
            Self::Export(_) => "export".to_owned(),
            Self::Generation { view, generation } => {
                let known = entry.views.get(view);
                let mut roles = known.into_iter().flat_map(ViewEntry::roles);
                let role = roles.find(|(_, of)| of.generation.0 == *generation);
                let live = known.and_then(|v| v.live.as_ref());
                match (role, live) {
                    (Some((Role::Live, _)), _) => format!("generation {generation}"),
                    (Some((Role::Candidate, _)), _) => {
                        format!("generation {generation} (candidate)")
                    }
                    (Some((Role::Previous, _)), _) => format!("generation {generation} (previous)"),
                    (None, Some(live)) if live.generation.0 > *generation => {
                        format!("generation {generation} (former)")
                    }
                    _ => format!("generation {generation} (does not answer)"),
                }
            }
            Self::Jobs => "history of jobs".to_owned(),
            Self::Retries => "retries of dead letters".to_owned(),
            Self::Spilled => "spilled, temporary".to_owned(),
            Self::Rest => "catalogue and leases".to_owned(),
        }
    }
}

/// What a part takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Use {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What each part takes.
///
/// # Errors
/// `Unavailable` where the storage or the folder of the WAL can't be listed.
pub async fn look(context: &Context) -> Result<BTreeMap<Part, Use>> {
    let mut parts: BTreeMap<Part, Use> = BTreeMap::new();
    let mut objects = context.storage.store().list(None);
    while let Some(object) = objects.try_next().await? {
        let part = Part::of(object.location.as_ref());
        parts.entry(part).or_default().add(object.size);
    }
    let wal = context.project.daemon.wal.clone();
    let local = blocking(move || {
        let mut local = BTreeMap::new();
        local_files(&wal, None, &mut local)?;
        Ok(local)
    })
    .await?;
    for (part, of_part) in local {
        parts.insert(part, of_part);
    }
    Ok(parts)
}

/// Adds the files of a folder of the WAL; `part` is that of the folder, none for the outermost.
fn local_files(dir: &Path, part: Option<&Part>, all: &mut BTreeMap<Part, Use>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // There is none yet, or it was removed meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A topic's folder has its name; what is hidden there is not records.
        let own = match part {
            Some(part) => part.clone(),
            None if name.starts_with('.') => Part::Spilled,
            None => Part::Wal(name),
        };
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => local_files(&entry.path(), Some(&own), all)?,
            Ok(metadata) => {
                // What lies beside the topics' folders is of them all.
                let own = part.map_or(Part::Wal(String::new()), |_| own);
                all.entry(own).or_default().add(metadata.len());
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(entry.path(), e)),
        }
    }
    Ok(())
}

/// The parts for people.
fn text(parts: &BTreeMap<Part, Use>, entry: &Entry, style: Style) -> String {
    let mut total = Use::default();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (part, of_part) in parts {
        total.files += of_part.files;
        total.bytes += of_part.bytes;
        rows.push(vec![
            part.of_what().to_owned(),
            part.what(entry),
            human_count(of_part.files),
            human_bytes(of_part.bytes),
        ]);
    }
    rows.push(vec![
        "total".to_owned(),
        String::new(),
        human_count(total.files),
        human_bytes(total.bytes),
    ]);
    fitted(&["of", "what", "files", "size"], rows, &[0], style)
}

/// The parts as rows.
fn rows(parts: &BTreeMap<Part, Use>, entry: &Entry) -> Result<RecordBatch> {
    let texts = |of: &dyn Fn(&Part) -> String| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(parts.keys().map(of)))
    };
    let numbers = |of: &dyn Fn(&Use) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(parts.values().map(of)))
    };
    Ok(RecordBatch::try_from_iter([
        ("of", texts(&|p| p.of_what().to_owned())),
        ("what", texts(&|p| p.what(entry))),
        ("files", numbers(&|u| u.files)),
        ("bytes", numbers(&|u| u.bytes)),
    ])?)
}

/// Shows what each part takes.
pub(crate) async fn run(context: &Context, printing: Printing) -> Result<u8> {
    let parts = look(context).await?;
    let entry = context.catalogue.current();
    match printing.is_for_people() {
        true => printing.text(&text(&parts, &entry, printing.style))?,
        false => printing.rows(&rows(&parts, &entry)?)?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_belongs_to_a_part() {
        let generation = |generation| Part::Generation {
            view: "v".to_owned(),
            generation,
        };
        for (path, part) in [
            ("topics/t/log/_delta_log/00.json", Part::Log("t".into())),
            (
                "topics/t/dead_letters/a.parquet",
                Part::DeadLetters("t".into()),
            ),
            ("views/v/g12/a.parquet", generation(12)),
            ("views/v/export/a.parquet", Part::Export("v".into())),
            ("jobs/_delta_log/0.json", Part::Jobs),
            ("dead_letter_retries/a.parquet", Part::Retries),
            ("catalogue/_newest", Part::Rest),
            ("leases/upkeep/0.json", Part::Rest),
        ] {
            assert_eq!(Part::of(path), part, "{path}");
        }
    }
}
