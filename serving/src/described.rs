//! Relations as they are told to people and programs: columns with their types in SQL's words, and for
//! a view what each column is. Owns the form in which `GET /relations?as=objects` says it, and what
//! `DESCRIBE` answers.

use std::sync::Arc;

use anabranch_shared::convert::sql_type;
use anabranch_shared::view::Role;
use anabranch_shared::{Relation, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use serde::{Deserialize, Serialize};

/// A relation that can be queried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RelationInfo {
    /// The name as SQL resolves it, without quotes.
    pub name: String,
    /// `topic`, `view` or `table`.
    pub kind: String,
    /// The topic that a view reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The SQL of a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The columns.
    pub columns: Vec<ColumnInfo>,
}

/// A column of a relation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ColumnInfo {
    /// Its name, without quotes.
    pub name: String,
    /// Its type in SQL's words.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// What it is in a view: `key`, `aggregate` or `computed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The function of an aggregate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// What an aggregate's value can be trusted for: `exact`, `approximate` or `by order`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exactness: Option<String>,
    /// Whether `combine` takes it.
    #[serde(default)]
    pub combines: bool,
}

impl RelationInfo {
    /// What there is to be told of a relation.
    pub fn of(relation: &Relation) -> Self {
        let mut roles = relation.view.iter().flat_map(|view| view.roles());
        let column = |field: &Arc<arrow::datatypes::Field>| {
            let plain = ColumnInfo {
                name: field.name().clone(),
                sql_type: sql_type(field.data_type()),
                nullable: field.is_nullable(),
                ..ColumnInfo::default()
            };
            match roles.next() {
                None => plain,
                Some(role) => plain.with(role),
            }
        };
        Self {
            name: relation.name.clone(),
            kind: relation.kind.to_owned(),
            topic: relation.view.as_ref().map(|v| v.topic().name.clone()),
            sql: relation.view.as_ref().map(|v| v.definition().sql.clone()),
            columns: relation.schema.fields().iter().map(column).collect(),
        }
    }
}

/// The places of the columns that tell a relation's rows apart, in their order: the keys of a view,
/// where none of its aggregation's is left out.
pub(crate) fn primary_key(relation: &Relation) -> Vec<usize> {
    let Some(view) = &relation.view else {
        return Vec::new();
    };
    let roles = view.roles().into_iter().enumerate();
    let keys: Vec<usize> = roles
        .filter_map(|(at, role)| matches!(role, Role::Key).then_some(at))
        .collect();
    match keys.len() == view.key_count() {
        true => keys,
        false => Vec::new(),
    }
}

/// What the key of a relation is called among constraints.
pub(crate) fn key_name(relation: &str) -> String {
    format!("{relation}_pkey")
}

impl ColumnInfo {
    fn with(mut self, role: Role) -> Self {
        let name = match role {
            Role::Key => "key",
            Role::Computed => "computed",
            Role::Aggregate {
                function,
                exactness,
                combines,
            } => {
                self.function = Some(function);
                self.exactness = Some(exactness.text().to_owned());
                self.combines = combines;
                "aggregate"
            }
        };
        self.role = Some(name.to_owned());
        self
    }
}

/// The plan of `DESCRIBE` with types in SQL's words; any other as it is.
pub(crate) fn in_sql_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::DescribeTable(described) = &plan else {
        return Ok(plan);
    };
    let fields = described.schema.fields();
    let column = |values: StringArray| Arc::new(values) as ArrayRef;
    let names = StringArray::from_iter_values(fields.iter().map(|field| field.name()));
    let types = fields.iter().map(|field| sql_type(field.data_type()));
    let nullable = fields.iter().map(|field| match field.is_nullable() {
        true => "YES",
        false => "NO",
    });
    let columns = [
        names,
        StringArray::from_iter_values(types),
        StringArray::from_iter_values(nullable),
    ];
    let schema = Arc::new(described.output_schema.as_arrow().clone());
    let rows = RecordBatch::try_new(schema.clone(), columns.map(column).to_vec())?;
    let table = provider_as_source(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?));
    Ok(LogicalPlanBuilder::scan("described", table, None)?.build()?)
}
