//! What there is to be queried, in the tables that Flight SQL has for it. Their schemas are compared by
//! clients to the last nullability. Generations that don't answer have schemas of their own, as in
//! `information_schema`; a view's keys are its primary key.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_shared::view::Role;
use anabranch_shared::{Error, Relation, Result};
use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTableTypes,
    CommandGetTables, Nullable, Searchable, SqlInfo, SqlNullOrdering, SqlSupportedCaseSensitivity,
    SqlSupportedTransaction, XdbcDataType,
};

use crate::arrow_form::{ArrowForm, Texts};
use crate::information::{is_view, place};
use crate::reading::PUBLIC;

/// What kinds of relations there are, as programs name them.
const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";

/// What somebody may read, in a catalogue.
pub(super) struct Catalogue<'a> {
    pub(super) name: &'a str,
    pub(super) relations: &'a [Relation],
}

impl Catalogue<'_> {
    pub(super) fn catalogs(&self, asked: CommandGetCatalogs) -> Result<RecordBatch> {
        let mut rows = asked.into_builder();
        rows.append(self.name);
        built(rows.build())
    }

    pub(super) fn schemas(&self, asked: CommandGetDbSchemas) -> Result<RecordBatch> {
        let mut rows = asked.into_builder();
        let places = self.relations.iter().map(|r| place(PUBLIC, r).0);
        for schema in places.chain([PUBLIC]).collect::<BTreeSet<_>>() {
            rows.append(self.name, schema);
        }
        built(rows.build())
    }

    pub(super) fn tables(&self, asked: CommandGetTables) -> Result<RecordBatch> {
        let mut rows = asked.into_builder();
        for relation in self.relations {
            let (schema, name) = place(PUBLIC, relation);
            let kind = match is_view(relation) {
                true => VIEW,
                false => TABLE,
            };
            let form = ArrowForm::new(&relation.schema, Texts::Plain);
            built(rows.append(self.name, schema, name, kind, form.schema()))?;
        }
        built(rows.build())
    }

    pub(super) fn primary_keys(&self, asked: &CommandGetPrimaryKeys) -> Result<RecordBatch> {
        let (mut schemas, mut tables, mut columns, mut places) = (vec![], vec![], vec![], vec![]);
        let in_catalogue = asked.catalog.as_ref().is_none_or(|name| name == self.name);
        let found = self.relations.iter().filter(|relation| {
            let (schema, name) = place(PUBLIC, relation);
            let in_schema = asked
                .db_schema
                .as_ref()
                .is_none_or(|wanted| wanted == schema);
            in_catalogue && in_schema && name == asked.table
        });
        for relation in found {
            let (schema, name) = place(PUBLIC, relation);
            let roles = relation.view.iter().flat_map(|view| view.roles());
            let keys = relation.schema.fields().iter().zip(roles);
            let keys = keys.filter(|(_, role)| matches!(role, Role::Key));
            for ((field, _), nth) in keys.zip(1..) {
                schemas.push(schema);
                tables.push(name);
                columns.push(field.name().as_str());
                places.push(nth);
            }
        }
        let keys: Vec<String> = tables.iter().map(|table| format!("{table}_key")).collect();
        let all: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.name; tables.len()])),
            Arc::new(StringArray::from(schemas)),
            Arc::new(StringArray::from(tables)),
            Arc::new(StringArray::from(columns)),
            Arc::new(StringArray::from(keys)),
            Arc::new(Int32Array::from(places)),
        ];
        Ok(RecordBatch::try_new(primary_keys(), all)?)
    }
}

/// What a form of Flight's came to.
pub(super) fn built<T>(form: Result<T, FlightError>) -> Result<T> {
    form.map_err(|e| Error::Internal(e.to_string()))
}

fn fields(all: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields = all.iter();
    let fields =
        fields.map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The kinds of relations.
pub(super) fn table_types(asked: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut rows = asked.into_builder();
    rows.append(TABLE);
    rows.append(VIEW);
    built(rows.build())
}

/// The columns of an answer about primary keys.
pub(super) fn primary_keys() -> SchemaRef {
    fields(&[
        ("catalog_name", DataType::Utf8, true),
        ("db_schema_name", DataType::Utf8, true),
        ("table_name", DataType::Utf8, false),
        ("column_name", DataType::Utf8, false),
        ("key_name", DataType::Utf8, true),
        ("key_sequence", DataType::Int32, false),
    ])
}

/// The columns of an answer about foreign keys, of which there are none.
pub(super) fn foreign_keys() -> SchemaRef {
    fields(&[
        ("pk_catalog_name", DataType::Utf8, true),
        ("pk_db_schema_name", DataType::Utf8, true),
        ("pk_table_name", DataType::Utf8, false),
        ("pk_column_name", DataType::Utf8, false),
        ("fk_catalog_name", DataType::Utf8, true),
        ("fk_db_schema_name", DataType::Utf8, true),
        ("fk_table_name", DataType::Utf8, false),
        ("fk_column_name", DataType::Utf8, false),
        ("key_sequence", DataType::Int32, false),
        ("fk_key_name", DataType::Utf8, true),
        ("pk_key_name", DataType::Utf8, true),
        ("update_rule", DataType::UInt8, false),
        ("delete_rule", DataType::UInt8, false),
    ])
}

/// What programs ask of a server before they ask anything else.
pub(super) fn server() -> Result<SqlInfoData> {
    let mut all = SqlInfoDataBuilder::new();
    all.append(SqlInfo::FlightSqlServerName, "Anabranch");
    all.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    all.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    // What statements do; facts are taken beside them.
    all.append(SqlInfo::FlightSqlServerReadOnly, true);
    all.append(SqlInfo::FlightSqlServerSql, true);
    all.append(SqlInfo::FlightSqlServerSubstrait, false);
    all.append(
        SqlInfo::FlightSqlServerTransaction,
        SqlSupportedTransaction::None as i32,
    );
    all.append(SqlInfo::FlightSqlServerCancel, true);
    all.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    all.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    for ddl in [
        SqlInfo::SqlDdlCatalog,
        SqlInfo::SqlDdlSchema,
        SqlInfo::SqlDdlTable,
    ] {
        all.append(ddl, false);
    }
    all.append(
        SqlInfo::SqlIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32,
    );
    all.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    all.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    all.append(SqlInfo::SqlAllTablesAreSelectable, true);
    all.append(
        SqlInfo::SqlNullOrdering,
        SqlNullOrdering::SqlNullsSortedHigh as i32,
    );
    all.append(SqlInfo::SqlSearchStringEscape, "\\");
    built(all.build())
}

/// The types of columns, in the words of ODBC.
pub(super) fn types() -> Result<XdbcTypeInfoData> {
    use XdbcDataType as X;
    let all = [
        ("boolean", X::XdbcBit, 1),
        ("tinyint", X::XdbcTinyint, 3),
        ("smallint", X::XdbcSmallint, 5),
        ("int", X::XdbcInteger, 10),
        ("bigint", X::XdbcBigint, 19),
        ("real", X::XdbcReal, 7),
        ("double", X::XdbcDouble, 15),
        ("decimal", X::XdbcDecimal, 76),
        ("varchar", X::XdbcVarchar, i32::MAX),
        ("binary", X::XdbcVarbinary, i32::MAX),
        ("date", X::XdbcDate, 10),
        ("timestamp", X::XdbcTimestamp, 26),
    ];
    let mut rows = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, size) in all {
        let is_number = !matches!(
            data_type,
            X::XdbcBit | X::XdbcVarchar | X::XdbcVarbinary | X::XdbcDate | X::XdbcTimestamp
        );
        let quote = (!is_number && data_type != X::XdbcBit).then(|| "'".to_owned());
        let decimals = matches!(data_type, X::XdbcDecimal);
        rows.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size: Some(size),
            literal_prefix: quote.clone(),
            literal_suffix: quote,
            create_params: decimals.then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: data_type == X::XdbcVarchar,
            searchable: Searchable::Full,
            unsigned_attribute: is_number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: is_number.then_some(false),
            local_type_name: Some(name.to_owned()),
            minimum_scale: decimals.then_some(0),
            maximum_scale: decimals.then_some(76),
            sql_data_type: data_type,
            datetime_subcode: None,
            num_prec_radix: is_number.then_some(10),
            interval_precision: None,
        });
    }
    built(rows.build())
}
