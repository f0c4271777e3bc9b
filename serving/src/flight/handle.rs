//! What a client is handed for a statement: the statement itself, with what stands for its parameters
//! and how it reads. So nothing of it is kept here, and any daemon of the storage answers it. It is
//! neither signed nor secret, because whoever shows it asks with rights of its own: it can say nothing
//! that they could not ask.

use std::hash::{BuildHasher, Hasher, RandomState};

use anabranch_shared::ipc::{CheckedStream, IpcLimit};
use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use datafusion::sql::sqlparser::ast::Expr;
use prost::Message;
use ring::digest::{SHA256, digest};

use super::options::Options;
use super::values;

/// What the values of parameters may take.
const PARAMETERS: IpcLimit = IpcLimit {
    bytes: 64 << 20,
    name: "the most of parameters",
};

/// A statement, as it is handed out.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Handle {
    /// Its text.
    #[prost(string, tag = "1")]
    pub(super) sql: String,
    /// What stands for its parameters: an Arrow IPC stream of one row.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) parameters: Option<Bytes>,
    /// How it reads.
    #[prost(message, optional, tag = "3")]
    pub(super) options: Option<Options>,
    /// By which it is cancelled, among those of its user.
    #[prost(fixed64, tag = "4")]
    pub(super) id: u64,
    /// A digest of the columns that were told of its answer; empty where none were.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) columns: Bytes,
}

impl Handle {
    /// The handle of a statement.
    pub(super) fn new(sql: String) -> Self {
        Self {
            sql,
            ..Self::default()
        }
    }

    /// From what a client shows.
    ///
    /// # Errors
    /// `Invalid` where it is none of ours.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let wrong = |_| {
            Error::Invalid("the handle of the statement is not one of this server's; prepare the statement again".to_owned())
        };
        Self::decode(bytes).map_err(wrong)
    }

    /// As it is shown.
    pub(super) fn bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// The same, to be executed once.
    pub(super) fn once(mut self, schema: &Schema) -> Self {
        self.id = RandomState::new().build_hasher().finish();
        self.columns = columns(schema);
        self
    }

    /// The row of its parameters, where there is one.
    ///
    /// # Errors
    /// `Invalid` where it can't be read, or is not one row.
    pub(super) fn row(&self) -> Result<Option<RecordBatch>> {
        let Some(bytes) = &self.parameters else {
            return Ok(None);
        };
        let read = CheckedStream::new(bytes.clone(), PARAMETERS).and_then(CheckedStream::read);
        let read =
            read.map_err(|e| Error::Invalid(format!("the parameters can't be read: {e}")))?;
        let mut batches = read.batches.into_iter().filter(|b| b.num_rows() > 0);
        match (batches.next(), batches.next()) {
            (Some(row), None) if row.num_rows() == 1 => Ok(Some(row)),
            (None, None) if read.schema.fields().is_empty() => Ok(None),
            (None, None) => Err(Error::Invalid(
                "no row of parameters came; bind one".to_owned(),
            )),
            _ => Err(Error::Invalid(
                "several rows of parameters came; a statement is executed with one at a time"
                    .to_owned(),
            )),
        }
    }

    /// What stands for its parameters.
    ///
    /// # Errors
    /// Those of [`Handle::row`], and `Invalid` for values that no statement takes.
    pub(super) fn values(&self) -> Result<Vec<Expr>> {
        match self.row()? {
            Some(row) => values::expressions(&row),
            None => Ok(Vec::new()),
        }
    }

    /// That its answer still has the columns that were told.
    ///
    /// # Errors
    /// `Conflict` where it has others.
    pub(super) fn check(&self, schema: &Schema) -> Result<()> {
        match self.columns.is_empty() || self.columns == columns(schema) {
            true => Ok(()),
            false => Err(Error::Conflict(
                "the columns of the answer have changed since they were asked for; ask for them again".to_owned(),
            )),
        }
    }
}

/// What columns are known by.
fn columns(schema: &Schema) -> Bytes {
    let fields = schema.fields().iter();
    let text: Vec<String> = fields
        .map(|f| format!("{:?} {}", f.name(), f.data_type()))
        .collect();
    Bytes::copy_from_slice(digest(&SHA256, text.join(",").as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn a_handle_is_what_it_was() {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let handle = Handle::new("SELECT 1 AS a".to_owned()).once(&schema);
        let read = Handle::read(&handle.bytes()).unwrap();
        assert_eq!(read, handle);
        read.check(&schema).unwrap();
        let other = Schema::new(vec![Field::new("a", DataType::Int32, true)]);
        assert!(matches!(read.check(&other), Err(Error::Conflict(_))));
        assert!(read.row().unwrap().is_none());
        assert!(Handle::read(b"\xff\xff\xff").is_err());
    }
}
