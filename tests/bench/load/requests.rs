//! The requests of a load, made before the clock starts: facts of an NDJSON file, cut into bodies of
//! NDJSON or of an Arrow IPC stream.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::ReaderBuilder;
use clap::ValueEnum;

use crate::http::{Connection, host, request};

/// What the bodies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BodyFormat {
    /// Lines of JSON
    Ndjson,
    /// An Arrow IPC stream of one batch
    Arrow,
}

/// Which facts to send, and how.
#[derive(Debug, clap::Args)]
pub struct FactsArgs {
    /// The topic
    #[arg(long, default_value = "pageviews")]
    pub topic: String,
    /// The facts, as NDJSON
    #[arg(long)]
    pub file: std::path::PathBuf,
    /// What the bodies are
    #[arg(long, value_enum, default_value = "ndjson")]
    pub format: BodyFormat,
}

/// One request, whole: head and body.
#[derive(Debug)]
pub struct Prepared {
    /// What goes over the wire.
    pub bytes: Vec<u8>,
    /// Facts in the body.
    pub facts: u64,
}

/// All requests of a load.
#[derive(Debug, Default)]
pub struct Requests {
    /// In the order of the file.
    pub list: Vec<Prepared>,
    /// Facts of all.
    pub facts: u64,
    /// Bytes of all bodies.
    pub body_bytes: u64,
}

impl Requests {
    /// Reads at most `facts` facts of the file and makes requests of `per_request` facts each.
    ///
    /// # Errors
    /// When the file holds no facts, or a line is no JSON of the topic's fields (Arrow only).
    pub fn prepare(url: &str, args: &FactsArgs, facts: u64, per_request: u64) -> Result<Self> {
        ensure!(
            per_request > 0,
            "`--facts-per-request` has to be at least 1"
        );
        let host = host(url)?;
        let schema = match args.format {
            BodyFormat::Ndjson => None,
            BodyFormat::Arrow => Some(topic_schema(host, &args.topic)?),
        };
        let kind = match args.format {
            BodyFormat::Ndjson => "content-type: application/x-ndjson",
            BodyFormat::Arrow => "content-type: application/vnd.apache.arrow.stream",
        };
        let path = format!("/topics/{}", args.topic);
        let mut lines = Lines::open(&args.file)?;
        let mut all = Self::default();
        while all.facts < facts {
            let (body, count) = lines.next(per_request.min(facts - all.facts))?;
            if count == 0 {
                break;
            }
            let body = match &schema {
                None => body,
                Some(schema) => arrow_body(schema, &body)?,
            };
            let mut bytes = request("POST", &path, host, &[kind], body.len());
            bytes.extend_from_slice(&body);
            all.facts += count;
            all.body_bytes += body.len() as u64;
            all.list.push(Prepared {
                bytes,
                facts: count,
            });
        }
        ensure!(
            all.facts > 0,
            "`{}` holds no facts; make some with `anabranch generate`",
            args.file.display()
        );
        Ok(all)
    }
}

/// A file's lines that are not empty, some at a time.
#[derive(Debug)]
pub struct Lines {
    file: BufReader<File>,
}

impl Lines {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        Ok(Self {
            file: BufReader::with_capacity(1 << 20, file),
        })
    }

    /// Passes over some lines.
    pub fn pass(&mut self, lines: u64) -> Result<()> {
        let mut left = lines;
        while left > 0 {
            let (_, passed) = self.next(left.min(1_000))?;
            ensure!(
                passed > 0,
                "the file ends {left} lines before those to pass over"
            );
            left -= passed;
        }
        Ok(())
    }

    /// The next lines, and how many.
    pub fn next(&mut self, most: u64) -> Result<(Vec<u8>, u64)> {
        let (mut body, mut count) = (Vec::new(), 0);
        while count < most {
            let start = body.len();
            if self.file.read_until(b'\n', &mut body)? == 0 {
                break;
            }
            match body[start..].iter().all(u8::is_ascii_whitespace) {
                true => body.truncate(start),
                false => count += 1,
            }
        }
        Ok((body, count))
    }
}

/// One name of `GET /relations`: name, kind, and columns as name, type and nullability.
type Relation = (String, String, Vec<(String, String, bool)>);

/// The topic's declared fields as the daemon tells them, in the types that a client would send.
fn topic_schema(host: &str, topic: &str) -> Result<SchemaRef> {
    let mut connection = Connection::open(host)?;
    let answer = connection.get("/relations")?;
    answer.ok()?;
    let relations: Vec<Relation> = serde_json::from_slice(answer.body)?;
    let (_, _, columns) = relations
        .into_iter()
        .find(|(name, kind, _)| name == topic && kind == "topic")
        .with_context(|| format!("the daemon has no topic `{topic}`"))?;
    let declared = columns.iter().filter(|(name, ..)| !name.starts_with('_'));
    let fields = declared.map(|(name, data_type, nullable)| {
        let data_type = DataType::from_str(data_type)
            .with_context(|| format!("field `{name}` has the unknown type `{data_type}`"))?;
        Ok(Field::new(name, plain(data_type), *nullable))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

/// Views are the engine's own layout; clients send plain strings and bytes.
fn plain(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => {
            let of = plain(item.data_type().clone());
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(of)))
        }
        other => other,
    }
}

/// An Arrow IPC stream of one batch.
fn arrow_body(schema: &SchemaRef, lines: &[u8]) -> Result<Vec<u8>> {
    // One batch however many lines there are, because a daemon joins several again.
    let mut reader = ReaderBuilder::new(schema.clone())
        .with_batch_size(lines.len().max(1))
        .build(lines)?;
    let batch = reader.next().context("no facts for a body")??;
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{TimeUnit, TimestampMicrosecondType};
    use arrow::ipc::reader::StreamReader;
    use std::io::Write;

    #[test]
    fn lines_are_cut_without_loss() -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(b"{\"a\":1}\n\n{\"a\":2}\n{\"a\":3}")?;
        let args = FactsArgs {
            topic: "t".into(),
            file: file.path().into(),
            format: BodyFormat::Ndjson,
        };
        let requests = Requests::prepare("http://h:1", &args, 10, 2)?;
        let facts: Vec<u64> = requests.list.iter().map(|r| r.facts).collect();
        assert_eq!((facts, requests.facts), (vec![2, 1], 3));
        let one = &requests.list[0];
        assert!(one.bytes.ends_with(b"\r\n\r\n{\"a\":1}\n{\"a\":2}\n"));
        assert_eq!(Requests::prepare("http://h:1", &args, 1, 2)?.facts, 1);
        Ok(())
    }

    #[test]
    fn an_arrow_body_holds_the_facts_in_plain_types() -> Result<()> {
        let instant = DataType::from_str("Timestamp(µs, \"UTC\")")?;
        assert_eq!(
            instant,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        );
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("ts", instant, false),
            Field::new("url", plain(DataType::Utf8View), true),
        ]));
        let lines = b"{\"ts\":\"1970-01-01T00:00:01Z\",\"url\":\"/a\"}\n{\"ts\":\"1970-01-01T00:00:02Z\",\"url\":null}\n";
        let body = arrow_body(&schema, lines)?;
        let batches = StreamReader::try_new(body.as_slice(), None)?
            .collect::<std::result::Result<Vec<_>, _>>()?;
        assert_eq!((batches.len(), batches[0].num_rows()), (1, 2));
        let times = batches[0]
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.values().to_vec(), vec![1_000_000, 2_000_000]);
        let urls: Vec<_> = batches[0].column(1).as_string::<i32>().iter().collect();
        assert_eq!(urls, vec![Some("/a"), None]);
        Ok(())
    }
}
