//! Exports: the finished rows of a view at one boundary, as a Delta table of its own that other
//! engines read. Owns the table's layout and when a newer export replaces an older one; how the
//! rows are made is the batch layer's.
//!
//! ```text
//!   views/{view}/export/              beside the master views `views/{view}/g{generation}`
//!     _delta_log/…json                 metaData: the view's columns in types that Delta has
//!                                      txn `{topic}/partition/{p}`: the first offset that is not in it
//!                                      configuration `anabranch.generation`: whose rows they are, and
//!                                      `anabranch.since`: by which entry of the catalogue it answers
//!     part-….parquet                   one finished row a key
//! ```
//!
//! Each commit replaces all rows. What came to answer later replaces what answered before. The boundary
//! of a topic never decreases: positions are named after the topic, because a changed definition may read
//! another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use object_store::path::Path;

use crate::layout;
use crate::storage::Storage;
use crate::table::parquet::EncodedFile;
use crate::table::{
    AddFile, Commit, RemoveFile, SCHEMA_MAY_CHANGE, Table, TableDefinition, TableState, Txn,
    plain_type,
};
use crate::topic::{NOT_IN_NAMES, timestamp_type};
use crate::view::View;
use crate::{Error, Generation, LogVersion, Offset, Offsets, PartitionId, Result};

/// The table property that names the generation whose rows the table holds.
const GENERATION: &str = "anabranch.generation";

/// The table property that names the entry of the catalogue since which that generation answers.
const SINCE: &str = "anabranch.since";

/// A generation that answers. One that came to answer later is later, whatever its number: after a
/// roll-back that is a smaller one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answering {
    /// The number of the catalogue's entry since which it answers; 0 for one that took nobody's place.
    pub since: u64,
    /// The generation.
    pub generation: Generation,
}

impl From<Generation> for Answering {
    fn from(generation: Generation) -> Self {
        Self {
            since: 0,
            generation,
        }
    }
}

/// Casts that lose something are errors.
const EXACT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: arrow::util::display::FormatOptions::new(),
};

/// The export table of a view, for one of its generations.
#[derive(Debug)]
pub struct Export {
    view: Arc<View>,
    answering: Answering,
    schema: SchemaRef,
    table: Table,
}

/// What an export table holds.
#[derive(Clone, Debug, Default)]
pub struct ExportPin {
    /// Whose rows they are; `None` while there are none.
    pub answering: Option<Answering>,
    /// For each partition of the view's topic the first offset that is not in them.
    pub boundary: Offsets,
    /// The files.
    pub files: Vec<Arc<AddFile>>,
}

/// How an export of some generation and boundary stands to what the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportStanding {
    /// The table holds less: write.
    Newer,
    /// The table holds the same.
    Same,
    /// The table holds more, of the same generation or of a later one: nothing is to be done.
    Older,
    /// The table holds more, of an earlier generation: refresh the view first, so that the boundary
    /// doesn't decrease.
    Behind,
}

impl ExportPin {
    fn of(state: &TableState, topic: &str) -> Self {
        let prefix = position_name(topic, "");
        let position = |(app, &version): (&String, &i64)| {
            let partition = app.strip_prefix(&prefix)?.parse().ok()?;
            Some((PartitionId(partition), Offset(version)))
        };
        let number = |name| state.configuration.get(name)?.parse().ok();
        let answering = number(GENERATION).map(|generation| Answering {
            since: number(SINCE).unwrap_or_default(),
            generation: Generation(generation),
        });
        Self {
            answering,
            boundary: state.txns.iter().filter_map(position).collect(),
            files: state.files.values().cloned().collect(),
        }
    }

    /// How an export of a generation at a boundary stands to this.
    pub fn standing(&self, answering: impl Into<Answering>, boundary: &Offsets) -> ExportStanding {
        let answering = answering.into();
        let Some(held) = self.answering else {
            return ExportStanding::Newer;
        };
        let covers = boundary.covers(&self.boundary);
        if held > answering {
            ExportStanding::Older
        } else if held < answering {
            match covers {
                true => ExportStanding::Newer,
                false => ExportStanding::Behind,
            }
        } else if self.boundary.covers(boundary) {
            match covers {
                true => ExportStanding::Same,
                false => ExportStanding::Older,
            }
        } else {
            ExportStanding::Newer
        }
    }
}

impl Export {
    /// Where the export of a view lies.
    pub fn root(view: &str) -> Path {
        layout::export(view)
    }

    /// The columns of a view's export: the view's own, in types that Delta has. Times of day become
    /// text, durations numbers of microseconds, unsigned integers signed ones; timestamps are
    /// microseconds in UTC.
    ///
    /// # Errors
    /// `View` for a column that can't be in a Delta table under its name or of its type, with what
    /// to write instead.
    pub fn schema(view: &View) -> Result<SchemaRef> {
        let mut names = HashSet::new();
        let mut fields = Vec::new();
        for field in view.schema().fields() {
            let name = field.name();
            let refuse = |why: String| {
                let reason = format!("`export = true`: {why}");
                Err(Error::view(view.name(), reason))
            };
            if name.is_empty() || name.contains(NOT_IN_NAMES) {
                return refuse(format!(
                    "the column `{name}` can't be exported under this name; write `… AS a_name` in the SELECT"
                ));
            }
            if !names.insert(name.to_lowercase()) {
                return refuse(format!(
                    "two columns are named `{name}` where case does not count; write `… AS another_name` in the SELECT"
                ));
            }
            match exported_type(field.data_type()) {
                Some(t) if can_cast_types(field.data_type(), &t) => {
                    fields.push(Field::new(name, t, true));
                }
                _ => {
                    return refuse(format!(
                        "the type {} of the column `{name}` is not one that Delta has; cast it in the SELECT, for example to varchar",
                        field.data_type()
                    ));
                }
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Opens the export table of a view for a generation of it; it need not exist yet.
    ///
    /// # Errors
    /// As [`Export::schema`].
    pub async fn open(
        storage: &Storage,
        view: &Arc<View>,
        answering: impl Into<Answering>,
    ) -> Result<Self> {
        Ok(Self {
            schema: Self::schema(view)?,
            table: Table::open(storage, Self::root(view.name())).await?,
            view: view.clone(),
            answering: answering.into(),
        })
    }

    /// The Delta table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The columns.
    pub fn columns(&self) -> &SchemaRef {
        &self.schema
    }

    /// What the table holds, as far as it was read.
    pub fn pin(&self) -> ExportPin {
        let topic = &self.view.topic().name;
        self.table.with_state(|state| ExportPin::of(state, topic))
    }

    /// Finished rows as they are stored.
    ///
    /// # Errors
    /// `Invalid` for a value that the column's exported type can't hold.
    pub fn convert(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = rows.columns().iter().zip(self.schema.fields());
        let columns = columns
            .map(|(column, field)| {
                cast_with_options(column, field.data_type(), &EXACT).map_err(|e| {
                    Error::Invalid(format!(
                        "view `{}`: a value of the column `{}` can't be exported as {}: {e}; cast the column in the view's SQL",
                        self.view.name(),
                        field.name(),
                        field.data_type(),
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Puts a file into the storage; it is part of nothing until [`Export::publish`].
    pub async fn put(&self, file: &EncodedFile) -> Result<()> {
        let path = self.table.file_path(&file.add.path);
        self.table.storage().put(&path, file.body.clone()).await
    }

    /// Replaces all rows by those of `files`, which are the view's at `boundary`, in one commit.
    ///
    /// # Errors
    /// `Conflict` when the table holds more by now.
    pub async fn publish(
        &self,
        boundary: &Offsets,
        files: &[AddFile],
        now_ms: i64,
    ) -> Result<LogVersion> {
        fail::fail_point!("export-before-commit");
        let topic = &self.view.topic().name;
        let commit = self.table.commit(now_ms, |state| {
            let held = ExportPin::of(state, topic);
            match held.standing(self.answering, boundary) {
                ExportStanding::Newer | ExportStanding::Same => {}
                ExportStanding::Older | ExportStanding::Behind => {
                    return Err(Error::Conflict(format!(
                        "view `{}`: its export holds offsets up to [{}] of generation {} by now; run the job again",
                        self.view.name(),
                        held.boundary,
                        held.answering.unwrap_or_default().generation,
                    )));
                }
            }
            Ok(self.replacement(state, boundary, files))
        });
        commit.await
    }

    fn replacement(&self, state: &TableState, boundary: &Offsets, files: &[AddFile]) -> Commit {
        let topic = &self.view.topic().name;
        let generation = self.answering.generation.to_string();
        let since = self.answering.since.to_string();
        let configuration = HashMap::from([
            (GENERATION.to_owned(), generation.clone()),
            (SINCE.to_owned(), since.clone()),
            (SCHEMA_MAY_CHANGE.to_owned(), "true".to_owned()),
        ]);
        let definition = TableDefinition {
            schema: self.schema.clone(),
            configuration,
        };
        let held = |name| state.configuration.get(name);
        let changed = held(GENERATION) != Some(&generation)
            || (held(SINCE) != Some(&since) && self.answering.since > 0);
        let remove = |path: &String| RemoveFile {
            path: path.clone(),
            ..Default::default()
        };
        let position =
            |(p, o): (PartitionId, Offset)| Txn::new(position_name(topic, &p.to_string()), o.0);
        Commit {
            definition: changed.then_some(definition),
            adds: files.to_vec(),
            removes: state.files.keys().map(remove).collect(),
            txns: boundary.iter().map(position).collect(),
            operation: "EXPORT",
            data_change: true,
            ..Default::default()
        }
    }
}

fn position_name(topic: &str, partition: &str) -> String {
    format!("{topic}/partition/{partition}")
}

/// The type in which a column is exported; `None` for one that Delta has nothing for.
fn exported_type(data_type: &DataType) -> Option<DataType> {
    if let Some(same) = plain_type(data_type) {
        return Some(same);
    }
    Some(match data_type {
        DataType::Timestamp(..) => timestamp_type(),
        DataType::Duration(TimeUnit::Microsecond) => DataType::Int64,
        DataType::Date64 => DataType::Date32,
        DataType::LargeUtf8 | DataType::Time32(_) | DataType::Time64(_) => DataType::Utf8,
        DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, value) => exported_type(value)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(exported_field(item)?),
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(exported_field)
                .collect::<Option<Fields>>()?,
        ),
        _ => return None,
    })
}

fn exported_field(field: &Arc<Field>) -> Option<Arc<Field>> {
    let data_type = exported_type(field.data_type())?;
    Some(Arc::new(Field::new(field.name(), data_type, true)))
}

#[cfg(test)]
mod tests;
