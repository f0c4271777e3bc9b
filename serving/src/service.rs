//! Answers to SQL: a query pins what it reads, is planned over the pins, and runs within bounds of
//! memory and time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::functions::FunctionBounds;
use anabranch_shared::sql::KnownNames;
use anabranch_shared::view::{Role, View};
use anabranch_shared::{
    Error, ErrorKind, Moment, Pin, Pinner, ReadMode, Receipt, Relation, Result, Stop, Storage,
    TopicPin, ViewPin, sql,
};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;

use crate::at_least::{LOOK_EVERY, WAIT, missing};
use crate::audit::{AuditRecord, Auditor};
use crate::caller::Caller;
use crate::combine::plan_combines;
use crate::dialect::Dialect;
use crate::door::Door;
use crate::freshness;
use crate::identity::{Identity, Rights, Rows};
use crate::limits::QueryLimits;
use crate::metrics::{Asked, QueryMetrics};
use crate::names::{Names, relation_names};
use crate::naming::ColumnNames;
use crate::parameters;
use crate::pool::QueryPool;
use crate::reading::Reading;
use crate::receipts::{self, Awaited, Receipts, Replayed};
use crate::row_rights::{absent, is_there, narrowed};
use crate::running::{Queries, QueryInfo, Running, Verification, Waiter};
use crate::spellings;
use crate::statement;
use crate::tables::DEAD_LETTERS;
use crate::temporary;
use crate::topic_table::FilesTable;
use crate::workers;
use sessions::Sessions;
use statements::{Known, Read, Statements, computed};
pub use views::stopped_by;

mod sessions;
mod sources;
mod statements;
mod views;

/// Steps of a function for one row, in queries.
const FUNCTION_WORK: u64 = 400_000_000;

/// Bounds of queries.
#[derive(Clone, Debug)]
pub struct ServingOptions {
    /// Bytes of memory that all queries together may take.
    pub memory_bytes: usize,
    /// Threads of one query.
    pub threads: usize,
    /// How long one query may take, counted from when it comes.
    pub timeout: Duration,
    /// What queries may take besides.
    pub limits: QueryLimits,
    /// Where it is told what became of them.
    pub metrics: QueryMetrics,
    /// Who keeps records of what others ask, if anybody does.
    pub auditor: Option<Arc<dyn Auditor>>,
}

/// An answer that is being computed.
pub struct Answer {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub stream: SendableRecordBatchStream,
    /// How fresh it is, in one line.
    pub freshness: String,
    /// What its reader should know.
    pub notes: Vec<String>,
    /// What is told of it, where it is.
    asked: Option<Asked>,
    query: Arc<Running>,
    /// Its receipt, where one is wanted.
    receipt: Option<Awaited>,
}

impl Answer {
    /// Whoever waits for the answer without reading its rows itself. Dropping it stops the work.
    pub(crate) fn waiter(&self) -> Waiter {
        self.query.waiter()
    }

    /// What is told of the query.
    pub(crate) fn asked(&self) -> Option<Asked> {
        self.asked.clone()
    }

    /// What tells its work to stop.
    pub(crate) fn stop(&self) -> &Stop {
        &self.query.stop
    }

    /// What its query is cancelled by.
    pub(crate) fn id(&self) -> &str {
        self.query.id()
    }

    /// Its receipt, where one is wanted: there once its rows have been read.
    pub(crate) fn awaited(&self) -> Option<&Awaited> {
        self.receipt.as_ref()
    }

    /// What gives its receipt, where one is wanted, once its rows have been read.
    pub fn receipt(&self) -> impl Fn() -> Option<String> + use<> {
        let awaited = self.receipt.clone();
        move || Some(awaited.as_ref()?.receipt()?.to_string())
    }

    /// The same, whose end is told.
    fn told(mut self, asked: Asked) -> Self {
        self.stream = asked.rows(self.stream);
        self.asked = Some(asked);
        self
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("freshness", &self.freshness)
            .finish_non_exhaustive()
    }
}

/// A statement that somebody asks, with all that a session adds to it.
#[derive(Clone, Debug)]
pub(crate) struct Asking<'a> {
    /// Who asks, by which way.
    pub(crate) caller: &'a Caller,
    /// The statement.
    pub(crate) text: &'a str,
    /// How it reads.
    pub(crate) reading: &'a Reading,
    /// How long it may take, from when it comes.
    pub(crate) limit: Duration,
    /// What stands for its parameters, in their order; none where they stay open.
    pub(crate) values: &'a [ast::Expr],
    /// What its transaction has pinned.
    pub(crate) pin: Option<&'a Pin>,
    /// What its door has besides.
    pub(crate) dialect: Option<&'a Arc<dyn Dialect>>,
}

impl Asking<'_> {
    /// What its asker may do.
    fn rights(&self) -> &Rights {
        self.caller.identity.rights()
    }
}

/// What a statement takes and gives.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// The types of its parameters.
    pub(crate) parameters: Vec<DataType>,
    /// The columns of its answer.
    pub(crate) schema: SchemaRef,
}

/// Answers SQL over pinned views, topics and tables. Clones are one service.
#[derive(Clone, Debug)]
pub struct SqlService {
    pinner: Arc<dyn Pinner>,
    runtime: Arc<RuntimeEnv>,
    sessions: Sessions,
    options: ServingOptions,
    queries: Arc<Queries>,
    receipts: Arc<Receipts>,
}

impl SqlService {
    /// A service over whoever pins.
    pub fn new(
        pinner: Arc<dyn Pinner>,
        storage: &Storage,
        options: ServingOptions,
    ) -> Result<Self> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes)))
            .with_disk_manager_builder(temporary::manager(&options.limits))
            .build_arc()?;
        storage.register(&runtime)?;
        Ok(Self {
            pinner,
            sessions: Sessions::new(runtime.clone(), options.threads)?,
            runtime,
            queries: Queries::new(options.limits.clone(), storage.wall().clone()),
            receipts: Arc::new(Receipts::new(storage)),
            options,
        })
    }

    /// A pinned topic's facts as a table.
    /// With the fields that the topic had when a view over it was planned: whoever pinned may know
    /// other ones.
    ///
    /// # Errors
    /// `Invalid` where facts in memory have a column of another type.
    pub fn topic_provider(&self, pin: &TopicPin, view: &View) -> Result<Arc<dyn TableProvider>> {
        let (schema, reads) = (view.topic().schema(), view.late_reads().clone());
        Ok(Arc::new(FilesTable::topic_as(pin, schema, reads)?))
    }

    /// Who pins.
    pub fn pinner(&self) -> &Arc<dyn Pinner> {
        &self.pinner
    }

    /// What bounds the memory of all queries together.
    pub(crate) fn memory_pool(&self) -> &Arc<dyn MemoryPool> {
        &self.runtime.memory_pool
    }

    /// Where it is told what became of queries.
    pub fn metrics(&self) -> &QueryMetrics {
        &self.options.metrics
    }

    /// The queries that run and wait, the longest first.
    pub fn queries(&self) -> Vec<QueryInfo> {
        self.queries.infos(&Identity::everybody())
    }

    /// Those of them that somebody may see: their own, and those of others for who operates.
    pub fn queries_of(&self, identity: &Identity) -> Vec<QueryInfo> {
        self.queries.infos(identity)
    }

    /// Stops a query for somebody who may see it.
    ///
    /// # Errors
    /// `NotFound` where none has the id.
    pub fn cancel(&self, id: &str, identity: &Identity) -> Result<()> {
        self.queries.cancel(id, identity)
    }

    /// Takes in the verification of a view that somebody asks for. It has a limit of time, and is listed
    /// and cancelled as queries are.
    ///
    /// # Errors
    /// `NoRoom` where as many verifications run as may, or the process is short of memory.
    pub fn verification(&self, caller: &Caller, view: &str) -> Result<Verification> {
        Ok(Verification::new(self.queries.verification(caller, view)?))
    }

    /// How long one query may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// How long a transaction may read what it pinned.
    pub(crate) fn pin_for(&self) -> Duration {
        self.options.limits.pin_for
    }

    /// How long a verification that somebody asks for may take.
    pub fn verify_timeout(&self) -> Duration {
        self.options.limits.verify_timeout
    }

    /// The state of a query's session, before tables are registered.
    fn state_of(&self, query: &Running) -> Result<SessionState> {
        let pool = QueryPool {
            all: self.runtime.memory_pool.clone(),
            held: query.memory.clone(),
        };
        let mut runtime = RuntimeEnv::clone(&self.runtime);
        runtime.memory_pool = Arc::new(pool);
        let bounds = FunctionBounds {
            bytes: self.options.limits.function_bytes,
            work: FUNCTION_WORK,
            pattern_work: FUNCTION_WORK,
            setting: "`max_function_bytes` in `[query]`",
            stop: query.stop.clone(),
        };
        self.sessions.of_statement(Arc::new(runtime), bounds)
    }

    /// Answers one statement that this process asks.
    ///
    /// # Errors
    /// Those of [`SqlService::query_by`].
    pub async fn query(&self, text: &str, reading: impl Into<Reading>) -> Result<Answer> {
        let caller = Caller::this_process();
        self.query_by(&caller, text, &reading.into()).await
    }

    /// Answers one statement that somebody asks, in its turn. Its time counts from now on, and dropping
    /// the future or the answer stops its work.
    ///
    /// # Errors
    /// `Invalid` for SQL that can't be answered, and for statements that would change something;
    /// `NoRoom` where the process has no room for one more query.
    pub async fn query_by(&self, caller: &Caller, text: &str, reading: &Reading) -> Result<Answer> {
        self.query_with(caller, text, reading, &[]).await
    }

    /// As [`SqlService::query_by`], with values for the statement's parameters.
    pub(crate) async fn query_with(
        &self,
        caller: &Caller,
        text: &str,
        reading: &Reading,
        values: &[ast::Expr],
    ) -> Result<Answer> {
        self.ask(&Asking {
            caller,
            text,
            reading,
            limit: self.options.timeout,
            values,
            pin: None,
            dialect: None,
        })
        .await
    }

    /// The keys of a view, by the names of their columns.
    ///
    /// # Errors
    /// `NotFound` where there is none of that name that somebody may read.
    pub(crate) async fn view_keys(&self, view: &str, rights: &Rights) -> Result<Vec<String>> {
        let pin = self.pin_of_view(view, &Reading::default(), rights).await?;
        let schema = self.answer_schema(&pin, None)?;
        let columns = schema.fields().iter().zip(pin.view.roles());
        let keys = columns.filter(|(_, role)| matches!(role, Role::Key));
        Ok(keys.map(|(field, _)| field.name().clone()).collect())
    }

    /// A view, pinned.
    ///
    /// # Errors
    /// `NotFound` where there is none of that name that somebody may read.
    pub(crate) async fn pin_of_view(
        &self,
        view: &str,
        reading: &Reading,
        rights: &Rights,
    ) -> Result<ViewPin> {
        if rights.may_read(view) {
            let pin = self.pinned_for(&[view.to_owned()], reading, rights).await?;
            if let Some(pin) = narrowed(pin, rights, false)?.views.remove(view) {
                return Ok(pin);
            }
        }
        let known = self.readable(rights).await.unwrap_or_default();
        let views = known.iter().filter(|r| r.view.is_some());
        let near = anabranch_shared::nearest(view, views.map(|r| r.name.as_str()));
        let near = near.map(|near| format!("; did you mean `{near}`?"));
        Err(Error::NotFound(format!(
            "there is no view `{view}`{}",
            near.unwrap_or_default()
        )))
    }

    /// Who keeps a record of what somebody asks: what this process asks itself is nobody's.
    fn auditor(&self, caller: &Caller) -> Option<&Arc<dyn Auditor>> {
        let auditor = self.options.auditor.as_ref();
        auditor.filter(|_| caller.door != Door::Local)
    }

    /// Keeps a record that somebody begins to follow a view, which is known as `SUBSCRIBE view`.
    ///
    /// # Errors
    /// `Unavailable` where such records have to be written and can't.
    pub(crate) fn note_following(&self, caller: &Caller, view: &str) -> Result<()> {
        let Some(auditor) = self.auditor(caller) else {
            return Ok(());
        };
        auditor.check()?;
        auditor.note(AuditRecord {
            outcome: "ok",
            ..AuditRecord::begun(caller, &format!("SUBSCRIBE {view}"), self.queries.now())
        });
        Ok(())
    }

    /// As [`SqlService::query_by`], with all that a session adds to a statement.
    pub(crate) async fn ask(&self, asking: &Asking<'_>) -> Result<Answer> {
        let auditor = self.auditor(asking.caller);
        let audited = auditor.map(|auditor| {
            let record = AuditRecord::begun(asking.caller, asking.text, self.queries.now());
            (auditor.clone(), record)
        });
        let asked = self.options.metrics.asked(asking.caller.door, audited);
        if let Some(Err(e)) = auditor.map(|auditor| auditor.check()) {
            asked.failed(&e);
            return Err(e);
        }
        match self.answered(&asked, asking).await {
            Ok(answer) => Ok(answer.told(asked)),
            Err(e) => {
                asked.failed(&e);
                Err(e)
            }
        }
    }

    async fn answered(&self, asked: &Asked, asking: &Asking<'_>) -> Result<Answer> {
        let query = self
            .queries
            .arrive(asking.caller, asking.text, asking.limit)?;
        asked.taken_in(&query.stop);
        let waiter = query.waiter();
        query.turn().await?;
        match self.in_its_turn((query, waiter), asking).await {
            Err(e) => Err(self.explained(e, asking.text, asking.rights()).await),
            answer => answer,
        }
    }

    async fn in_its_turn(
        &self,
        (query, waiter): (Arc<Running>, Waiter),
        asking: &Asking<'_>,
    ) -> Result<Answer> {
        let now = self.time_of(asking.reading);
        let (read, names, rewritten) = self.read(&query, asking, now).await?;
        let known = self.known(&query, asking, &names, now).await?;
        let pin = self.pinned(&query, asking, &names).await?;
        let receipt = match asking.reading.receipts {
            false => None,
            true => Some(self.receipt(asking, (now, rewritten), &names, &pin).await?),
        };
        let mode = (asking.reading.mode, asking.rights());
        self.query_pinned((query, waiter), (read, known, receipt), &pin, mode)
            .await
    }

    /// What time it is to a statement.
    fn time_of(&self, reading: &Reading) -> DateTime<Utc> {
        let then = reading.as_of.as_ref().and_then(Moment::time);
        then.unwrap_or_else(|| self.queries.now())
    }

    /// What becomes the receipt of an answer.
    async fn receipt(
        &self,
        asking: &Asking<'_>,
        (at, rewritten): (DateTime<Utc>, Option<String>),
        names: &Names,
        pin: &Pin,
    ) -> Result<Awaited> {
        let asked = receipts::Asked {
            sql: rewritten.as_deref().unwrap_or(asking.text),
            values: match rewritten {
                Some(_) => &[],
                None => asking.values,
            },
            reading: asking.reading,
            rights: asking.rights(),
            user: asking.caller.identity.name(),
            at,
            of_information: names.of_information || names.of_freshness,
        };
        self.receipts.begin(&asked, pin).await
    }

    /// Computes the answer of a receipt again, with the rights of whoever asks that, and compares.
    ///
    /// # Errors
    /// `Denied` where this storage did not make it, or whoever asks may read only some rows; those of
    /// [`SqlService::query_by`], also where what was there then is not there any more.
    pub async fn replay(&self, caller: &Caller, receipt: &Receipt) -> Result<Replayed> {
        self.receipts.check(receipt).await?;
        let claims = receipt.claims();
        let values = receipts::values(claims)?;
        let reading = Reading {
            search_path: claims.search_path.parse()?,
            as_of: Some(Moment::Receipt(Box::new(receipt.clone()))),
            receipts: true,
            ..Reading::default()
        };
        let asked = self.query_with(caller, &claims.sql, &reading, &values);
        let Answer {
            mut stream,
            mut notes,
            receipt,
            ..
        } = asked.await?;
        while let Some(batch) = stream.next().await {
            batch?;
        }
        let Some(now) = receipt.as_ref().and_then(Awaited::receipt) else {
            let why = receipt.and_then(|receipt| receipt.refused());
            return Err(Error::Denied(format!(
                "the answer can't be compared with what it was: {}",
                why.unwrap_or_default()
            )));
        };
        // That it is of then is what was asked.
        notes.retain(|note| !note.starts_with("as of "));
        Ok(Replayed::new(claims.clone(), now.claims().clone(), notes))
    }

    /// What a statement reads: now, or what its transaction has pinned. What its asker may not read is
    /// not there.
    async fn pinned(&self, query: &Running, asking: &Asking<'_>, names: &Names) -> Result<Pin> {
        let rights = asking.rights();
        if let Some(name) = names.relations().iter().find(|n| !rights.may_read(n)) {
            return Err(absent(name));
        }
        let pin = match asking.pin {
            Some(pin) => {
                self.check_held(pin, query, asking, names).await?;
                pin.clone()
            }
            None => {
                let relations = names.relations();
                let pinning = self.pinned_for(&relations, asking.reading, rights);
                query.stop.within(pinning).await?
            }
        };
        let of_dead_letters = names.relations().iter().any(|name| name == DEAD_LETTERS);
        if of_dead_letters && rights.rows(DEAD_LETTERS) != Rows::All {
            return Err(absent(DEAD_LETTERS));
        }
        names.found(narrowed(pin, rights, of_dead_letters)?)
    }

    /// That nothing which a statement names could not be read when its transaction began.
    ///
    /// # Errors
    /// Why it can't be read; `Conflict` where it can by now.
    async fn check_held(
        &self,
        pin: &Pin,
        query: &Running,
        asking: &Asking<'_>,
        names: &Names,
    ) -> Result<()> {
        let failing = pin.failing.iter();
        let named = names.relations();
        let Some(name) = failing.into_iter().find(|name| named.contains(name)) else {
            return Ok(());
        };
        let alone = [name.clone()];
        let pinning = self.pinned_for(&alone, asking.reading, asking.rights());
        query.stop.within(pinning).await?;
        Err(Error::Conflict(format!(
            "`{name}` could not be read when the transaction began; begin another one"
        )))
    }

    /// A pin that has seen what it has to, for which it is waited.
    ///
    /// # Errors
    /// Those of pinning; `Unavailable` where it is not there in time.
    async fn seen(&self, relations: &[String], reading: &Reading) -> Result<Pin> {
        if let Some(moment) = &reading.as_of {
            return self.seen_at(relations, reading, moment).await;
        }
        let until = Instant::now() + WAIT;
        loop {
            let pin = self.pinner.pin(relations, reading.mode).await?;
            match missing(&reading.at_least, &pin) {
                None => return Ok(pin),
                Some(missing) if Instant::now() >= until => {
                    let waited = WAIT.as_secs();
                    return Err(Error::Unavailable(format!("{missing} after {waited} s")));
                }
                Some(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// As [`SqlService::seen`], of a moment that has passed.
    async fn seen_at(
        &self,
        relations: &[String],
        reading: &Reading,
        moment: &Moment,
    ) -> Result<Pin> {
        if reading.mode == ReadMode::Batch {
            return Err(Error::Invalid(
                "an answer as of a moment is of all that was there then; leave `read` = `batch` out"
                    .to_owned(),
            ));
        }
        let mut pin = self.pinner.pin_at(relations, moment).await?;
        if let Some(missing) = missing(&reading.at_least, &pin) {
            let moment = moment.in_short();
            return Err(Error::Invalid(format!("as of {moment} {missing}")));
        }
        pin.notes.insert(0, format!("as of {}", moment.in_short()));
        Ok(pin)
    }

    /// As [`SqlService::seen`], with errors that tell somebody nothing of rows that they may not read: a
    /// view that fails does so at a fact, and what is missing is named by offsets.
    async fn pinned_for(
        &self,
        relations: &[String],
        reading: &Reading,
        rights: &Rights,
    ) -> Result<Pin> {
        let pinned = self.seen(relations, reading).await;
        if !rights.has_filters() {
            return pinned;
        }
        match pinned {
            // How many facts were folded for the past is nothing for somebody who may not read all.
            Ok(mut pin) => {
                pin.notes.truncate(match reading.as_of {
                    Some(_) => 1,
                    None => pin.notes.len(),
                });
                Ok(pin)
            }
            Err(e) => Err(Error::of_kind(
                e.kind(),
                format!(
                    "`{}` can't be read{}; whoever operates this is told why",
                    relations.join("`, `"),
                    match reading.as_of {
                        Some(_) => " as of then",
                        None => " now",
                    }
                ),
            )),
        }
    }

    /// Everything that somebody may read, pinned at once.
    pub(crate) async fn pin_all(&self, reading: &Reading, rights: &Rights) -> Result<Pin> {
        // Dead letters are those of all topics.
        let relations = match rights.rows(DEAD_LETTERS) {
            Rows::All => self.pinner.relations().await?,
            _ => self.readable(rights).await?,
        };
        // A view that fails keeps nobody from reading the others.
        let failing = self.pinner.failing();
        let is_out = |r: &Relation| {
            let has_no_past = reading.as_of.is_some() && r.kind == "table";
            failing.contains_key(&r.name) || has_no_past
        };
        let (out, names): (Vec<_>, Vec<_>) = relations.into_iter().partition(is_out);
        let names: Vec<String> = names.into_iter().map(|r| r.name).collect();
        let pin = self.pinned_for(&names, reading, rights).await?;
        Ok(Pin {
            failing: out.into_iter().map(|r| r.name).collect(),
            ..pin
        })
    }

    /// What a statement takes and gives, without an answer to it: the types of its parameters, of which
    /// some may be stated, and the columns of its answer.
    pub(crate) async fn describe(
        &self,
        asking: &Asking<'_>,
        stated: &[Option<DataType>],
    ) -> Result<Description> {
        let query = self
            .queries
            .arrive(asking.caller, asking.text, asking.limit)?;
        let _waiter = query.waiter();
        query.turn().await?;
        match self.described(&query, asking, stated).await {
            Err(e) => Err(self.explained(e, asking.text, asking.rights()).await),
            described => described,
        }
    }

    async fn described(
        &self,
        query: &Arc<Running>,
        asking: &Asking<'_>,
        stated: &[Option<DataType>],
    ) -> Result<Description> {
        let now = self.time_of(asking.reading);
        let (read, names, _) = self.read(query, asking, now).await?;
        let known = self.known(query, asking, &names, now).await?;
        let pin = self.pinned(query, asking, &names).await?;
        let (stop, stated) = (query.stop.clone(), stated.to_vec());
        let describing = workers::compute(async move {
            let mut read = read.take()?;
            read.register(&pin, &known)?;
            let state = read.state();
            let types = parameters::inferred(&state, &read.statement, &stated).await?;
            let nothing: Vec<_> = types.iter().map(parameters::null_of).collect();
            parameters::bind(&mut read.statement, &nothing)?;
            let plan = read.checked(&state, &pin).await?;
            stop.check()?;
            let plan = workers::at_length(async { state.optimize(&plan_combines(plan)?) })?;
            let schema = Arc::new(plan.schema().as_arrow().clone());
            Ok(Description {
                parameters: types,
                schema: read.names.applied(&schema),
            })
        });
        query.stop.within(describing).await
    }

    /// Reads a statement on the threads for queries, and says which relations it names; also, for a receipt,
    /// what is asked without its door's dialect and parameters, where it has a dialect.
    async fn read(
        &self,
        query: &Arc<Running>,
        asking: &Asking<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Read, Names, Option<String>)> {
        let (service, text, held) = (self.clone(), asking.text.to_owned(), query.clone());
        let path = asking.reading.search_path.clone();
        let (values, dialect) = (asking.values.to_vec(), asking.dialect.cloned());
        let rights = asking.rights().clone();
        let is_told = asking.reading.receipts && dialect.is_some();
        let bounds = self.options.limits.statement;
        let reading = workers::compute(async move {
            let state = service.state_of(&held)?;
            let mut statement = sql::parse_within(&state, &text, bounds)?;
            statement::check(&statement, &text)?;
            if rights.has_filters() && statement::explains(&statement) {
                return Err(Error::Denied(
                    "plans tell of rows that this user may not read, so they are not shown"
                        .to_owned(),
                ));
            }
            if let Some(dialect) = &dialect {
                dialect.rewrite(&mut statement)?;
            }
            let columns = ColumnNames::of(&statement);
            if !values.is_empty() {
                parameters::bind(&mut statement, &values)?;
            }
            let rewritten = is_told.then(|| statement.to_string());
            let mut statement = statement::written_out(&state, statement)?;
            spellings::rewrite(&mut statement)?;
            let names = relation_names(&state, &statement, &path, dialect.as_deref())?;
            let read = Statements {
                context: SessionContext::new_with_state(state),
                now,
                statement,
                names: columns,
                dialect,
                rights,
            };
            Ok((workers::Kept::new(read), names, rewritten))
        });
        query.stop.within(reading).await
    }

    /// What a statement asks of everything that there is.
    async fn known(
        &self,
        query: &Running,
        asking: &Asking<'_>,
        names: &Names,
        now: DateTime<Utc>,
    ) -> Result<Known> {
        let mut known = Known::default();
        if names.of_information {
            let readable = self.readable(asking.rights());
            known.relations = Some(query.stop.within(readable).await?);
        }
        // Offsets tell of rows that not everybody may read.
        if names.of_freshness && !asking.rights().has_filters() {
            let pinning = self.pin_all(asking.reading, asking.rights());
            let pin = match asking.pin {
                Some(pin) => pin.clone(),
                None => query.stop.within(pinning).await?,
            };
            known.freshness = Some(freshness::freshness(&pin, now)?);
        }
        Ok(known)
    }

    /// What there is that somebody may read.
    pub async fn readable(&self, rights: &Rights) -> Result<Vec<Relation>> {
        let mut relations = self.pinner.relations().await?;
        relations.retain(|relation| is_there(relation, rights));
        Ok(relations)
    }

    /// The error as whoever wrote the statement is told it: with its place, and with what there is
    /// where it is that something is not there.
    async fn explained(&self, e: Error, text: &str, rights: &Rights) -> Error {
        if !matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NotFound) {
            return e;
        }
        let state = self.sessions.of_plans(self.runtime.clone());
        let relations = self.readable(rights).await.unwrap_or_default();
        let mut known: Vec<String> = relations.into_iter().map(|r| r.name).collect();
        if rights.rows(DEAD_LETTERS) == Rows::All {
            known.push(DEAD_LETTERS.to_owned());
        }
        known.sort_unstable();
        known.dedup();
        sql::explained(e, text, &KnownNames::new(&state, known))
    }

    /// Answers one statement over a given pin.
    pub async fn query_on(&self, text: &str, pin: &Pin, mode: ReadMode) -> Result<Answer> {
        let limit = self.options.timeout;
        let caller = Caller::this_process();
        let query = self.queries.arrive(&caller, text, limit)?;
        let waiter = query.waiter();
        query.turn().await?;
        let asking = Asking {
            caller: &caller,
            text,
            reading: &Reading::from(mode),
            limit,
            values: &[],
            pin: Some(pin),
            dialect: None,
        };
        let now = self.time_of(asking.reading);
        let (read, names, _) = self.read(&query, &asking, now).await?;
        let known = self.known(&query, &asking, &names, now).await?;
        let mode = (mode, asking.rights());
        let answer = self.query_pinned((query, waiter), (read, known, None), pin, mode);
        match answer.await {
            Err(e) => Err(self.explained(e, text, asking.rights()).await),
            answer => answer,
        }
    }

    async fn query_pinned(
        &self,
        (query, waiter): (Arc<Running>, Waiter),
        (read, known, receipt): (Read, Known, Option<Awaited>),
        pin: &Pin,
        (mode, rights): (ReadMode, &Rights),
    ) -> Result<Answer> {
        let (of_plan, stop) = (pin.clone(), query.stop.clone());
        // Planning's state is large, and is moved as a whole otherwise.
        let make = Box::pin(computed((read, known, receipt.clone()), of_plan, stop));
        let mut stream = workers::rows(query.clone(), waiter, make).await?;
        let mut notes = pin.notes.clone();
        if let Some(awaited) = &receipt {
            stream = awaited.counting(stream);
            notes.extend(awaited.refused());
        }
        Ok(Answer {
            receipt,
            asked: None,
            query,
            schema: stream.schema(),
            stream,
            freshness: match rights.has_filters() {
                true => String::new(),
                false => in_one_line(pin, mode),
            },
            notes,
        })
    }

    /// Answers one statement and waits for all its rows.
    pub async fn collect(
        &self,
        sql: &str,
        mode: ReadMode,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self.query(sql, mode).await?;
        let rows = datafusion::physical_plan::common::collect(answer.stream).await?;
        Ok((answer.schema, rows))
    }
}

/// How fresh an answer is, in one line.
fn in_one_line(pin: &Pin, mode: ReadMode) -> String {
    let mut parts = Vec::new();
    for (name, view) in &pin.views {
        let behind = view.boundary.distance_to(&view.head);
        parts.push(match mode {
            ReadMode::Batch => format!(
                "{name}: as of its last refresh; what came after [{}] is left out",
                view.boundary
            ),
            ReadMode::Merged => format!(
                "{name}: up to [{}], {behind} offsets of them from the delta",
                view.head
            ),
        });
    }
    for (name, topic) in &pin.topics {
        parts.push(format!("{name}: up to [{}]", topic.head));
    }
    parts.join("; ")
}
