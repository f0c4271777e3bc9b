//! SQL sessions: a query pins what it reads, is planned over the pins, and runs within bounds of
//! memory and time.

use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::functions::{self, FunctionBounds};
use anabranch_shared::layout;
use anabranch_shared::sql::KnownNames;
use anabranch_shared::view::{KeySample, View, build_session, planning_session, session_builder};
use anabranch_shared::{
    Error, ErrorKind, OFFSET, PARTITION, Pin, Pinner, ReadMode, ReferencePin, Relation, Result,
    Stop, Storage, TopicPin, ViewPin, dead_letter_schema, sql, timestamp_type,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::{Column, JoinType, ScalarValue, TableReference};
use datafusion::datasource::ViewTable;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;

use crate::additive;
use crate::blame::naming_views;
use crate::combine::{Combine, plan_combines};
use crate::information;
use crate::leaf::MergedLeaf;
use crate::limits::QueryLimits;
use crate::metrics::{Asked, Door, QueryMetrics};
use crate::names::{Names, relation_names};
use crate::naming::ColumnNames;
use crate::planning;
use crate::pool::QueryPool;
use crate::reading::{Reading, SearchPath};
use crate::running::{Queries, QueryInfo, Running, Verification, Waiter};
use crate::statement;
use crate::stoppable::{largest_constant, stoppable};
use crate::temporary;
use crate::text_lossy::text_lossy;
use crate::topic_table::FilesTable;
use crate::workers;

/// The name of the table of all topics' dead letters.
const DEAD_LETTERS: &str = "dead_letters";

/// Who asks where nobody says.
const THIS_PROCESS: &str = "this process";

/// Bytes of a constant that a batch may hold, written out for each row.
const CONSTANTS_AT_ONCE: usize = 64_000_000;

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

/// Answers SQL over pinned views, topics and tables. Clones are one service.
#[derive(Clone, Debug)]
pub struct SqlService {
    pinner: Arc<dyn Pinner>,
    runtime: Arc<RuntimeEnv>,
    options: ServingOptions,
    queries: Arc<Queries>,
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
            runtime,
            queries: Queries::new(options.limits.clone()),
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
        self.queries.infos()
    }

    /// Stops a query.
    ///
    /// # Errors
    /// `NotFound` where none has the id.
    pub fn cancel(&self, id: &str) -> Result<()> {
        self.queries.cancel(id)
    }

    /// Takes in the verification of a view that somebody asks for. It has a limit of time, and is listed
    /// and cancelled as queries are.
    ///
    /// # Errors
    /// `NoRoom` where as many verifications run as may, or the process is short of memory.
    pub fn verification(&self, who: &str, view: &str) -> Result<Verification> {
        Ok(Verification::new(self.queries.verification(who, view)?))
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
        let mut state = self.state_within(Arc::new(runtime))?;
        functions::bound(&mut state, &bounds)?;
        Ok(planning::bounded(state, bounds))
    }

    fn state_within(&self, runtime: Arc<RuntimeEnv>) -> Result<SessionState> {
        let mut config = SessionConfig::new().with_target_partitions(self.options.threads.max(1));
        config.options_mut().execution.time_zone = Some("+00:00".to_owned());
        config.options_mut().execution.parquet.pushdown_filters = false;
        // So that an error says where it is.
        config.options_mut().sql_parser.collect_spans = true;
        let builder = session_builder()
            .with_config(config)
            .with_runtime_env(runtime);
        let mut state = build_session(builder)?;
        datafusion::execution::FunctionRegistry::register_udaf(
            &mut state,
            Arc::new(Combine::udaf()),
        )?;
        Ok(state)
    }

    /// Answers one statement that this process asks.
    ///
    /// # Errors
    /// Those of [`SqlService::query_by`].
    pub async fn query(&self, text: &str, reading: impl Into<Reading>) -> Result<Answer> {
        let who = (Door::Local, THIS_PROCESS);
        self.query_by(who, text, &reading.into()).await
    }

    /// Answers one statement that somebody asks, in its turn. Its time counts from now on, and dropping
    /// the future or the answer stops its work.
    ///
    /// # Errors
    /// `Invalid` for SQL that can't be answered, and for statements that would change something;
    /// `NoRoom` where the process has no room for one more query.
    pub async fn query_by(
        &self,
        (door, who): (Door, &str),
        text: &str,
        reading: &Reading,
    ) -> Result<Answer> {
        let asked = self.options.metrics.asked(door);
        match self.answered(&asked, who, text, reading).await {
            Ok(answer) => Ok(answer.told(asked)),
            Err(e) => {
                asked.failed(&e);
                Err(e)
            }
        }
    }

    async fn answered(
        &self,
        asked: &Asked,
        who: &str,
        text: &str,
        reading: &Reading,
    ) -> Result<Answer> {
        let query = self.queries.arrive(who, text, self.options.timeout)?;
        asked.taken_in(&query.stop);
        let waiter = query.waiter();
        query.turn().await?;
        match self.in_its_turn((query, waiter), text, reading).await {
            Err(e) => Err(self.explained(e, text).await),
            answer => answer,
        }
    }

    async fn in_its_turn(
        &self,
        (query, waiter): (Arc<Running>, Waiter),
        text: &str,
        reading: &Reading,
    ) -> Result<Answer> {
        let (read, names) = self.read(&query, text, &reading.search_path).await?;
        let known = self.known(&query, &names).await?;
        let relations = names.relations();
        let pin = query
            .stop
            .clone()
            .within(self.pinner.pin(&relations, reading.mode))
            .await?;
        let pin = names.found(pin)?;
        self.query_pinned((query, waiter), (read, known), &pin, reading.mode)
            .await
    }

    /// Reads a statement on the threads for queries, and says which relations it names.
    async fn read(
        &self,
        query: &Arc<Running>,
        text: &str,
        path: &SearchPath,
    ) -> Result<(Read, Names)> {
        let (service, text, held) = (self.clone(), text.to_owned(), query.clone());
        let path = path.clone();
        let bounds = self.options.limits.statement;
        let reading = workers::compute(async move {
            let state = service.state_of(&held)?;
            let statement = sql::parse_within(&state, &text, bounds)?;
            statement::check(&statement, &text)?;
            let statement = statement::written_out(&state, statement)?;
            let names = relation_names(&state, &statement, &path)?;
            Ok((workers::Kept::new((state, statement)), names))
        });
        query.stop.within(reading).await
    }

    /// Everything that can be queried, where a statement asks for that.
    async fn known(&self, query: &Running, names: &Names) -> Result<Known> {
        match names.of_information {
            true => Ok(Some(query.stop.within(self.pinner.relations()).await?)),
            false => Ok(None),
        }
    }

    /// The error as whoever wrote the statement is told it: with its place, and with what there is
    /// where it is that something is not there.
    async fn explained(&self, e: Error, text: &str) -> Error {
        if !matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NotFound) {
            return e;
        }
        let Ok(state) = self.state_within(self.runtime.clone()) else {
            return e;
        };
        let relations = self.pinner.relations().await.unwrap_or_default();
        let mut known: Vec<String> = relations.into_iter().map(|r| r.name).collect();
        known.push(DEAD_LETTERS.to_owned());
        known.sort_unstable();
        known.dedup();
        sql::explained(e, text, &KnownNames::new(&state, known))
    }

    /// The columns of a view's answer, pinned.
    pub fn answer_schema(&self, pin: &ViewPin, sample: Option<&KeySample>) -> Result<SchemaRef> {
        let plan = view_answer_plan(pin, sample)?;
        Ok(Arc::new(plan.schema().as_arrow().clone()))
    }

    /// The answer of a view, pinned; of a sample of its keys where one is given. It is made within the
    /// memory of a pool of its own, and ends with an error once it is to stop.
    pub async fn view_answer(
        &self,
        pin: &ViewPin,
        sample: Option<&KeySample>,
        memory: &Arc<dyn MemoryPool>,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let mut runtime = RuntimeEnv::clone(&self.runtime);
        runtime.memory_pool = memory.clone();
        let state = stopped_by(self.state_within(Arc::new(runtime))?, stop);
        let plan = view_answer_plan(pin, sample)?;
        let plan = DataFrame::new(state.clone(), plan)
            .create_physical_plan()
            .await?;
        let context = SessionContext::new_with_state(state.clone());
        let rows = execute_stream(stoppable(plan, stop)?, context.task_ctx())?;
        Ok(naming_views(rows, state, vec![pin.clone()], stop.clone()))
    }

    /// Answers one statement over a given pin.
    pub async fn query_on(&self, text: &str, pin: &Pin, mode: ReadMode) -> Result<Answer> {
        let limit = self.options.timeout;
        let query = self.queries.arrive(THIS_PROCESS, text, limit)?;
        let waiter = query.waiter();
        query.turn().await?;
        let path = SearchPath::default();
        let (read, names) = self.read(&query, text, &path).await?;
        let known = self.known(&query, &names).await?;
        let answer = self.query_pinned((query, waiter), (read, known), pin, mode);
        match answer.await {
            Err(e) => Err(self.explained(e, text).await),
            answer => answer,
        }
    }

    async fn query_pinned(
        &self,
        (query, waiter): (Arc<Running>, Waiter),
        read: (Read, Known),
        pin: &Pin,
        mode: ReadMode,
    ) -> Result<Answer> {
        let (of_plan, stop) = (pin.clone(), query.stop.clone());
        // Planning's state is large, and is moved as a whole otherwise.
        let make = Box::pin(computed(read, of_plan, stop));
        let stream = workers::rows(query.clone(), waiter, make).await?;
        Ok(Answer {
            asked: None,
            query,
            schema: stream.schema(),
            stream,
            freshness: freshness(pin, mode),
            notes: pin.notes.clone(),
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

fn view_answer_plan(pin: &ViewPin, sample: Option<&KeySample>) -> Result<LogicalPlan> {
    let leaf = Arc::new(MergedLeaf::new(Arc::new(pin.clone())));
    match sample {
        Some(sample) => pin.view.sampled_answer_plan(leaf, sample),
        None => pin.view.answer_plan(leaf),
    }
}

/// A session for views in which planning looks whether to go on, and so do functions that compute
/// long. Its plans must be [`stoppable`] besides.
pub fn stopped_by(state: SessionState, stop: &Stop) -> SessionState {
    let bounds = FunctionBounds {
        stop: stop.clone(),
        ..Default::default()
    };
    planning::bounded(state, bounds)
}

/// A statement that has been read, and its session.
type Read = workers::Kept<(SessionState, Statement)>;

/// Everything that can be queried, where the statement asks for that.
type Known = Option<Vec<Relation>>;

/// Plans a statement over a pin and begins to compute it, on the threads for queries.
async fn computed(
    (read, known): (Read, Known),
    pin: Pin,
    stop: Stop,
) -> Result<SendableRecordBatchStream> {
    let (state, statement) = read.take()?;
    let context = SessionContext::new_with_state(state);
    // Whoever names a view computes it anew, in the session without the query's tables.
    let of_views = context.state();
    register(&context, &pin)?;
    if let Some(relations) = known {
        information::register(&context, &relations)?;
    }
    let names = ColumnNames::of(&statement);
    let plan = planned(&context.state(), statement).await?;
    read_only().verify_plan(&plan)?;
    additive::check(&plan, &answer_plans(&pin)?)?;
    stop.check()?;
    let state = context.state();
    let plan: Result<_> = workers::at_length(async {
        let plan = state.optimize(&plan_combines(plan)?)?;
        stop.check()?;
        let planner = state.query_planner();
        let planned = planner.create_physical_plan(&plan, &state).await?;
        Ok((Arc::new(plan.schema().as_arrow().clone()), planned))
    });
    let (schema, plan) = plan?;
    stop.check()?;
    let constant = largest_constant(&plan)?;
    let plan = stoppable(plan, &stop)?;
    let rows = execute_stream(plan, task_of(&context, constant))?;
    let rows = names.rename(&schema, rows);
    let views = pin.views.into_values().collect();
    Ok(naming_views(rows, of_views, views, stop))
}

/// A statement's plan. Casts that the engine takes for one column are planned apart.
async fn planned(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let planned = state.statement_to_plan(statement.clone()).await;
    let e = match planned {
        Ok(plan) => return Ok(plan),
        Err(e) => Error::from(e),
    };
    match sql::casts_apart(state, &statement, &e) {
        Some(apart) => Ok(state.statement_to_plan(apart).await?),
        None => Err(e),
    }
}

/// What a plan is executed in: with fewer rows at once where it writes out a large constant for each.
fn task_of(context: &SessionContext, constant_bytes: usize) -> Arc<TaskContext> {
    let task = context.task_ctx();
    let rows = task.session_config().batch_size();
    let most = CONSTANTS_AT_ONCE / constant_bytes.max(1);
    if most >= rows {
        return task;
    }
    let config = task.session_config().clone().with_batch_size(most.max(1));
    let task = TaskContext::from(&context.state());
    Arc::new(task.with_session_config(config))
}

fn read_only() -> SQLOptions {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}

fn register(context: &SessionContext, pin: &Pin) -> Result<()> {
    let catalog = context
        .state()
        .config_options()
        .catalog
        .default_catalog
        .clone();
    for (name, view) in &pin.views {
        let Some((schema, table)) = name.split_once('.') else {
            context.register_table(name.as_str(), view_table(view)?)?;
            continue;
        };
        if let Some(catalog) = context.catalog(&catalog)
            && catalog.schema(schema).is_none()
        {
            catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
        }
        context.register_table(TableReference::partial(schema, table), view_table(view)?)?;
    }
    let mut dead: Option<LogicalPlan> = None;
    for (name, topic) in &pin.topics {
        context.register_table(name.as_str(), Arc::new(FilesTable::topic(topic)?))?;
        let table: Arc<dyn TableProvider> = Arc::new(FilesTable::dead_letters(topic)?);
        let source = datafusion::datasource::provider_as_source(table);
        let scan = LogicalPlanBuilder::scan(DEAD_LETTERS, source, None)?;
        dead = Some(match dead {
            None => scan.build()?,
            Some(others) => scan.union(others)?.build()?,
        });
    }
    for (name, reference) in &pin.references {
        context.register_table(name.as_str(), reference_table(reference)?)?;
    }
    for (name, table) in &pin.plain {
        context.register_table(name.as_str(), Arc::new(FilesTable::plain(table)))?;
    }
    if let Some(plan) = dead {
        let plan = with_retries(plan, pin)?;
        context.register_table(DEAD_LETTERS, Arc::new(ViewTable::new(plan, None)))?;
    }
    Ok(())
}

/// The rows of a reference, up to the head of its topic.
fn reference_table(pin: &ReferencePin) -> Result<Arc<dyn TableProvider>> {
    let context = planning_session()?;
    let topic = FilesTable::topic(&pin.topic)?;
    context.register_table(pin.topic.topic.name.as_str(), Arc::new(topic))?;
    // Tables in memory are never waited for.
    let rows = futures::executor::block_on(context.sql(&pin.reference.sql()))?;
    let plan = rows.into_unoptimized_plan();
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Dead letters, with when each was last retried.
fn with_retries(dead: LogicalPlan, pin: &Pin) -> Result<LogicalPlan> {
    let dead = LogicalPlanBuilder::from(dead).alias(DEAD_LETTERS)?;
    let names = dead_letter_schema();
    let mut columns = Vec::new();
    for name in names.fields().iter().map(|f| f.name().as_str()) {
        let column = Expr::Column(Column::new(Some(DEAD_LETTERS), name));
        match name {
            // As text, which it mostly is, and as it came.
            "raw" => {
                columns.push(text_lossy().call(vec![column.clone()]).alias("raw"));
                columns.push(column.alias("raw_bytes"));
            }
            _ => columns.push(column.alias(name)),
        }
    }
    let Some(retries) = pin.plain.get(layout::DEAD_LETTER_RETRIES) else {
        let never = ScalarValue::Null.cast_to(&timestamp_type())?;
        columns.push(lit(never).alias("retried_at"));
        return Ok(dead.project(columns)?.build()?);
    };
    let place = ["topic", PARTITION, OFFSET];
    let table: Arc<dyn TableProvider> = Arc::new(FilesTable::plain(retries));
    let source = datafusion::datasource::provider_as_source(table);
    let retries = LogicalPlanBuilder::scan(layout::DEAD_LETTER_RETRIES, source, None)?
        .aggregate(
            place.map(ident),
            [max(ident("retried_at")).alias("retried_at")],
        )?
        .alias("retries")?
        .build()?;
    let keys = |of: &str| place.map(|name| Column::new(Some(of), name)).to_vec();
    let on = (keys(DEAD_LETTERS), keys("retries"));
    columns.push(Expr::Column(Column::new(Some("retries"), "retried_at")).alias("retried_at"));
    Ok(dead
        .join(retries, JoinType::Left, on, None)?
        .project(columns)?
        .build()?)
}

/// What the views' own SQL does, over their leaves.
fn answer_plans(pin: &Pin) -> Result<Vec<LogicalPlan>> {
    pin.views.values().map(answer_plan).collect()
}

fn answer_plan(pin: &ViewPin) -> Result<LogicalPlan> {
    let leaf = Arc::new(MergedLeaf::new(Arc::new(pin.clone())));
    pin.view.answer_plan(leaf)
}

fn view_table(pin: &ViewPin) -> Result<Arc<dyn TableProvider>> {
    let plan = answer_plan(pin)?;
    Ok(Arc::new(ViewTable::new(
        plan,
        Some(pin.view.definition().sql.clone()),
    )))
}

/// How fresh an answer is, in one line.
fn freshness(pin: &Pin, mode: ReadMode) -> String {
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
