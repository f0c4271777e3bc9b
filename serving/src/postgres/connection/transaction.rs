//! What a session keeps over its statements: transactions with their savepoints, settings, cursors.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::ast::Expr;
use pgwire::messages::startup::ParameterStatus;
use tokio::io::AsyncWrite;

use super::{Connection, Cursor, MOST_KEPT, Open, no_cursor, no_statement, too_many};
use crate::postgres::catalogue::Catalogue;
use crate::postgres::commands::{Command, Isolation};
use crate::postgres::fault::Fault;
use crate::postgres::rows::Rows;

impl<W: AsyncWrite + Unpin + Send> Connection<W> {
    /// Does what a statement asks that is no query; gives the rows of those that have some.
    pub(super) async fn act(&mut self, command: &Command) -> Result<Option<Rows>, Fault> {
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
            Command::Prepare { name, types, query } => self.prepare(name, types, query).await?,
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
            } => self.declare(cursor, *is_held, (query, &[])).await?,
            Command::Close(None) => self.cursors.clear(),
            Command::Close(Some(name)) => {
                if self.cursors.remove(name).is_none() {
                    return Err(no_cursor(name));
                }
            }
            Command::Query | Command::Execute { .. } | Command::Fetch(_) | Command::Copy { .. } => {
                return Err(Error::Internal("no command of the session".to_owned()).into());
            }
        }
        Ok(None)
    }

    pub(super) fn opened(&mut self, what: &str) -> Result<&mut Open, Fault> {
        let none = || Fault::coded("25P01", format!("{what} stands in transactions alone"));
        self.open.as_mut().ok_or_else(none)
    }

    pub(super) fn begin(&mut self, isolation: Option<Isolation>) -> Result<(), Fault> {
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
    pub(super) fn end(&mut self, is_rollback: bool) -> Result<(), Fault> {
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
    pub(super) fn end_implicit(&mut self) {
        if self.open.is_none() {
            self.portals.clear();
            self.cursors.retain(|_, cursor| cursor.is_held);
        }
    }

    pub(super) fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        is_local: bool,
    ) -> Result<(), Fault> {
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

    pub(super) fn reset_all(&mut self) -> Result<(), Fault> {
        self.settings.reset_all();
        self.apply_settings();
        self.report_all()
    }

    pub(super) fn report_all(&mut self) -> Result<(), Fault> {
        for (name, value) in self.settings.reported() {
            self.put(&ParameterStatus::new(name.to_owned(), value))?;
        }
        Ok(())
    }

    pub(super) fn apply_settings(&mut self) {
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

    pub(super) async fn declare(
        &mut self,
        name: &str,
        is_held: bool,
        (query, values): (&str, &[Expr]),
    ) -> Result<(), Fault> {
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
        let mut rows = self.execute(query, values).await?;
        if is_held && !rows.is_endless() {
            let memory = self.session.service().memory_pool().clone();
            rows = self.guard().run(rows.kept(&memory)).await?;
        }
        self.cursors
            .insert(name.to_owned(), Cursor { rows, is_held });
        Ok(())
    }
}

fn savepoint(open: &Open, name: &str) -> Result<usize, Fault> {
    let at = open.savepoints.iter().rposition(|known| known == name);
    at.ok_or_else(|| Fault::coded("3B001", format!("there is no savepoint `{name}`")))
}
