//! `pg_catalog`: what PostgreSQL's clients ask to find out what there is, as relations that any SQL
//! reads. Owns which rows they have; those of PostgreSQL's relations that have none here are empty.
//! Numbers of relations are made from their names, so they are the same after a restart and at every
//! daemon.

mod functions;
mod relations;
mod rewrite;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use anabranch_shared::{Relation, Result, is_schema_of_generations};
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use serde_json::{Map, Value, json};

use super::types::{self, column_type};
use crate::described::{RelationInfo, key_name, primary_key};
use crate::dialect::Dialect;

/// The schema's name.
const PG_CATALOG: &str = "pg_catalog";

/// Numbers of what is always there: PostgreSQL's own.
const OF_CATALOG: i32 = 11;
const OF_PUBLIC: i32 = 2200;
const OF_INFORMATION: i32 = 13_000;
const OF_USER: i32 = 10;
const OF_DATABASE: i32 = 5;
const OF_HEAP: i32 = 2;
const OF_BTREE: i32 = 403;

/// The least number of anything that is a user's.
const FIRST_OF_USERS: u32 = 16_384;

/// Of which kind the subjects of descriptions are.
const PG_CLASS: i32 = 1259;

/// The numbers of the catalogue's own relations that others refer to.
const OF_RELATIONS: [(&str, i32); 8] = [
    ("pg_attribute", 1249),
    ("pg_authid", 1260),
    ("pg_class", PG_CLASS),
    ("pg_constraint", 2606),
    ("pg_database", 1262),
    ("pg_namespace", 2615),
    ("pg_proc", 1255),
    ("pg_type", 1247),
];

/// The session that asks, for relations and functions that tell of it.
#[derive(Clone, Debug)]
pub(super) struct Catalogue {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) process: i32,
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) search_path: String,
}

impl Dialect for Catalogue {
    fn rewrite(&self, statement: &mut Statement) -> Result<()> {
        let schemas = self.search_path.split(',').count();
        rewrite::rewrite(statement, schemas, &self.database)
    }

    fn owns(&self, relation: &TableReference) -> bool {
        relation.schema() == Some(PG_CATALOG)
    }

    fn asks(&self, statement: &Statement) -> bool {
        functions::ask_relations(statement)
    }

    fn register(&self, context: &SessionContext, relations: &[Relation]) -> Result<()> {
        let there = Arc::new(There::new(relations));
        functions::register(context, self, &there);
        if relations.is_empty() {
            return Ok(());
        }
        let state = context.state();
        let names = &state.config_options().catalog;
        let schema = Arc::new(MemorySchemaProvider::new());
        let rows = self.rows(&there);
        for (name, table) in relations::tables(&rows)? {
            use datafusion::catalog::SchemaProvider;
            schema.register_table(name.to_owned(), table)?;
        }
        if let Some(catalog) = context.catalog(&names.default_catalog) {
            catalog.register_schema(PG_CATALOG, schema)?;
        }
        Ok(())
    }
}

/// A relation with its numbers.
#[derive(Clone, Debug)]
struct Numbered {
    oid: i32,
    schema: String,
    name: String,
    info: RelationInfo,
    /// For each column its type.
    types: Vec<super::types::ColumnType>,
    /// The places of the columns that tell its rows apart, from 1.
    key: Vec<i16>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
struct There {
    relations: Vec<Numbered>,
    schemas: BTreeMap<String, i32>,
}

/// A steady number for a name.
fn number(taken: &mut std::collections::BTreeSet<i32>, what: &str) -> i32 {
    // FNV-1a, whose result is the same everywhere and for ever.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    fnv.write(what.as_bytes());
    let hash = fnv.finish();
    let span = (i32::MAX as u32 - FIRST_OF_USERS) as u64;
    let mut oid = (hash % span) as u32 + FIRST_OF_USERS;
    while !taken.insert(oid as i32) {
        oid = (oid + 1).max(FIRST_OF_USERS) % i32::MAX as u32;
    }
    oid as i32
}

impl There {
    fn new(relations: &[Relation]) -> Self {
        let mut sorted: Vec<&Relation> = relations.iter().collect();
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        sorted.dedup_by(|a, b| a.name == b.name);
        let mut taken = std::collections::BTreeSet::new();
        let mut schemas = BTreeMap::from([
            (PG_CATALOG.to_owned(), OF_CATALOG),
            ("information_schema".to_owned(), OF_INFORMATION),
            ("public".to_owned(), OF_PUBLIC),
        ]);
        let mut numbered = Vec::new();
        for relation in sorted {
            let (schema, name) = match relation.name.split_once('.') {
                Some((schema, name)) if is_schema_of_generations(schema) => (schema, name),
                _ => ("public", relation.name.as_str()),
            };
            if !schemas.contains_key(schema) {
                let oid = number(&mut taken, &format!("schema {schema}"));
                schemas.insert(schema.to_owned(), oid);
            }
            let info = RelationInfo::of(relation);
            let key = primary_key(relation).into_iter();
            let key = key.filter_map(|at| i16::try_from(at + 1).ok()).collect();
            let columns = relation.schema.fields().iter();
            numbered.push(Numbered {
                oid: number(&mut taken, &format!("relation {schema}.{name}")),
                schema: schema.to_owned(),
                name: name.to_owned(),
                types: columns.map(|f| column_type(f.data_type())).collect(),
                info,
                key,
            });
        }
        Self {
            relations: numbered,
            schemas,
        }
    }

    fn schema(&self, name: &str) -> i32 {
        self.schemas.get(name).copied().unwrap_or(OF_PUBLIC)
    }

    fn by_oid(&self, oid: i64) -> Option<&Numbered> {
        self.relations.iter().find(|r| i64::from(r.oid) == oid)
    }

    /// The number of a relation by the name that a cast to `regclass` takes.
    fn oid(&self, name: &str) -> Option<i32> {
        let own = name.strip_prefix("pg_catalog.").unwrap_or(name);
        let own = OF_RELATIONS.iter().find(|(known, _)| *known == own);
        match own {
            Some((_, oid)) => Some(*oid),
            None => self.by_name(name).map(|relation| relation.oid),
        }
    }

    /// A relation by the name that a cast to `regclass` takes.
    fn by_name(&self, name: &str) -> Option<&Numbered> {
        let plain = name.replace('"', "");
        let (schema, name) = match plain.rsplit_once('.') {
            Some((schema, name)) => (schema, name),
            None => ("public", plain.as_str()),
        };
        let found = |r: &&Numbered| r.schema == schema && r.name == name;
        self.relations.iter().find(found)
    }
}

impl Numbered {
    fn is_view(&self) -> bool {
        self.info.kind == "view"
    }

    fn kind(&self) -> &'static str {
        match self.is_view() {
            true => "v",
            false => "r",
        }
    }

    /// The number of what says that its key is one.
    fn key_oid(&self) -> i32 {
        // Beside its own, which is a user's.
        self.oid ^ 1 << 30
    }

    fn key_name(&self) -> String {
        key_name(&self.name)
    }

    fn key_columns(&self) -> String {
        let name = |nth: &i16| {
            let at = usize::try_from(*nth - 1).unwrap_or_default();
            self.info.columns.get(at).map(|c| c.name.as_str())
        };
        let names: Vec<&str> = self.key.iter().filter_map(name).collect();
        names.join(", ")
    }

    /// What is said of it in one line.
    fn description(&self) -> String {
        match (&self.info.topic, self.info.kind.as_str()) {
            (Some(topic), "view") => format!("view over {topic}"),
            (_, "topic") => "topic: facts as they came".to_owned(),
            (_, kind) => kind.to_owned(),
        }
    }

    /// What is said of a column.
    fn column_description(&self, nth: i64) -> Option<String> {
        let at = usize::try_from(nth - 1).ok()?;
        let column = self.info.columns.get(at)?;
        let role = column.role.as_deref()?;
        let words = [
            Some(role),
            column.function.as_deref(),
            column.exactness.as_deref(),
            column.combines.then_some("combines"),
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        Some(words.join(", "))
    }
}

/// Rows of relations: for each its name and its rows, each with the columns that are not the default.
type Rows = BTreeMap<&'static str, Vec<Map<String, Value>>>;

fn row(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

impl Catalogue {
    /// The rows of all relations that have some.
    fn rows(&self, there: &There) -> Rows {
        let mut rows = Rows::new();
        let mut add = |name, value| rows.entry(name).or_default().push(row(value));
        for (name, oid) in &there.schemas {
            add(
                "pg_namespace",
                json!({"oid": oid, "nspname": name, "nspowner": OF_USER}),
            );
        }
        add(
            "pg_database",
            json!({"oid": OF_DATABASE, "datname": self.database, "datdba": OF_USER, "encoding": 6,
                "datlocprovider": "c", "datallowconn": true, "datconnlimit": -1, "datcollate": "C", "datctype": "C"}),
        );
        add(
            "pg_roles",
            json!({"oid": OF_USER, "rolname": self.user, "rolinherit": true, "rolcanlogin": true, "rolconnlimit": -1}),
        );
        add(
            "pg_user",
            json!({"usename": self.user, "usesysid": OF_USER}),
        );
        add(
            "pg_am",
            json!({"oid": OF_HEAP, "amname": "heap", "amhandler": "heap_tableam_handler", "amtype": "t"}),
        );
        add(
            "pg_am",
            json!({"oid": OF_BTREE, "amname": "btree", "amhandler": "bthandler", "amtype": "i"}),
        );
        for (name, value) in &self.settings {
            add(
                "pg_settings",
                json!({"name": name, "setting": value, "context": "user", "vartype": "string",
                    "source": "default", "boot_val": value, "reset_val": value}),
            );
        }
        for t in types::ALL {
            add_type(&mut add, t);
        }
        for relation in &there.relations {
            add_relation(&mut add, there, relation, &self.user);
        }
        rows
    }
}

fn add_type(add: &mut impl FnMut(&'static str, Value), t: &types::PgType) {
    let io = |end: &str| match t.name {
        "numeric" | "date" | "time" | "timestamp" | "timestamptz" | "interval" | "json"
        | "jsonb" | "uuid" | "array" => format!("{}_{end}", t.name),
        name => format!("{name}{end}"),
    };
    add(
        "pg_type",
        json!({"oid": t.oid, "typname": t.name, "typnamespace": OF_CATALOG, "typowner": OF_USER,
            "typlen": t.size, "typbyval": (1..=8).contains(&t.size), "typtype": "b",
            "typcategory": t.category.to_string(), "typisdefined": true, "typdelim": ",",
            "typarray": t.array, "typinput": io("in"), "typoutput": io("out"),
            "typreceive": io("recv"), "typsend": io("send"), "typalign": "i", "typstorage": "x",
            "typtypmod": -1}),
    );
    if t.array == 0 {
        return;
    }
    add(
        "pg_type",
        json!({"oid": t.array, "typname": format!("_{}", t.name), "typnamespace": OF_CATALOG,
            "typowner": OF_USER, "typlen": -1, "typtype": "b", "typcategory": "A",
            "typisdefined": true, "typdelim": ",", "typsubscript": "array_subscript_handler",
            "typelem": t.oid, "typinput": "array_in", "typoutput": "array_out",
            "typreceive": "array_recv", "typsend": "array_send", "typalign": "i",
            "typstorage": "x", "typtypmod": -1}),
    );
}

fn add_relation(
    add: &mut impl FnMut(&'static str, Value),
    there: &There,
    relation: &Numbered,
    user: &str,
) {
    let schema = there.schema(&relation.schema);
    let columns = relation.info.columns.len();
    let am = match relation.is_view() {
        true => 0,
        false => OF_HEAP,
    };
    add(
        "pg_class",
        json!({"oid": relation.oid, "relname": relation.name, "relnamespace": schema,
            "relowner": OF_USER, "relam": am, "reltuples": -1.0, "relhasindex": !relation.key.is_empty(),
            "relpersistence": "p", "relkind": relation.kind(), "relnatts": columns,
            "relispopulated": true, "relreplident": "d", "relhasrules": relation.is_view()}),
    );
    for (nth, (column, t)) in (1_i64..).zip(relation.info.columns.iter().zip(&relation.types)) {
        add(
            "pg_attribute",
            json!({"attrelid": relation.oid, "attname": column.name, "atttypid": t.oid(),
                "attlen": t.size(), "attnum": nth, "atttypmod": -1, "attndims": i32::from(t.is_list),
                "attalign": "i", "attstorage": "x", "attnotnull": !column.nullable,
                "attidentity": "", "attgenerated": "", "attcompression": "", "attislocal": true,
                "attcacheoff": -1, "attstattarget": -1}),
        );
        if let Some(text) = relation.column_description(nth) {
            add(
                "pg_description",
                json!({"objoid": relation.oid, "classoid": PG_CLASS, "objsubid": nth, "description": text}),
            );
        }
    }
    add(
        "pg_description",
        json!({"objoid": relation.oid, "classoid": PG_CLASS, "objsubid": 0, "description": relation.description()}),
    );
    match relation.is_view() {
        true => add(
            "pg_views",
            json!({"schemaname": relation.schema, "viewname": relation.name, "viewowner": user,
                "definition": relation.info.sql}),
        ),
        false => add(
            "pg_tables",
            json!({"schemaname": relation.schema, "tablename": relation.name, "tableowner": user}),
        ),
    }
    if relation.key.is_empty() {
        return;
    }
    let keys = relation.key.len();
    add(
        "pg_class",
        json!({"oid": relation.key_oid(), "relname": relation.key_name(), "relnamespace": schema,
            "relowner": OF_USER, "relam": OF_BTREE, "reltuples": -1.0, "relpersistence": "p",
            "relkind": "i", "relnatts": keys, "relispopulated": true}),
    );
    add(
        "pg_index",
        json!({"indexrelid": relation.key_oid(), "indrelid": relation.oid, "indnatts": keys,
            "indnkeyatts": keys, "indisunique": true, "indisprimary": true, "indimmediate": true,
            "indisvalid": true, "indisready": true, "indislive": true, "indkey": relation.key,
            "indoption": vec![0; keys], "indclass": vec![0; keys], "indcollation": vec![0; keys]}),
    );
    add(
        "pg_constraint",
        json!({"oid": relation.key_oid(), "conname": relation.key_name(), "connamespace": schema,
            "contype": "p", "convalidated": true, "conrelid": relation.oid,
            "conindid": relation.key_oid(), "conislocal": true, "conkey": relation.key}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_steady() {
        let mut taken = std::collections::BTreeSet::new();
        let first = number(&mut taken, "relation public.a");
        assert_eq!(first, 211_415_558);
        assert_eq!(number(&mut taken, "relation public.a"), first + 1);
        use super::relations::table_of;
        assert!(table_of("pg_class").is_some() && table_of("pg_nothing").is_none());
    }
}
