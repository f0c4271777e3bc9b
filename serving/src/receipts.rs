//! Receipts of answers: a text that says what an answer was computed from and what it came to, signed by
//! the storage, and the same answer computed again from it. Owns which answers have one, and when two
//! answers count as the same.
//!
//! Whoever has a receipt asks for nothing that they may not ask anyway: it is computed again with their
//! own rights.

mod digest;

use std::collections::BTreeMap;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anabranch_shared::{
    Claims, Error, Heads, Offset, Offsets, PartitionId, Pin, ReadMode, Receipt, Result, Storage,
    StorageSecret, ViewClaim, ViewPin,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::Stream;
use parking_lot::Mutex;
use ring::hmac;
use sha2::{Digest as _, Sha256};

use crate::identity::Rights;
use crate::reading::Reading;
use digest::Digest;

/// What the key of receipts is made for, so that no other signature of the same secret is one.
const PURPOSE: &[u8] = b"anabranch receipts 1";

/// Digits of a definition's digest.
const DEFINITION_DIGITS: usize = 16;

/// The key by which a storage signs receipts.
#[derive(Clone)]
struct Key(hmac::Key);

/// Signs receipts, and knows its own.
#[derive(Debug)]
pub(crate) struct Receipts {
    storage: Storage,
}

impl Receipts {
    pub(crate) fn new(storage: &Storage) -> Self {
        let storage = storage.clone();
        Self { storage }
    }

    async fn key(&self) -> Result<Option<Key>> {
        let secret = StorageSecret::find(&self.storage).await?;
        Ok(secret.map(|secret| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.text().as_bytes());
            let key = hmac::sign(&key, PURPOSE);
            Key(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
        }))
    }

    /// That a receipt was made by this storage as it is.
    ///
    /// # Errors
    /// `Denied` where it was not.
    pub(crate) async fn check(&self, receipt: &Receipt) -> Result<()> {
        let (said, signature) = receipt.parts();
        let key = self.key().await?;
        match key.is_some_and(|key| hmac::verify(&key.0, said, &signature).is_ok()) {
            true => Ok(()),
            false => Err(Error::Denied(
                "this storage did not make this receipt as it is; it was changed, or made by another storage, or before the secret of this one was".to_owned(),
            )),
        }
    }

    /// What is to be written of an answer; why there will be no receipt.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn begin(&self, asked: &Asked<'_>, pin: &Pin) -> Result<Awaited> {
        let why = match refusal(asked, pin) {
            Some(why) => why,
            None => match self.key().await? {
                None => "no daemon of this storage has run yet, which makes its secret".to_owned(),
                Some(key) => return Ok(Awaited::of(begun(asked, pin), key)),
            },
        };
        let awaited = Awaited::default();
        awaited.refuse(why);
        Ok(awaited)
    }
}

/// What is known of a statement before it is planned.
pub(crate) struct Asked<'a> {
    pub(crate) sql: &'a str,
    pub(crate) values: &'a [ast::Expr],
    pub(crate) reading: &'a Reading,
    pub(crate) rights: &'a Rights,
    pub(crate) user: Option<&'a str>,
    /// What time it is to it.
    pub(crate) at: DateTime<Utc>,
    /// Whether it asks which relations there are.
    pub(crate) of_information: bool,
}

/// Why what is asked has no receipt.
fn refusal(asked: &Asked<'_>, pin: &Pin) -> Option<String> {
    let plain = pin.plain.keys().next();
    Some(match plain {
        _ if asked.rights.has_filters() => {
            "it would tell of rows that this user may not read".to_owned()
        }
        _ if asked.reading.mode == ReadMode::Batch => "batch answers have none".to_owned(),
        _ if asked.of_information => {
            "which relations there are is known as of now alone".to_owned()
        }
        Some(table) => format!("`{table}` is there as it is now alone"),
        None => return None,
    })
}

/// What a receipt says before there are rows.
fn begun(asked: &Asked<'_>, pin: &Pin) -> Claims {
    let mut heads = Heads::default();
    let mut note = |topic: &str, head: &Offsets| {
        let mut head = head.clone();
        // A topic without facts is named all the same.
        head.raise(PartitionId(0), Offset(0));
        heads.set(topic, head);
    };
    for view in pin.views.values() {
        note(&view.view.topic().name, &view.head);
    }
    for topic in pin.topics.values() {
        note(&topic.topic.name, &topic.head);
    }
    for reference in pin.references.values() {
        note(&reference.topic.topic.name, &reference.topic.head);
    }
    Claims {
        sql: asked.sql.to_owned(),
        values: asked.values.iter().map(ToString::to_string).collect(),
        search_path: asked.reading.search_path.to_string(),
        asked_at: asked.at,
        user: asked.user.map(str::to_owned),
        heads,
        views: pin
            .views
            .iter()
            .map(|(n, v)| (n.clone(), claim(v)))
            .collect(),
        rows: 0,
        columns: Vec::new(),
        digest: String::new(),
        floats: BTreeMap::new(),
    }
}

fn claim(pin: &ViewPin) -> ViewClaim {
    let definition = pin.view.definition();
    let mut digest = Sha256::new();
    // What makes it another query; the form of states does not.
    digest.update(definition.sql.trim());
    digest.update([0]);
    digest.update(format!("{:?}", definition.settings));
    digest.update(&definition.topic.name);
    let mut digits = hex::encode(digest.finalize());
    digits.truncate(DEFINITION_DIGITS);
    ViewClaim {
        generation: pin.generation.0,
        boundary: pin.boundary.to_string(),
        definition: digits,
    }
}

/// The first function of a statement that gives another value each time.
pub(crate) fn volatile(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let looked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            use datafusion::common::tree_node::TreeNode;
            expr.apply(|expr| match expr {
                Expr::ScalarFunction(call) if expr.is_volatile_node() => {
                    found = Some(call.func.name().to_owned());
                    Ok(TreeNodeRecursion::Stop)
                }
                _ => Ok(TreeNodeRecursion::Continue),
            })
        })
    });
    // Looking at expressions does not fail.
    looked.ok().and(found)
}

/// The receipt of an answer, which is there once all its rows have been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    /// Rows are counted.
    Counting(Box<Counting>),
    There(Box<Receipt>),
    Refused(String),
    #[default]
    None,
}

/// What is counted, and by which key it is signed.
#[derive(Debug)]
struct Counting {
    claims: Claims,
    key: Key,
    /// Of the rows; none before the first of them.
    digest: Option<Digest>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Awaited {
    fn of(claims: Claims, key: Key) -> Self {
        let counting = Counting {
            claims,
            key,
            digest: None,
        };
        Self(Arc::new(Mutex::new(State::Counting(Box::new(counting)))))
    }

    /// There will be none.
    pub(crate) fn refuse(&self, why: String) {
        *self.0.lock() = State::Refused(why);
    }

    /// That there is none, and why, in a sentence.
    pub(crate) fn refused(&self) -> Option<String> {
        match &*self.0.lock() {
            State::Refused(why) => Some(format!("there is no receipt: {why}")),
            _ => None,
        }
    }

    /// The receipt, once there is one.
    pub(crate) fn receipt(&self) -> Option<Receipt> {
        match &*self.0.lock() {
            State::There(receipt) => Some(Receipt::clone(receipt)),
            _ => None,
        }
    }

    /// Rows whose end is the receipt's.
    pub(crate) fn counting(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        Box::pin(Counted {
            rows,
            awaited: self.clone(),
        })
    }

    fn note(&self, batch: &RecordBatch) -> Result<()> {
        if let State::Counting(counting) = &mut *self.0.lock() {
            let digest = match &mut counting.digest {
                Some(digest) => digest,
                none => none.insert(Digest::new(batch.schema_ref())?),
            };
            digest.add(batch)?;
        }
        Ok(())
    }

    fn end(&self, schema: &SchemaRef) -> Result<()> {
        let mut state = self.0.lock();
        let State::Counting(counting) = std::mem::take(&mut *state) else {
            return Ok(());
        };
        let Counting {
            mut claims,
            key,
            digest,
        } = *counting;
        let digest = match digest {
            Some(digest) => digest,
            None => Digest::new(schema)?,
        };
        digest.told(&mut claims);
        let sign = |said: &[u8]| hmac::sign(&key.0, said).as_ref().to_vec();
        *state = match Receipt::signed(claims, sign) {
            Ok(receipt) => State::There(Box::new(receipt)),
            Err(e) => State::Refused(e.to_string()),
        };
        Ok(())
    }
}

/// Rows that are counted as they are read.
struct Counted {
    rows: SendableRecordBatchStream,
    awaited: Awaited,
}

impl Stream for Counted {
    type Item = std::result::Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: StdPin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.rows.as_mut().poll_next(cx));
        let noted = match &next {
            Some(Ok(batch)) => self.awaited.note(batch),
            Some(Err(_)) => Ok(()),
            None => self.awaited.end(&self.rows.schema()),
        };
        Poll::Ready(match noted {
            Ok(()) => next,
            Err(e) => Some(Err(e.into())),
        })
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

/// What stood for parameters, as expressions.
///
/// # Errors
/// `Invalid` for what is none.
pub(crate) fn values(claims: &Claims) -> Result<Vec<ast::Expr>> {
    let read = |text: &String| {
        let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(text)?;
        parser.parse_expr()
    };
    let read = claims.values.iter().map(read);
    read.collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::Invalid(format!("a parameter of the receipt can't be read: {e}")))
}

/// An answer computed again.
#[derive(Debug)]
pub struct Replayed {
    /// What the receipt says.
    pub then: Claims,
    /// What it comes to now.
    pub now: Claims,
    /// In what they differ; nothing where they are the same.
    pub differences: Vec<String>,
    /// What its reader should know.
    pub notes: Vec<String>,
}

impl Replayed {
    pub(crate) fn new(then: Claims, now: Claims, mut notes: Vec<String>) -> Self {
        for (name, view) in &then.views {
            let generation = view.generation;
            match now.views.get(name) {
                Some(now) if now.generation == generation => {}
                Some(now) if now.definition == view.definition => notes.push(format!(
                    "of `{name}` generation {generation} answered then, and {} does now, of the same definition",
                    now.generation
                )),
                _ => notes.push(format!(
                    "`{name}` was edited since: generation {generation} answered then; `anabranch history {name}` says what came after it"
                )),
            }
        }
        Self {
            differences: digest::differences(&then, &now),
            then,
            now,
            notes,
        }
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "same": self.differences.is_empty(), "differences": self.differences,
            "notes": self.notes, "then": self.then, "now": self.now,
        })
    }
}
