//! The extended protocol of a session: statements that are prepared, portals, and rows in portions.

use std::sync::Arc;

use anabranch_shared::{Error, Result, counted};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use datafusion::sql::sqlparser::ast::Expr;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::EmptyQueryResponse;
use tokio::io::AsyncWrite;

use super::{
    Connection, Described, MOST_KEPT, Portal, Prepared, Stage, no_cursor, no_statement, too_many,
};
use crate::parameters::list_of;
use crate::postgres::cells::Form;
use crate::postgres::commands::{Command, command, parts, subscription};
use crate::postgres::fault::{CACHED_PLAN, Fault};
use crate::postgres::frames::{Frame, Target};
use crate::postgres::rows::{Rows, Writing, description, forms};
use crate::postgres::subscription::schema as told;
use crate::postgres::types::{self, ColumnType, by_oid, column_type};
use crate::postgres::values::expression;

impl<W: AsyncWrite + Unpin + Send> Connection<W> {
    /// A message of the extended protocol. An error comes with the text of its statement.
    pub(super) async fn extended(&mut self, frame: Frame) -> Result<(), (Fault, String)> {
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
            return Err(already_prepared(&name));
        }
        if self.statements.len() >= MOST_KEPT {
            return Err(too_many("prepared statements"));
        }
        let stated = oids.iter().map(|oid| by_oid(*oid)).collect();
        let prepared = Prepared::read(sql, stated)?;
        self.check_open(&prepared.command)?;
        self.statements.insert(name, prepared);
        self.put(&ParseComplete::new())
    }

    /// `PREPARE` as a statement, which says at once what is wrong with it.
    pub(super) async fn prepare(
        &mut self,
        name: &str,
        types: &[Option<ColumnType>],
        query: &str,
    ) -> Result<(), Fault> {
        if self.statements.contains_key(name) {
            return Err(already_prepared(name));
        }
        if self.statements.len() >= MOST_KEPT {
            return Err(too_many("prepared statements"));
        }
        let prepared = Prepared::read(query, types.to_vec())?;
        if prepared.command != Command::Query {
            return Err(Fault::coded("42601", "PREPARE takes a query"));
        }
        self.statements.insert(name.to_owned(), prepared);
        let described = self.described(name).await;
        if described.is_err() {
            self.statements.remove(name);
        }
        described.map(drop)
    }

    /// Begins to answer a prepared statement for values that stand in an `EXECUTE`.
    pub(super) async fn execute_prepared(
        &mut self,
        name: &str,
        values: &[Option<String>],
    ) -> Result<Rows, Fault> {
        let prepared = self.described(name).await?;
        let Some(described) = &prepared.described else {
            return Err(Fault::coded("42601", "EXECUTE takes a prepared query"));
        };
        let wanted = described.parameters.len();
        if wanted != values.len() {
            return Err(Fault::coded(
                "42601",
                format!(
                    "the prepared statement `{name}` has {}, and {} given",
                    counted(wanted as u64, "parameter", "parameters"),
                    counted(values.len() as u64, "value is", "values are"),
                ),
            ));
        }
        let values: Vec<_> = values
            .iter()
            .map(|value| value.clone().map(Bytes::from))
            .collect();
        let expressions = expressions(&prepared, described, &values, &vec![Form::Text; wanted])?;
        let rows = self.execute(&prepared.text, &expressions).await?;
        match is_same(&described.schema, rows.schema()) {
            true => Ok(rows),
            false => Err(Fault::coded("0A000", CACHED_PLAN)),
        }
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
            Command::Copy { query, .. } | Command::Declare { query, .. } => query.clone(),
            _ => return Ok(prepared),
        };
        if prepared.described.is_some() {
            return Ok(prepared);
        }
        if subscription(&query)?.is_some() {
            prepared.described = Some(Described {
                parameters: Vec::new(),
                schema: told(),
            });
            self.statements.insert(name.to_owned(), prepared.clone());
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
        let takes_values = matches!(
            prepared.command,
            Command::Query | Command::Copy { .. } | Command::Declare { .. }
        );
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
        let expressions = match &prepared.described {
            Some(described) => expressions(&prepared, described, values, &value_forms)?,
            None => Vec::new(),
        };
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
            Command::Fetch(fetch) if !fetch.is_move => {
                let cursor = &fetch.cursor;
                let found = self.cursors.get(cursor).ok_or_else(|| no_cursor(cursor))?;
                Some(found.rows.schema().clone())
            }
            Command::Execute { name, .. } => {
                let found = self
                    .statements
                    .get(name)
                    .ok_or_else(|| no_statement(name))?;
                found.described.as_ref().map(|d| d.schema.clone())
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
        if !matches!(portal.stage, Stage::Bound) {
            return Ok(());
        }
        let rows = match command {
            Command::Query => self.execute(text, &portal.values).await?,
            Command::Execute { name, values } => self.execute_prepared(name, values).await?,
            _ => return Ok(()),
        };
        if let Some(described) = described
            && !is_same(&described.schema, rows.schema())
        {
            return Err(Fault::coded("0A000", CACHED_PLAN));
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
            Command::Query | Command::Execute { .. } => {
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
            Command::Fetch(fetch) => self.fetch(&fetch, Some(&portal.codes)).await,
            Command::Copy { query, format } => {
                let values = std::mem::take(&mut portal.values);
                self.copy(&query, &values, format).await
            }
            Command::Declare {
                cursor,
                is_held,
                query,
            } => {
                let values = std::mem::take(&mut portal.values);
                self.declare(&cursor, is_held, (&query, &values)).await?;
                self.complete(portal.prepared.command.tag(), None)
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

fn no_portal(name: &str) -> Fault {
    Fault::coded("34000", format!("there is no portal `{name}`"))
}

impl Prepared {
    /// One statement, with what is stated of its parameters' types.
    fn read(sql: &str, stated: Vec<Option<ColumnType>>) -> Result<Self, Fault> {
        let mut parts = parts(sql).into_iter();
        let (first, second) = (parts.next(), parts.next());
        if second.is_some() {
            return Err(Fault::coded(
                "42601",
                "a prepared statement is one statement; these are several",
            ));
        }
        let text = first.map(|part| part.text).unwrap_or_default();
        // What says nothing is as good as nothing.
        let stated = stated.into_iter();
        let stated = stated.map(|t| t.filter(|t| t.item != types::UNKNOWN));
        Ok(Self {
            command: command(&text)?,
            text,
            stated: stated.collect(),
            described: None,
        })
    }
}

/// The values of a statement's parameters as expressions of their types.
fn expressions(
    prepared: &Prepared,
    described: &Described,
    values: &[Option<Bytes>],
    forms: &[Form],
) -> Result<Vec<Expr>, Fault> {
    let all = described.parameters.iter().zip(values).zip(forms);
    let expressions = (1..).zip(all).map(|(nth, ((data_type, value), form))| {
        let stated = prepared.stated.get(nth - 1).copied().flatten();
        let wire = stated.unwrap_or_else(|| column_type(data_type));
        let value = expression(nth, wire, data_type, *form, value.as_ref());
        value.map_err(|e| match e {
            Error::Invalid(text) => Fault::coded("22P03", text),
            e => e.into(),
        })
    });
    expressions.collect()
}

fn already_prepared(name: &str) -> Fault {
    Fault::coded("42P05", format!("there is a prepared statement `{name}`"))
}
