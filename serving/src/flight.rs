//! The door that speaks Arrow Flight SQL (Arrow's documentation, "Arrow Flight SQL"): statements with
//! parameters, what there is to be queried, facts in bulk. Nothing of a statement is kept between two
//! calls: what a client is handed is all of it, see [`handle`].

mod catalogue;
mod handle;
mod options;
mod rows;
mod status;
mod taking;
mod values;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anabranch_shared::{CATALOG, Error, Relation, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
    CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
};
use axum::Router;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use prost::Message;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use self::catalogue::Catalogue;
use self::handle::Handle;
use self::options::{CloseSessionResult, Options, SetSessionOptionsRequest};
use self::rows::{Messages, messages, table, told};
use self::status::status;
pub use self::taking::{FactIntake, FactsRequest};
use self::taking::{HowTaken, take, topic};
use crate::caller::Caller;
use crate::door::Door;
use crate::identity::{Identity, basic_credentials};
use crate::reading::setting;
use crate::service::SqlService;
use crate::session::Session;

/// Where the service is, below which its calls are.
const SERVICE: &str = "/arrow.flight.protocol.FlightService/{call}";

/// Actions that `arrow-flight` leaves to a server.
const CANCEL: &str = "CancelFlightInfo";
const SET_OPTIONS: &str = "SetSessionOptions";
const GET_OPTIONS: &str = "GetSessionOptions";
const CLOSE: &str = "CloseSession";

/// The header in which facts may be let become dead letters, and that by which they may be repeated.
const STRICT: &str = "anabranch-strict";
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The door.
struct FlightDoor {
    service: Arc<SqlService>,
    intake: Arc<dyn FactIntake>,
    server: SqlInfoData,
    types: XdbcTypeInfoData,
    running: Running,
}

/// The queries whose answers are read, by the ids of their handles: for those who cancel them.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<HashMap<u64, String>>>);

/// A query's entry, until it is dropped.
struct Entry(Running, u64);

impl Running {
    fn enter(&self, handle: u64, query: &str) -> Entry {
        self.0.lock().insert(handle, query.to_owned());
        Entry(self.clone(), handle)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

/// What the door serves; messages of clients have at most so many bytes.
///
/// # Errors
/// What it says of itself can't be written, which is a defect.
pub fn flight_router(
    service: Arc<SqlService>,
    intake: Arc<dyn FactIntake>,
    max_message_bytes: usize,
) -> Result<Router> {
    let door = FlightDoor {
        service,
        intake,
        server: catalogue::server()?,
        types: catalogue::types()?,
        running: Running::default(),
    };
    let server = FlightServiceServer::new(door)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX);
    Ok(Router::new().route_service(SERVICE, server))
}

/// A refusal of a call, with one of gRPC's codes.
pub fn flight_refusal(code: i32, text: &str) -> axum::response::Response {
    status::said(code, text).into_http()
}

/// An error, as the body of a call passes it on to whoever reads it.
pub fn flight_error(e: &Error) -> impl std::error::Error + Send + Sync + 'static + use<> {
    status(e)
}

/// A call: who makes it, and what it says besides.
struct Call {
    caller: Caller,
    options: Options,
    metadata: MetadataMap,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let extensions = request.extensions();
        let identity = extensions.get::<Identity>().cloned();
        let identity = identity.ok_or_else(|| Status::unauthenticated("say who you are"))?;
        let from = extensions.get::<ConnectInfo<SocketAddr>>();
        let metadata = request.metadata().clone();
        let agent = metadata.get("user-agent").and_then(|v| v.to_str().ok());
        let agent: String = agent.unwrap_or("Flight").chars().take(100).collect();
        let program = match from {
            Some(ConnectInfo(from)) => format!("{agent} at {from}"),
            None => agent,
        };
        Ok(Self {
            caller: Caller::new(Door::Flight, program, identity),
            options: Options::of(&metadata),
            metadata,
        })
    }

    fn text(&self, header: &str) -> Option<&str> {
        self.metadata.get(header).and_then(|v| v.to_str().ok())
    }
}

impl FlightDoor {
    fn session(&self, call: &Call, options: &Options) -> Result<Session> {
        let mut session = Session::new(self.service.clone(), call.caller.clone());
        session.reading = options.reading()?;
        Ok(session)
    }

    /// What a statement takes and gives, its values bound where there are some.
    async fn described(
        &self,
        call: &Call,
        handle: &Handle,
    ) -> Result<(crate::service::Description, SchemaRef)> {
        if let Some(setting) = setting(&handle.sql) {
            setting?;
            return Err(Error::Invalid(
                "a call has no session; set `read`, `search_path`, `at_least` and `as_of` as options of the session (`SetSessionOptions`, with cookies on), or send the headers `anabranch-read`, `anabranch-search-path`, `anabranch-at-least` and `anabranch-as-of`".to_owned(),
            ));
        }
        let stated = handle.row()?.map(|row| values::types(&row));
        let mut session = self.session(call, &call.options)?;
        let description = session
            .prepare(&handle.sql, &stated.unwrap_or_default())
            .await?;
        let schema = told(&description.schema);
        Ok((description, schema))
    }

    /// Where the answer of a statement is to be had, and its columns.
    async fn info(
        &self,
        call: &Call,
        mut handle: Handle,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo> {
        handle.options = Some(call.options.clone());
        let (description, schema) = self.described(call, &handle).await?;
        let (wanted, given) = (description.parameters.len(), handle.values()?.len());
        if wanted != given {
            return Err(Error::Invalid(format!(
                "the statement has {}, and {given} came",
                anabranch_shared::counted(wanted as u64, "parameter", "parameters")
            )));
        }
        let statement_handle = handle.once(&schema).bytes();
        let ticket = TicketStatementQuery { statement_handle };
        described_as(&schema, ticket.as_any(), descriptor)
    }

    /// The answer of a statement.
    async fn answer(&self, call: &Call, handle: &Handle) -> Result<Messages> {
        let options = handle.options.as_ref().unwrap_or(&call.options);
        let mut session = self.session(call, options)?;
        let answer = session.execute(&handle.sql, &handle.values()?).await?;
        let schema = told(&answer.schema);
        handle.check(&schema)?;
        let entry = self.running.enter(handle.id, answer.id());
        messages(answer, schema, entry)
    }

    async fn prepared(
        &self,
        call: &Call,
        handle: &Handle,
    ) -> Result<ActionCreatePreparedStatementResult> {
        let (description, schema) = self.described(call, handle).await?;
        let parameters = values::schema(&description.parameters);
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.bytes(),
            dataset_schema: schema_bytes(&schema)?,
            parameter_schema: schema_bytes(&Arc::new(parameters))?,
        })
    }

    /// What the caller may read.
    async fn relations(&self, call: &Call) -> Result<Vec<Relation>> {
        let mut relations = self
            .service
            .readable(call.caller.identity().rights())
            .await?;
        relations.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        relations.dedup_by(|a, b| a.name == b.name);
        Ok(relations)
    }

    /// An answer about what there is to be read.
    async fn listed<T>(
        &self,
        request: Request<T>,
        rows: impl FnOnce(&Catalogue<'_>) -> Result<RecordBatch>,
    ) -> Result<Response<Messages>, Status> {
        let call = Call::of(&request)?;
        let relations = self.relations(&call).await.map_err(|e| status(&e))?;
        let catalogue = Catalogue {
            name: CATALOG,
            relations: &relations,
        };
        let rows = rows(&catalogue).map_err(|e| status(&e))?;
        Ok(Response::new(table(rows)))
    }

    /// Stops the query whose answer is at these places.
    fn cancel(&self, call: &Call, info: &FlightInfo) -> Result<CancelStatus> {
        let tickets = info.endpoint.iter().filter_map(|e| e.ticket.as_ref());
        let mut found = CancelStatus::NotCancellable;
        for ticket in tickets {
            let any = Any::decode(&*ticket.ticket).ok();
            let ticket = any.and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten());
            let Some(ticket) = ticket else { continue };
            let handle = Handle::read(&ticket.statement_handle)?;
            let query = self.running.0.lock().get(&handle.id).cloned();
            if let Some(query) = query {
                self.service.cancel(&query, call.caller.identity())?;
                found = CancelStatus::Cancelling;
            }
        }
        Ok(found)
    }
}

/// A schema as it stands in answers: an encapsulated message.
fn schema_bytes(schema: &SchemaRef) -> Result<Bytes> {
    let options = arrow::ipc::writer::IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options).try_into()?;
    Ok(bytes)
}

/// That an answer with these columns is had for a ticket.
fn described_as(
    schema: &SchemaRef,
    ticket: Any,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.encode_to_vec()));
    Ok(FlightInfo::new()
        .try_with_schema(schema)?
        .with_endpoint(endpoint)
        .with_descriptor(descriptor))
}

/// That the answer to a command is had for the command.
fn at_itself(
    command: Any,
    schema: &SchemaRef,
    request: Request<FlightDescriptor>,
) -> Result<Response<FlightInfo>, Status> {
    // Nobody learns what there is without being somebody.
    Call::of(&request)?;
    let info = described_as(schema, command, request.into_inner());
    info.map(Response::new).map_err(|e| status(&e))
}

/// A result of an action, and what its client is to keep.
fn result(
    body: Vec<u8>,
    cookie: Option<String>,
) -> Result<Response<BoxStream<'static, Result<arrow_flight::Result, Status>>>, Status> {
    let results = stream::iter([Ok(arrow_flight::Result::new(body))]).boxed();
    let mut response = Response::new(results);
    if let Some(cookie) = cookie {
        let cookie: MetadataValue<Ascii> = cookie
            .parse()
            .map_err(|e| status(&Error::Internal(format!("a cookie: {e}"))))?;
        response.metadata_mut().insert("set-cookie", cookie);
    }
    Ok(response)
}

fn only_read<T>() -> Result<T, Status> {
    Err(status(&Error::Invalid(
        "statements only read; facts are taken by `CommandStatementIngest` (`adbc_ingest`), over HTTP and by `anabranch ingest`".to_owned(),
    )))
}

#[tonic::async_trait]
impl FlightSqlService for FlightDoor {
    type FlightService = Self;

    /// Whoever comes with a user and a token is told to come with the token alone.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let call = Call::of(&request)?;
        let answer = HandshakeResponse::default();
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed() as Pin<Box<_>>);
        let shown = call.text("authorization");
        if let Some(shown) = shown {
            let basic = shown.strip_prefix("Basic ").and_then(basic_credentials);
            let bearer = basic.map_or(shown.to_owned(), |(_, token)| format!("Bearer {token}"));
            if let Ok(bearer) = bearer.parse::<MetadataValue<Ascii>>() {
                response.metadata_mut().insert("authorization", bearer);
            }
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let call = Call::of(&request)?;
        if query.transaction_id.is_some() {
            return Err(status(&Error::Invalid(
                "there are no transactions at this door; PostgreSQL's has them".to_owned(),
            )));
        }
        let info = self.info(&call, Handle::new(query.query), request.into_inner());
        info.await.map(Response::new).map_err(|e| status(&e))
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let call = Call::of(&request)?;
        let informed = async {
            let handle = Handle::read(&query.prepared_statement_handle)?;
            self.info(&call, handle, request.into_inner()).await
        };
        informed.await.map(Response::new).map_err(|e| status(&e))
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let call = Call::of(&request)?;
        let answered = async {
            let handle = Handle::read(&ticket.statement_handle)?;
            self.answer(&call, &handle).await
        };
        answered.await.map(Response::new).map_err(|e| status(&e))
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let call = Call::of(&request)?;
        let answered = async {
            let handle = Handle::read(&query.prepared_statement_handle)?;
            self.answer(&call, &handle).await
        };
        answered.await.map(Response::new).map_err(|e| status(&e))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let call = Call::of(&request)?;
        let handle = Handle::new(query.query);
        let prepared = self.prepared(&call, &handle).await;
        prepared.map_err(|e| status(&e))
    }

    /// There is nothing to close.
    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Values for a statement's parameters: from then on the client shows another handle.
    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        Call::of(&request)?;
        let stream = taking::collected(request.into_inner()).await?;
        let bound = || {
            let mut handle = Handle::read(&query.prepared_statement_handle)?;
            handle.parameters = Some(stream);
            handle.values()?;
            Ok(handle.bytes())
        };
        let handle = bound().map_err(|e: Error| status(&e))?;
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(handle),
        })
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        only_read()
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        only_read()
    }

    async fn do_put_statement_ingest(
        &self,
        asked: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let call = Call::of(&request)?;
        let topic = topic(&asked, CATALOG).map_err(|e| status(&e))?;
        let identity = call.caller.identity();
        if !identity.rights().may_ingest(&topic) {
            return Err(status(&identity.denied("send facts of this topic")));
        }
        let how = HowTaken {
            is_lenient: match call.text(STRICT) {
                None | Some("true") => false,
                Some("false") => true,
                Some(other) => {
                    return Err(status(&Error::Invalid(format!(
                        "`{STRICT}` = `{other}`: write `true` or `false`"
                    ))));
                }
            },
            key: call.text(IDEMPOTENCY_KEY).map(str::to_owned),
        };
        let rows = request.into_inner();
        let taken = take(self.intake.as_ref(), &topic, &how, rows).await?;
        Ok(i64::try_from(taken).unwrap_or(i64::MAX))
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let call = Call::of(&request)?;
        let info = FlightInfo::decode(&*query.info)
            .map_err(|e| status(&Error::Invalid(format!("what is to be cancelled: {e}"))))?;
        let cancelled = self.cancel(&call, &info).map_err(|e| status(&e))?;
        // Both messages have the same numbers.
        Ok(ActionCancelQueryResult {
            result: cancelled as i32,
        })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let mut call = Call::of(&request)?;
        let action = request.into_inner();
        let wrong =
            |e: prost::DecodeError| status(&Error::Invalid(format!("`{}`: {e}", action.r#type)));
        match action.r#type.as_str() {
            CANCEL => {
                let asked = CancelFlightInfoRequest::decode(&*action.body).map_err(wrong)?;
                let info = asked.info.unwrap_or_default();
                let cancelled = self.cancel(&call, &info).map_err(|e| status(&e))?;
                result(CancelFlightInfoResult::new(cancelled).encode_to_vec(), None)
            }
            SET_OPTIONS => {
                let asked = SetSessionOptionsRequest::decode(&*action.body).map_err(wrong)?;
                let set = call.options.set(asked, CATALOG);
                result(set.encode_to_vec(), Some(call.options.cookie()))
            }
            GET_OPTIONS => {
                let all = call.options.all(CATALOG);
                let all = all.map_err(|e| status(&e))?;
                result(all.encode_to_vec(), None)
            }
            CLOSE => {
                let closed = CloseSessionResult { status: 1 };
                result(closed.encode_to_vec(), Some(Options::no_cookie()))
            }
            other => Err(Status::unimplemented(format!(
                "there is no action `{other}`"
            ))),
        }
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let all = [
            (CANCEL, "Stops a query"),
            (
                SET_OPTIONS,
                "Sets `read`, `search_path`, `at_least` and `as_of`",
            ),
            (GET_OPTIONS, "All options of the session"),
            (CLOSE, "Forgets the options of the session"),
        ];
        let all = all.map(|(name, description)| {
            Ok(ActionType {
                r#type: name.to_owned(),
                description: description.to_owned(),
            })
        });
        Some(all.into())
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &query.into_builder().schema(), request)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |all| all.catalogs(query)).await
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &query.into_builder().schema(), request)
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |all| all.schemas(query)).await
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &query.into_builder().schema(), request)
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |all| all.tables(query)).await
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &query.into_builder().schema(), request)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |_| catalogue::table_types(query))
            .await
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &catalogue::primary_keys(), request)
    }

    async fn do_get_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |all| all.primary_keys(&query)).await
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &catalogue::foreign_keys(), request)
    }

    async fn do_get_exported_keys(
        &self,
        _: CommandGetExportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |_| no_foreign_keys()).await
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &catalogue::foreign_keys(), request)
    }

    async fn do_get_imported_keys(
        &self,
        _: CommandGetImportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |_| no_foreign_keys()).await
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        at_itself(query.as_any(), &catalogue::foreign_keys(), request)
    }

    async fn do_get_cross_reference(
        &self,
        _: CommandGetCrossReference,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.listed(request, |_| no_foreign_keys()).await
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.clone().into_builder(&self.server).schema();
        at_itself(query.as_any(), &schema, request)
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let rows = query.into_builder(&self.server).build();
        self.listed(request, |_| catalogue::built(rows)).await
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.into_builder(&self.types).schema();
        at_itself(query.as_any(), &schema, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let rows = query.into_builder(&self.types).build();
        self.listed(request, |_| catalogue::built(rows)).await
    }

    /// What the server is like is known once, and changes not.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}

fn no_foreign_keys() -> Result<RecordBatch> {
    Ok(RecordBatch::new_empty(catalogue::foreign_keys()))
}
