//! A session over PostgreSQL's protocol: its messages in their order, what it keeps between them, and
//! what its client is told. Statements are planned when they are executed, never when they are
//! prepared. Rows are written as they are computed, and no more is computed than the client takes.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, ReadMode, Result, Stop};
use arrow::datatypes::{DataType, Schema};
use bytes::{Bytes, BytesMut};
use datafusion::sql::sqlparser::ast::Expr;
use parking_lot::Mutex;
use pgwire::messages::Message;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::ParameterStatus;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::catalogue::Catalogue;
use super::cells::{Cells, Form};
use super::commands::{Command, CopyFormat, Isolation, command, parts};
use super::fault::{Fault, notice};
use super::frames::{Frame, Target};
use super::rows::{Rows, Writing, description, forms};
use super::settings::Settings;
use super::types::{self, ColumnType, by_oid, column_type};
use super::values::expression;
use crate::identity::{Identity, Users};
use crate::parameters::list_of;
use crate::session::Session;

/// Bytes that are collected before they are sent.
const SEND_FROM: usize = 32 << 10;

/// Prepared statements, portals and cursors that a session may have, of each.
const MOST_KEPT: usize = 1_000;

/// How often a session that waits looks whether its portals have to end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The end of what a session does now, asked for from outside.
#[derive(Debug, Default)]
pub(super) struct Interrupt(Mutex<Option<CancellationToken>>);

impl Interrupt {
    /// Ends what the session does now, if it does anything.
    pub(super) fn interrupt(&self) {
        if let Some(token) = self.0.lock().as_ref() {
            token.cancel();
        }
    }

    fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.0.lock() = Some(token.clone());
        token
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

/// Waits for work as long as its client does.
struct Guard {
    cancelled: CancellationToken,
    gone: CancellationToken,
}

impl Guard {
    async fn run<T, E: Into<Fault>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Fault> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Fault::Gone),
            () = self.cancelled.cancelled() => Err(Fault::coded("57014", "the query was cancelled by its client")),
            done = work => done.map_err(Into::into),
        }
    }
}

/// A prepared statement.
#[derive(Clone, Debug)]
struct Prepared {
    text: String,
    command: Command,
    /// The types of parameters that its client states; none for those that it leaves open.
    stated: Vec<Option<ColumnType>>,
    /// What was told of it.
    described: Option<Described>,
}

#[derive(Clone, Debug)]
struct Described {
    parameters: Vec<DataType>,
    schema: Arc<Schema>,
}

/// A statement with its values.
struct Portal {
    prepared: Prepared,
    values: Vec<Expr>,
    codes: Vec<i16>,
    stage: Stage,
}

enum Stage {
    Bound,
    Running(Rows, Vec<Form>),
    /// All of it was sent.
    Done,
    /// It took longer than it may.
    Ended(&'static str),
}

/// A cursor, and whether it outlives its transaction.
struct Cursor {
    rows: Rows,
    is_held: bool,
}

/// What belongs to an open transaction.
struct Open {
    has_failed: bool,
    savepoints: Vec<String>,
    /// The settings before it, for a roll-back.
    before: Settings,
    /// Settings that end with it, and their values before.
    locals: Vec<(String, String)>,
    isolation: Isolation,
}

/// What ends a session besides its client.
pub(super) struct Ended {
    /// The daemon stops.
    pub(super) closing: CancellationToken,
    /// Its user is no user any more.
    pub(super) users: Option<Arc<Users>>,
}

impl Ended {
    /// Waits until somebody may not ask any more.
    async fn revoked(&self, identity: &Identity) {
        match &self.users {
            Some(users) => users.ended(identity).await,
            None => std::future::pending().await,
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) user: String,
    pub(super) database: String,
    /// The number by which its session is known.
    pub(super) process: i32,
}

/// A session over one connection.
pub(super) struct Connection<W> {
    writer: W,
    out: BytesMut,
    session: Session,
    settings: Settings,
    asker: Asker,
    open: Option<Open>,
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
    cursors: HashMap<String, Cursor>,
    /// After an error all messages up to the next Sync are passed over.
    is_skipping: bool,
    interrupt: Arc<Interrupt>,
    gone: CancellationToken,
    cancelled: CancellationToken,
}

impl<W: AsyncWrite + Unpin + Send> Connection<W> {
    pub(super) fn new(
        writer: W,
        session: Session,
        (settings, asker): (Settings, Asker),
        interrupt: Arc<Interrupt>,
        gone: CancellationToken,
    ) -> Self {
        Self {
            writer,
            out: BytesMut::new(),
            session,
            settings,
            asker,
            open: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            cursors: HashMap::new(),
            is_skipping: false,
            interrupt,
            gone,
            cancelled: CancellationToken::new(),
        }
    }

    /// Answers messages until the client leaves, or the daemon closes.
    pub(super) async fn run(mut self, mut frames: mpsc::Receiver<Result<Frame>>, ended: Ended) {
        self.apply_settings();
        let identity = self.session.identity().clone();
        let mut revoked = pin!(ended.revoked(&identity));
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let frame = tokio::select! {
                biased;
                () = ended.closing.cancelled() => {
                    self.refuse(&Fault::coded("57P01", "the daemon stops")).await;
                    return;
                }
                () = &mut revoked => {
                    let text = "the secret of the session's user opens nothing any more";
                    self.refuse(&Fault::coded("57P01", text)).await;
                    return;
                }
                _ = look.tick() => {
                    self.end_what_is_late();
                    // What the user may do may have changed.
                    if let Some(now) = ended.users.as_ref().and_then(|u| u.now(&identity)) {
                        self.session.set_identity(now);
                    }
                    continue;
                }
                frame = frames.recv() => frame,
            };
            let frame = match frame {
                None | Some(Ok(Frame::Terminate)) => return,
                Some(Err(e)) => {
                    let fault = match e {
                        Error::Invalid(text) => Fault::coded("08P01", text),
                        e => Fault::Ours(e),
                    };
                    self.refuse(&fault).await;
                    return;
                }
                Some(Ok(frame)) => frame,
            };
            self.cancelled = self.interrupt.begin();
            let answered = tokio::select! {
                answered = self.answer(frame) => answered,
                // In the middle of an answer nothing else can be told.
                () = &mut revoked => Err(Fault::Gone),
            };
            self.interrupt.end();
            if answered.is_err() {
                return;
            }
        }
    }

    /// Says why the connection ends.
    async fn refuse(&mut self, fault: &Fault) {
        self.put(&fault.response("FATAL", "", 0)).ok();
        // Whoever does not listen is not waited for.
        tokio::time::timeout(LOOK_EVERY, self.send()).await.ok();
    }

    /// Rows that were begun and not read in time don't hold their query's place.
    fn end_what_is_late(&mut self) {
        let is_late = |rows: &Rows| rows.stop().is_some_and(|stop| stop.reason().is_some());
        for portal in self.portals.values_mut() {
            if matches!(&portal.stage, Stage::Running(rows, _) if is_late(rows)) {
                portal.stage = Stage::Ended(
                    "the rows of the portal were not read in time (`timeout` in `[query]`)",
                );
            }
        }
        self.cursors.retain(|_, cursor| !is_late(&cursor.rows));
    }

    /// One message. An error means that there is no client any more.
    async fn answer(&mut self, frame: Frame) -> Result<(), Fault> {
        match frame {
            Frame::Sync => {
                self.is_skipping = false;
                self.end_implicit();
                self.ready().await
            }
            _ if self.is_skipping => Ok(()),
            Frame::Query(text) => self.simple(&text).await,
            Frame::Flush => self.send().await,
            frame => match self.extended(frame).await {
                Ok(()) => Ok(()),
                Err((Fault::Gone, _)) => Err(Fault::Gone),
                Err((fault, text)) => {
                    self.failed(&fault, &text, 0)?;
                    self.is_skipping = true;
                    self.send().await
                }
            },
        }
    }

    fn guard(&self) -> Guard {
        Guard {
            cancelled: self.cancelled.clone(),
            gone: self.gone.clone(),
        }
    }

    fn put(&mut self, message: &impl Message) -> Result<(), Fault> {
        message
            .encode(&mut self.out)
            .map_err(|e| Error::Internal(format!("a message can't be written: {e}")).into())
    }

    /// Sends what was collected.
    async fn send(&mut self) -> Result<(), Fault> {
        let sent = tokio::select! {
            () = self.gone.cancelled() => return Err(Fault::Gone),
            sent = self.writer.write_all_buf(&mut self.out) => sent,
        };
        sent.map_err(|_| Fault::Gone)?;
        self.writer.flush().await.map_err(|_| Fault::Gone)
    }

    /// As [`Connection::send`], while rows are computed. A client that does not take them in time is
    /// left: what it has got of a message can't be taken back.
    async fn send_beside(&mut self, stop: Option<&Stop>) -> Result<(), Fault> {
        let Some(stop) = stop else {
            return self.send().await;
        };
        tokio::select! {
            sent = self.send() => sent,
            _ = stop.stopped() => Err(Fault::Gone),
        }
    }

    async fn ready(&mut self) -> Result<(), Fault> {
        let status = match &self.open {
            None => TransactionStatus::Idle,
            Some(open) if open.has_failed => TransactionStatus::Error,
            Some(_) => TransactionStatus::Transaction,
        };
        self.put(&ReadyForQuery::new(status))?;
        self.send().await
    }

    /// What a failed statement leaves.
    fn failed(&mut self, fault: &Fault, text: &str, at: usize) -> Result<(), Fault> {
        if let Fault::Ours(e) = fault {
            let kind = e.kind();
            if matches!(
                kind,
                anabranch_shared::ErrorKind::Internal | anabranch_shared::ErrorKind::Corrupt
            ) {
                tracing::error!(error = %e, "query failed");
            }
        }
        if let Some(open) = &mut self.open {
            open.has_failed = true;
        }
        self.put(&fault.response("ERROR", text, at))
    }

    fn notice(&mut self, severity: &str, state: &str, text: &str) -> Result<(), Fault> {
        let least = self.settings.get("client_min_messages").unwrap_or_default();
        let is_wanted = match least.as_str() {
            "warning" => severity != "NOTICE",
            "error" | "fatal" | "panic" => false,
            _ => true,
        };
        match is_wanted {
            true => self.put(&notice(severity, state, text)),
            false => Ok(()),
        }
    }

    /// A text of statements.
    async fn simple(&mut self, text: &str) -> Result<(), Fault> {
        let parts = parts(text);
        if parts.is_empty() {
            self.put(&EmptyQueryResponse::new())?;
        }
        for part in parts {
            match self.statement(&part.text).await {
                Ok(()) => {}
                Err(Fault::Gone) => return Err(Fault::Gone),
                Err(fault) => {
                    self.failed(&fault, &part.text, part.at)?;
                    break;
                }
            }
        }
        self.end_implicit();
        self.ready().await
    }

    /// One of them.
    async fn statement(&mut self, text: &str) -> Result<(), Fault> {
        let command = command(text)?;
        self.check_open(&command)?;
        match command {
            Command::Query => {
                let mut rows = self.execute(text, &[]).await?;
                let forms = forms(&[], rows.schema().fields().len())?;
                self.put(&description(rows.schema(), &forms))?;
                let mut writing = Writing::Rows(forms);
                let (sent, _) = self.write(&mut rows, &mut writing, usize::MAX).await?;
                self.complete("SELECT", Some(sent))
            }
            Command::Fetch {
                cursor,
                rows,
                is_move,
            } => self.fetch(&cursor, rows, is_move, true).await,
            Command::Copy { query, format } => self.copy(&query, &[], format).await,
            command => {
                if let Some(mut rows) = self.act(&command).await? {
                    let forms = forms(&[], rows.schema().fields().len())?;
                    self.put(&description(rows.schema(), &forms))?;
                    self.write(&mut rows, &mut Writing::Rows(forms), usize::MAX)
                        .await?;
                }
                self.complete(command.tag(), None)
            }
        }
    }

    /// In a failed transaction only its end is of use.
    fn check_open(&self, command: &Command) -> Result<(), Fault> {
        let has_failed = self.open.as_ref().is_some_and(|open| open.has_failed);
        let ends = matches!(
            command,
            Command::Commit | Command::Rollback | Command::RollbackTo(_)
        );
        match has_failed && !ends {
            true => Err(Fault::coded(
                "25P02",
                "the transaction has failed, and what follows is refused until it ends: `ROLLBACK`",
            )),
            false => Ok(()),
        }
    }

    /// Begins to answer a query.
    async fn execute(&mut self, text: &str, values: &[Expr]) -> Result<Rows, Fault> {
        let answer = self.guard().run(self.session.execute(text, values)).await?;
        let rows = Rows::of(answer);
        for note in rows.notes() {
            self.notice("NOTICE", "00000", note)?;
        }
        if self.session.reading.mode == ReadMode::Batch && !rows.freshness().is_empty() {
            let freshness = rows.freshness().to_owned();
            self.notice("NOTICE", "00000", &freshness)?;
        }
        Ok(rows)
    }

    /// Sends at most so many rows. Returns how many, and whether there may be more.
    async fn write(
        &mut self,
        rows: &mut Rows,
        writing: &mut Writing,
        most: usize,
    ) -> Result<(usize, bool), Fault> {
        let (guard, stop) = (self.guard(), rows.stop().cloned());
        let mut sent = 0;
        while sent < most {
            let Some(batch) = guard.run(rows.next(most - sent)).await? else {
                return Ok((sent, false));
            };
            let columns: Vec<Cells> = batch
                .columns()
                .iter()
                .map(Cells::new)
                .collect::<Result<_>>()?;
            for row in 0..batch.num_rows() {
                writing.write(&columns, row, &mut self.out)?;
                if self.out.len() >= SEND_FROM {
                    self.send_beside(stop.as_ref()).await?;
                }
            }
            sent += batch.num_rows();
        }
        Ok((sent, true))
    }

    fn complete(&mut self, tag: &str, rows: Option<usize>) -> Result<(), Fault> {
        let tag = match rows {
            Some(rows) => format!("{tag} {rows}"),
            None => tag.to_owned(),
        };
        self.put(&CommandComplete::new(tag))
    }

    async fn copy(
        &mut self,
        query: &str,
        values: &[Expr],
        format: CopyFormat,
    ) -> Result<(), Fault> {
        let mut rows = self.execute(query, values).await?;
        let schema = rows.schema().clone();
        let columns = schema.fields().len() as i16;
        let code = i16::from(format == CopyFormat::Binary);
        let codes = vec![code; schema.fields().len()];
        self.put(&CopyOutResponse::new(code as i8, columns, codes))?;
        let mut writing = Writing::Copy(format, Vec::new());
        writing.begin(&schema, &mut self.out);
        let (sent, _) = self.write(&mut rows, &mut writing, usize::MAX).await?;
        writing.end(&mut self.out);
        self.put(&CopyDone::new())?;
        self.complete("COPY", Some(sent))
    }

    async fn fetch(
        &mut self,
        name: &str,
        rows: Option<u64>,
        is_move: bool,
        is_described: bool,
    ) -> Result<(), Fault> {
        let Some(mut cursor) = self.cursors.remove(name) else {
            return Err(no_cursor(name));
        };
        let most = rows.map_or(usize::MAX, |rows| {
            usize::try_from(rows).unwrap_or(usize::MAX)
        });
        let columns = cursor.rows.schema().fields().len();
        let mut sent = 0;
        if is_move {
            let guard = self.guard();
            while sent < most
                && let Some(batch) = guard.run(cursor.rows.next(most - sent)).await?
            {
                sent += batch.num_rows();
            }
        } else {
            let forms = forms(&[], columns)?;
            if is_described {
                self.put(&description(cursor.rows.schema(), &forms))?;
            }
            let mut writing = Writing::Rows(forms);
            (sent, _) = self.write(&mut cursor.rows, &mut writing, most).await?;
        }
        self.cursors.insert(name.to_owned(), cursor);
        let tag = match is_move {
            true => "MOVE",
            false => "FETCH",
        };
        self.complete(tag, Some(sent))
    }

    /// Does what a statement asks that is no query; gives the rows of those that have some.
    async fn act(&mut self, command: &Command) -> Result<Option<Rows>, Fault> {
        match command {
            Command::Empty | Command::Unlisten | Command::DiscardNothing => {}
            Command::Begin(isolation) => self.begin(*isolation)?,
            Command::Commit => self.end(false)?,
            Command::Rollback => self.end(true)?,
            Command::Savepoint(name) => {
                self.opened("SAVEPOINT")?.savepoints.push(name.clone());
            }
            Command::Release(name) => {
                let open = self.opened("RELEASE SAVEPOINT")?;
                let at = savepoint(open, name)?;
                open.savepoints.truncate(at);
            }
            Command::RollbackTo(name) => {
                let open = self.opened("ROLLBACK TO SAVEPOINT")?;
                let at = savepoint(open, name)?;
                open.savepoints.truncate(at + 1);
                open.has_failed = false;
            }
            Command::SetTransaction(isolation) => {
                let open = self.opened("SET TRANSACTION")?;
                if let Some(isolation) = isolation {
                    open.isolation = *isolation;
                    match isolation {
                        Isolation::RepeatableRead => self.session.hold(),
                        Isolation::ReadCommitted => self.session.let_go(),
                    }
                }
            }
            Command::SetTransactions(isolation) => {
                if let Some(isolation) = isolation {
                    let name = "default_transaction_isolation";
                    self.settings.set(name, Some(isolation.text()))?;
                }
            }
            Command::Set {
                name,
                value,
                is_local,
            } => self.set(name, value.as_deref(), *is_local)?,
            Command::Reset(name) => self.set(name, None, false)?,
            Command::ResetAll => self.reset_all()?,
            Command::Show(name) => {
                let value = match (name.as_str(), &self.open) {
                    ("transaction_isolation", Some(open)) => open.isolation.text().to_owned(),
                    _ => self.settings.get(name)?,
                };
                return Ok(Some(Rows::of_texts(&[name], &[vec![value]])?));
            }
            Command::ShowAll => {
                let all = self.settings.all().into_iter();
                let rows: Vec<_> = all.map(|(name, v)| vec![name.to_owned(), v]).collect();
                return Ok(Some(Rows::of_texts(&["name", "setting"], &rows)?));
            }
            Command::DiscardAll => {
                if self.open.is_some() {
                    return Err(Fault::coded(
                        "25001",
                        "DISCARD ALL can't stand in a transaction",
                    ));
                }
                self.reset_all()?;
                self.statements.clear();
                self.portals.clear();
                self.cursors.clear();
            }
            Command::Deallocate(None) => self.statements.clear(),
            Command::Deallocate(Some(name)) => {
                if self.statements.remove(name).is_none() {
                    return Err(no_statement(name));
                }
            }
            Command::Declare {
                cursor,
                is_held,
                query,
            } => self.declare(cursor, *is_held, query).await?,
            Command::Close(None) => self.cursors.clear(),
            Command::Close(Some(name)) => {
                if self.cursors.remove(name).is_none() {
                    return Err(no_cursor(name));
                }
            }
            Command::Query | Command::Fetch { .. } | Command::Copy { .. } => {
                return Err(Error::Internal("no command of the session".to_owned()).into());
            }
        }
        Ok(None)
    }

    fn opened(&mut self, what: &str) -> Result<&mut Open, Fault> {
        let none = || Fault::coded("25P01", format!("{what} stands in transactions alone"));
        self.open.as_mut().ok_or_else(none)
    }

    fn begin(&mut self, isolation: Option<Isolation>) -> Result<(), Fault> {
        if self.open.is_some() {
            return self.notice("WARNING", "25001", "there is a transaction already");
        }
        let default = match self.settings.get("default_transaction_isolation")?.as_str() {
            "repeatable read" | "serializable" => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        };
        let isolation = isolation.unwrap_or(default);
        if isolation == Isolation::RepeatableRead {
            self.session.hold();
        }
        self.open = Some(Open {
            has_failed: false,
            savepoints: vec![],
            before: self.settings.clone(),
            locals: vec![],
            isolation,
        });
        Ok(())
    }

    /// The end of a transaction, good or bad.
    fn end(&mut self, is_rollback: bool) -> Result<(), Fault> {
        let Some(open) = self.open.take() else {
            return self.notice("WARNING", "25P01", "there is no transaction");
        };
        self.session.let_go();
        self.portals.clear();
        self.cursors.retain(|_, cursor| cursor.is_held);
        if is_rollback || open.has_failed {
            self.settings = open.before;
            self.apply_settings();
            return self.report_all();
        }
        for (name, value) in open.locals.into_iter().rev() {
            self.set(&name, Some(&value), false)?;
        }
        Ok(())
    }

    /// Without a transaction a portal lives until the next Sync.
    fn end_implicit(&mut self) {
        if self.open.is_none() {
            self.portals.clear();
            self.cursors.retain(|_, cursor| cursor.is_held);
        }
    }

    fn set(&mut self, name: &str, value: Option<&str>, is_local: bool) -> Result<(), Fault> {
        if is_local {
            let before = self.settings.get(name)?;
            match &mut self.open {
                Some(open) => open.locals.push((name.to_owned(), before)),
                None => {
                    return self.notice(
                        "WARNING",
                        "25P01",
                        "SET LOCAL stands in transactions alone, and does nothing here",
                    );
                }
            }
        }
        let told = self.settings.set(name, value).map_err(|e| match e {
            Error::NotFound(text) => Fault::coded("42704", text),
            Error::Invalid(text) => Fault::coded("22023", text),
            e => e.into(),
        })?;
        self.apply_settings();
        match told {
            Some((name, value)) => self.put(&ParameterStatus::new(name.to_owned(), value)),
            None => Ok(()),
        }
    }

    fn reset_all(&mut self) -> Result<(), Fault> {
        self.settings.reset_all();
        self.apply_settings();
        self.report_all()
    }

    fn report_all(&mut self) -> Result<(), Fault> {
        for (name, value) in self.settings.reported() {
            self.put(&ParameterStatus::new(name.to_owned(), value))?;
        }
        Ok(())
    }

    fn apply_settings(&mut self) {
        self.session.reading = self.settings.reading();
        self.session.timeout = self.settings.statement_timeout();
        self.session.dialect = Some(Arc::new(Catalogue {
            user: self.asker.user.clone(),
            database: self.asker.database.clone(),
            process: self.asker.process,
            settings: self.settings.all(),
            search_path: self.settings.get("search_path").unwrap_or_default(),
        }));
    }

    async fn declare(&mut self, name: &str, is_held: bool, query: &str) -> Result<(), Fault> {
        if !is_held && self.open.is_none() {
            return Err(Fault::coded(
                "25P01",
                "a cursor lives in a transaction: begin one, or declare it WITH HOLD",
            ));
        }
        if self.cursors.contains_key(name) {
            return Err(Fault::coded("42P03", format!("there is a cursor `{name}`")));
        }
        if self.cursors.len() >= MOST_KEPT {
            return Err(too_many("cursors"));
        }
        let mut rows = self.execute(query, &[]).await?;
        if is_held {
            let memory = self.session.service().memory_pool().clone();
            rows = self.guard().run(rows.kept(&memory)).await?;
        }
        self.cursors
            .insert(name.to_owned(), Cursor { rows, is_held });
        Ok(())
    }

    /// A message of the extended protocol. An error comes with the text of its statement.
    async fn extended(&mut self, frame: Frame) -> Result<(), (Fault, String)> {
        match frame {
            Frame::Parse { name, sql, types } => {
                self.parse(name, &sql, &types).map_err(|fault| (fault, sql))
            }
            Frame::Bind {
                portal,
                statement,
                forms,
                values,
                result_forms,
            } => {
                let text = self.statements.get(&statement).map(|p| p.text.clone());
                self.bind(portal, &statement, &forms, &values, result_forms)
                    .await
                    .map_err(|fault| (fault, text.unwrap_or_default()))
            }
            Frame::Describe(Target::Statement(name)) => {
                let text = self.statements.get(&name).map(|p| p.text.clone());
                self.describe_statement(&name)
                    .await
                    .map_err(|fault| (fault, text.unwrap_or_default()))
            }
            Frame::Describe(Target::Portal(name)) => {
                let text = self.portals.get(&name).map(|p| p.prepared.text.clone());
                self.describe_portal(&name)
                    .await
                    .map_err(|fault| (fault, text.unwrap_or_default()))
            }
            Frame::Execute { portal, most } => {
                let text = self.portals.get(&portal).map(|p| p.prepared.text.clone());
                self.execute_portal(&portal, most)
                    .await
                    .map_err(|fault| (fault, text.unwrap_or_default()))
            }
            Frame::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.statements.remove(&name)),
                    Target::Portal(name) => {
                        self.portals.remove(&name);
                        self.cursors.remove(&name);
                    }
                }
                self.put(&CloseComplete::new())
                    .map_err(|fault| (fault, String::new()))
            }
            // Data after a COPY that was refused.
            Frame::Copy => Ok(()),
            Frame::Query(_) | Frame::Sync | Frame::Flush | Frame::Terminate => Err((
                Error::Internal("no message of the extended protocol".to_owned()).into(),
                String::new(),
            )),
        }
    }

    fn parse(&mut self, name: String, sql: &str, oids: &[u32]) -> Result<(), Fault> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Fault::coded(
                "42P05",
                format!("there is a prepared statement `{name}`"),
            ));
        }
        if self.statements.len() >= MOST_KEPT {
            return Err(too_many("prepared statements"));
        }
        let mut parts = parts(sql).into_iter();
        let (first, second) = (parts.next(), parts.next());
        if second.is_some() {
            return Err(Fault::coded(
                "42601",
                "a prepared statement is one statement; these are several",
            ));
        }
        let text = first.map(|part| part.text).unwrap_or_default();
        let command = command(&text)?;
        self.check_open(&command)?;
        let stated = oids.iter().map(|oid| by_oid(*oid));
        // What says nothing is as good as nothing.
        let stated = stated.map(|t| t.filter(|t| t.item != types::UNKNOWN));
        let prepared = Prepared {
            text,
            command,
            stated: stated.collect(),
            described: None,
        };
        self.statements.insert(name, prepared);
        self.put(&ParseComplete::new())
    }

    /// What is known of a prepared statement.
    async fn described(&mut self, name: &str) -> Result<Prepared, Fault> {
        let Some(prepared) = self.statements.get(name) else {
            return Err(no_statement(name));
        };
        let mut prepared = prepared.clone();
        self.check_open(&prepared.command)?;
        let query = match &prepared.command {
            Command::Query => prepared.text.clone(),
            Command::Copy { query, .. } => query.clone(),
            _ => return Ok(prepared),
        };
        if prepared.described.is_some() {
            return Ok(prepared);
        }
        let stated = prepared.stated.iter().map(|stated| {
            let stated = (*stated)?;
            let item = types::arrow_type(stated.item)?;
            Some(match stated.is_list {
                true => list_of(&item),
                false => item,
            })
        });
        let stated: Vec<Option<DataType>> = stated.collect();
        let told = self
            .guard()
            .run(self.session.prepare(&query, &stated))
            .await?;
        prepared.described = Some(Described {
            parameters: told.parameters,
            schema: told.schema,
        });
        self.statements.insert(name.to_owned(), prepared.clone());
        Ok(prepared)
    }

    async fn bind(
        &mut self,
        portal: String,
        statement: &str,
        codes: &[i16],
        values: &[Option<Bytes>],
        result_codes: Vec<i16>,
    ) -> Result<(), Fault> {
        let Some(prepared) = self.statements.get(statement) else {
            return Err(no_statement(statement));
        };
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Fault::coded(
                "42P03",
                format!("there is a portal `{portal}`"),
            ));
        }
        if self.portals.len() >= MOST_KEPT {
            return Err(too_many("portals"));
        }
        let takes_values = matches!(prepared.command, Command::Query | Command::Copy { .. });
        // `$` is in every parameter.
        let prepared = match takes_values && (prepared.text.contains('$') || !values.is_empty()) {
            true => self.described(statement).await?,
            false => prepared.clone(),
        };
        self.check_open(&prepared.command)?;
        let wanted = prepared
            .described
            .as_ref()
            .map_or(0, |d| d.parameters.len());
        let is_told = prepared.described.is_some() || !takes_values;
        if is_told && wanted != values.len() {
            return Err(Fault::coded(
                "08P01",
                format!(
                    "the statement has {wanted} parameters, and {} values came",
                    values.len()
                ),
            ));
        }
        let value_forms = forms(codes, values.len())?;
        let mut expressions = Vec::with_capacity(values.len());
        if let Some(described) = &prepared.described {
            let all = described.parameters.iter().zip(values).zip(value_forms);
            for (nth, ((data_type, value), form)) in (1..).zip(all) {
                let stated = prepared.stated.get(nth - 1).copied().flatten();
                let wire = stated.unwrap_or_else(|| column_type(data_type));
                let value = expression(nth, wire, data_type, form, value.as_ref());
                expressions.push(value.map_err(|e| match e {
                    Error::Invalid(text) => Fault::coded("22P03", text),
                    e => e.into(),
                })?);
            }
        }
        let bound = Portal {
            prepared,
            values: expressions,
            codes: result_codes,
            stage: Stage::Bound,
        };
        self.portals.insert(portal, bound);
        self.put(&BindComplete::new())
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Fault> {
        let prepared = self.described(name).await?;
        let stated = |nth: usize| prepared.stated.get(nth).copied().flatten();
        let parameters = prepared.described.as_ref().map(|d| d.parameters.as_slice());
        let oids = parameters.unwrap_or_default().iter().enumerate();
        let oids = oids.map(|(nth, t)| stated(nth).unwrap_or_else(|| column_type(t)).oid());
        self.put(&ParameterDescription::new(oids.collect()))?;
        let schema = match (&prepared.command, &prepared.described) {
            (Command::Query, Some(described)) => Some(described.schema.clone()),
            (command, _) => self.schema_of(command)?,
        };
        self.put_description(schema, &[])
    }

    /// The columns of what is no query.
    fn schema_of(&self, command: &Command) -> Result<Option<Arc<Schema>>, Fault> {
        Ok(match command {
            Command::Fetch {
                cursor,
                is_move: false,
                ..
            } => {
                let found = self.cursors.get(cursor).ok_or_else(|| no_cursor(cursor))?;
                Some(found.rows.schema().clone())
            }
            Command::Show(name) => Some(Rows::of_texts(&[name], &[])?.schema().clone()),
            Command::ShowAll => Some(Rows::of_texts(&["name", "setting"], &[])?.schema().clone()),
            _ => None,
        })
    }

    fn put_description(&mut self, schema: Option<Arc<Schema>>, codes: &[i16]) -> Result<(), Fault> {
        match schema {
            Some(schema) => {
                let forms = forms(codes, schema.fields().len())?;
                self.put(&description(&schema, &forms))
            }
            None => self.put(&NoData::new()),
        }
    }

    async fn describe_portal(&mut self, name: &str) -> Result<(), Fault> {
        // To the protocol a cursor is a portal, too.
        if let Some(cursor) = self.cursors.get(name) {
            let schema = cursor.rows.schema().clone();
            return self.put_description(Some(schema), &[]);
        }
        let Some(mut portal) = self.portals.remove(name) else {
            return Err(no_portal(name));
        };
        let described = self.begin_portal(&mut portal).await;
        let schema = match &portal.stage {
            Stage::Running(rows, _) => Some(rows.schema().clone()),
            _ => None,
        };
        let codes = portal.codes.clone();
        let command = portal.prepared.command.clone();
        self.portals.insert(name.to_owned(), portal);
        described?;
        let schema = match schema {
            Some(schema) => Some(schema),
            None => self.schema_of(&command)?,
        };
        self.put_description(schema, &codes)
    }

    /// Begins to answer a portal's query, if it is one and that was not done.
    async fn begin_portal(&mut self, portal: &mut Portal) -> Result<(), Fault> {
        let Prepared {
            text,
            command,
            described,
            ..
        } = &portal.prepared;
        if *command != Command::Query || !matches!(portal.stage, Stage::Bound) {
            return Ok(());
        }
        let rows = self.execute(text, &portal.values).await?;
        if let Some(described) = described
            && !is_same(&described.schema, rows.schema())
        {
            return Err(Fault::coded(
                "0A000",
                "cached plan must not change result type",
            ));
        }
        let forms = forms(&portal.codes, rows.schema().fields().len())?;
        portal.stage = Stage::Running(rows, forms);
        Ok(())
    }

    async fn execute_portal(&mut self, name: &str, most: i32) -> Result<(), Fault> {
        if let Some(mut cursor) = self.cursors.remove(name) {
            let forms = forms(&[], cursor.rows.schema().fields().len())?;
            let mut writing = Writing::Rows(forms);
            let written = self
                .write(&mut cursor.rows, &mut writing, most_rows(most))
                .await;
            self.cursors.insert(name.to_owned(), cursor);
            return match written? {
                (_, true) => self.put(&PortalSuspended::new()),
                (sent, false) => self.complete("SELECT", Some(sent)),
            };
        }
        let Some(mut portal) = self.portals.remove(name) else {
            return Err(no_portal(name));
        };
        // After an error a portal is of no more use.
        self.check_open(&portal.prepared.command)?;
        let ended = self.run_portal(&mut portal, most).await;
        // A transaction's end leaves no portal.
        if self.open.is_some()
            || !matches!(portal.prepared.command, Command::Commit | Command::Rollback)
        {
            self.portals.insert(name.to_owned(), portal);
        }
        ended
    }

    async fn run_portal(&mut self, portal: &mut Portal, most: i32) -> Result<(), Fault> {
        let most = most_rows(most);
        match portal.prepared.command.clone() {
            Command::Query => {
                self.begin_portal(portal).await?;
                let (rows, forms) = match &mut portal.stage {
                    Stage::Running(rows, forms) => (rows, forms),
                    Stage::Ended(why) => return Err(Fault::coded("57014", *why)),
                    Stage::Bound | Stage::Done => return self.complete("SELECT", Some(0)),
                };
                let mut writing = Writing::Rows(forms.clone());
                let (sent, may_go_on) = self.write(rows, &mut writing, most).await?;
                if may_go_on {
                    return self.put(&PortalSuspended::new());
                }
                portal.stage = Stage::Done;
                self.complete("SELECT", Some(sent))
            }
            Command::Empty => self.put(&EmptyQueryResponse::new()),
            Command::Fetch {
                cursor,
                rows,
                is_move,
            } => self.fetch(&cursor, rows, is_move, false).await,
            Command::Copy { query, format } => {
                let values = std::mem::take(&mut portal.values);
                self.copy(&query, &values, format).await
            }
            command => {
                if let Some(mut rows) = self.act(&command).await? {
                    let forms = forms(&portal.codes, rows.schema().fields().len())?;
                    self.write(&mut rows, &mut Writing::Rows(forms), usize::MAX)
                        .await?;
                }
                self.complete(command.tag(), None)
            }
        }
    }
}

/// How many rows a client asks for: 0 and less mean all.
fn most_rows(stated: i32) -> usize {
    let most = usize::try_from(stated).ok().filter(|most| *most > 0);
    most.unwrap_or(usize::MAX)
}

/// Whether two answers have the same columns for a client.
fn is_same(told: &Schema, found: &Schema) -> bool {
    let columns = |schema: &Schema| -> Vec<(String, u32)> {
        let of =
            |f: &Arc<arrow::datatypes::Field>| (f.name().clone(), column_type(f.data_type()).oid());
        schema.fields().iter().map(of).collect()
    };
    columns(told) == columns(found)
}

fn savepoint(open: &Open, name: &str) -> Result<usize, Fault> {
    let at = open.savepoints.iter().rposition(|known| known == name);
    at.ok_or_else(|| Fault::coded("3B001", format!("there is no savepoint `{name}`")))
}

fn no_cursor(name: &str) -> Fault {
    Fault::coded("34000", format!("there is no cursor `{name}`"))
}

fn no_portal(name: &str) -> Fault {
    Fault::coded("34000", format!("there is no portal `{name}`"))
}

fn no_statement(name: &str) -> Fault {
    Fault::coded("26000", format!("there is no prepared statement `{name}`"))
}

fn too_many(what: &str) -> Fault {
    Fault::coded(
        "54000",
        format!("a session has at most {MOST_KEPT} {what}; close some"),
    )
}
