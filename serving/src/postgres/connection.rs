//! A session over PostgreSQL's protocol: its messages in their order, what it keeps between them, and
//! what its client is told. Statements are planned when they are executed, never when they are
//! prepared. Rows are written as they are computed, and no more is computed than the client takes.

mod extended;
mod transaction;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, ReadMode, Result, Stop};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use bytes::BytesMut;
use datafusion::sql::sqlparser::ast::Expr;
use parking_lot::Mutex;
use pgwire::messages::Message;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cells::{Cells, Form};
use super::commands::{
    Command, CopyFormat, Fetch, Isolation, Subscription, command, parts, subscription,
};
use super::fault::{Fault, notice};
use super::frames::Frame;
use super::rows::{Rows, Writing, description, forms};
use super::settings::Settings;
use super::types::ColumnType;
use crate::changes::{Following, Wanted};
use crate::identity::{Identity, Users};
use crate::session::Session;

/// Bytes that are collected before they are sent.
const SEND_FROM: usize = 32 << 10;

/// Prepared statements, portals and cursors that a session may have, of each.
const MOST_KEPT: usize = 1_000;

/// What is told of a subscription that is read neither by a cursor nor by COPY: psql shows rows at their
/// end.
const FOR_EVER: &str = "rows come for ever, and many clients show them at their end alone: cancel it, and write `COPY (SUBSCRIBE …) TO STDOUT`, or `DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE …` and `FETCH ALL FROM c`";

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
    following: Arc<Following>,
    users: Option<Arc<Users>>,
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
        (session, following): (Session, Arc<Following>),
        (settings, asker): (Settings, Asker),
        interrupt: Arc<Interrupt>,
        gone: CancellationToken,
    ) -> Self {
        Self {
            writer,
            out: BytesMut::new(),
            session,
            following,
            users: None,
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
        self.users.clone_from(&ended.users);
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
            Command::Query | Command::Execute { .. } => {
                let mut rows = match &command {
                    Command::Execute { name, values } => {
                        self.execute_prepared(name, values).await?
                    }
                    _ => self.execute(text, &[]).await?,
                };
                if rows.is_endless() {
                    self.notice("NOTICE", "00000", FOR_EVER)?;
                }
                let forms = forms(&[], rows.schema().fields().len())?;
                self.put(&description(rows.schema(), &forms))?;
                let mut writing = Writing::Rows(forms);
                let (sent, _) = self.write(&mut rows, &mut writing, usize::MAX).await?;
                self.complete("SELECT", Some(sent))
            }
            Command::Fetch(fetch) => self.fetch(&fetch, None).await,
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
        if let Some(subscription) = subscription(text)? {
            return self.subscribe(&subscription).await;
        }
        let answer = self.guard().run(self.session.execute(text, values)).await?;
        let rows = Rows::of(answer);
        for note in rows.notes() {
            self.notice("NOTICE", "00000", note)?;
        }
        let reading = &self.session.reading;
        let is_past = reading.mode == ReadMode::Batch || reading.as_of.is_some();
        if is_past && !rows.freshness().is_empty() {
            let freshness = rows.freshness().to_owned();
            self.notice("NOTICE", "00000", &freshness)?;
        }
        Ok(rows)
    }

    /// Begins to follow a view.
    async fn subscribe(&mut self, wanted: &Subscription) -> Result<Rows, Fault> {
        if self.session.reading.as_of.is_some() {
            let what = "SUBSCRIBE tells what changes from now on; `RESET anabranch.as_of` first";
            return Err(Error::Invalid(what.to_owned()).into());
        }
        let (following, caller) = (self.following.clone(), self.session.caller().clone());
        let wanted = Wanted {
            view: &wanted.view,
            token: wanted.token.as_deref(),
            snapshot: wanted.snapshot,
            is_events: false,
        };
        let told = self.guard().run(following.tell(&caller, wanted)).await;
        let told = told.map_err(|fault| match fault {
            Fault::Ours(Error::NotFound(text)) => Fault::coded("42P01", text),
            fault => fault,
        })?;
        let (users, identity) = (self.users.clone(), caller.identity);
        let changed = Box::pin(async move {
            match users {
                Some(users) => users.changed(&identity).await,
                None => std::future::pending().await,
            }
        });
        Ok(Rows::told(told, changed))
    }

    /// Sends at most so many rows. Returns how many, and whether there may be more.
    async fn write(
        &mut self,
        rows: &mut Rows,
        writing: &mut Writing,
        most: usize,
    ) -> Result<(usize, bool), Fault> {
        if rows.is_endless() && most < usize::MAX {
            return Ok((self.write_told(rows, writing, most, None).await?, true));
        }
        let (guard, stop) = (self.guard(), rows.stop().cloned());
        let mut sent = 0;
        while sent < most {
            let Some(batch) = guard.run(rows.next(most - sent)).await? else {
                if let Some(receipt) = rows.receipt() {
                    self.notice("NOTICE", "00000", &receipt)?;
                }
                return Ok((sent, false));
            };
            self.write_batch(&batch, writing, stop.as_ref()).await?;
            sent += batch.num_rows();
            if rows.is_endless() {
                self.send().await?;
            }
        }
        Ok((sent, true))
    }

    /// Sends what a subscription has told and was not sent, at most so many rows; where that is nothing,
    /// what comes next within a time.
    async fn write_told(
        &mut self,
        rows: &mut Rows,
        writing: &mut Writing,
        most: usize,
        wait: Option<Duration>,
    ) -> Result<usize, Fault> {
        let guard = self.guard();
        let mut sent = 0;
        while sent < most && (sent == 0 || rows.is_ready()) {
            let next = rows.next(most - sent);
            let next = guard.run(async {
                match wait {
                    // Nothing came.
                    Some(wait) => tokio::time::timeout(wait, next).await.unwrap_or(Ok(None)),
                    None => next.await,
                }
            });
            let Some(batch) = next.await? else {
                break;
            };
            self.write_batch(&batch, writing, None).await?;
            sent += batch.num_rows();
        }
        Ok(sent)
    }

    async fn write_batch(
        &mut self,
        batch: &RecordBatch,
        writing: &mut Writing,
        stop: Option<&Stop>,
    ) -> Result<(), Fault> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let columns: Vec<Cells> = columns
            .map(|(field, column)| Cells::of(field, column))
            .collect::<Result<_>>()?;
        for row in 0..batch.num_rows() {
            writing.write(&columns, row, &mut self.out)?;
            if self.out.len() >= SEND_FROM {
                self.send_beside(stop).await?;
            }
        }
        Ok(())
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

    /// Rows of a cursor, in the forms of a portal; as texts and with their description where there is
    /// none.
    async fn fetch(&mut self, fetch: &Fetch, codes: Option<&[i16]>) -> Result<(), Fault> {
        let name = &fetch.cursor;
        if fetch.is_move && self.cursors.get(name).is_some_and(|c| c.rows.is_endless()) {
            return Err(Fault::coded(
                "0A000",
                "MOVE passes over rows that are there; of a subscription they come for ever",
            ));
        }
        let Some(mut cursor) = self.cursors.remove(name) else {
            return Err(no_cursor(name));
        };
        let most = fetch.rows.map_or(usize::MAX, |rows| {
            usize::try_from(rows).unwrap_or(usize::MAX)
        });
        let rows = &mut cursor.rows;
        let mut sent = 0;
        if fetch.is_move {
            let guard = self.guard();
            while sent < most
                && let Some(batch) = guard.run(rows.next(most - sent)).await?
            {
                sent += batch.num_rows();
            }
        } else {
            let forms = forms(codes.unwrap_or_default(), rows.schema().fields().len())?;
            if codes.is_none() {
                self.put(&description(rows.schema(), &forms))?;
            }
            let mut writing = Writing::Rows(forms);
            sent = match rows.is_endless() {
                true => {
                    self.write_told(rows, &mut writing, most, fetch.wait)
                        .await?
                }
                false => self.write(rows, &mut writing, most).await?.0,
            };
        }
        self.cursors.insert(name.clone(), cursor);
        let tag = match fetch.is_move {
            true => "MOVE",
            false => "FETCH",
        };
        self.complete(tag, Some(sent))
    }
}

fn no_cursor(name: &str) -> Fault {
    Fault::coded("34000", format!("there is no cursor `{name}`"))
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
