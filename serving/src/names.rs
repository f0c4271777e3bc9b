//! The relations that a statement names, and which of those with a name are meant by the `search_path`.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anabranch_shared::{Error, Pin, Result, is_schema_of_generations};
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{ObjectNamePart, TableFactor, Visit, Visitor};

use crate::dialect::Dialect;
use crate::freshness::FRESHNESS;
use crate::information;
use crate::reading::{PUBLIC, SearchPath};

/// What a statement names.
pub(crate) struct Names {
    /// Relations that it names with their schema, or of schemas where only one comes into question.
    relations: Vec<String>,
    /// Names without a schema, and the relations that each may mean, the first that is there.
    looked_for: Vec<(String, Vec<String>)>,
    /// Whether it asks which relations there are.
    pub(crate) of_information: bool,
    /// Whether it asks how fresh they are.
    pub(crate) of_freshness: bool,
}

impl Names {
    /// Every relation that it may mean.
    pub(crate) fn relations(&self) -> Vec<String> {
        let looked_for = self.looked_for.iter().flat_map(|(_, all)| all);
        self.relations.iter().chain(looked_for).cloned().collect()
    }

    /// The pin, in which each name without a schema is the first of the relations that it may mean, and
    /// nothing else is.
    pub(crate) fn found(&self, mut pin: Pin) -> Result<Pin> {
        for (name, relations) in &self.looked_for {
            let there = |r: &&String| pin.has(r);
            let meant = relations.iter().find(there).cloned();
            if meant.as_ref() == Some(name) {
                continue;
            }
            if self.relations.contains(name) {
                return Err(Error::Invalid(format!(
                    "the statement names both `{name}` and `{PUBLIC}.{name}`, which are not the same by the `search_path`; name the schema of both"
                )));
            }
            pin.views.remove(name);
            if let Some(view) = meant.and_then(|meant| pin.views.get(&meant)).cloned() {
                pin.views.insert(name.clone(), view);
            }
        }
        let looked_for = self.looked_for.iter().map(|(name, _)| name);
        let named: BTreeSet<&String> = self.relations.iter().chain(looked_for).collect();
        pin.views.retain(|name, _| named.contains(name));
        Ok(pin)
    }
}

/// What a statement names.
///
/// # Errors
/// Those of the engine for a name that can't be one.
pub(crate) fn relation_names(
    state: &SessionState,
    statement: &Statement,
    path: &SearchPath,
    dialect: Option<&dyn Dialect>,
) -> Result<Names> {
    let mut references = state.resolve_table_references(statement)?;
    let called = called(statement);
    references
        .retain(|reference| reference.schema().is_some() || !called.contains(reference.table()));
    let (of_information, relations): (Vec<_>, Vec<_>) = references.iter().partition(|reference| {
        information::is_of_information(reference)
            || dialect.is_some_and(|dialect| dialect.owns(reference))
    });
    let (mut named, mut looked_for) = (Vec::new(), Vec::new());
    for reference in relations {
        match reference.schema() {
            None if *path != SearchPath::default() => {
                let name = reference.table();
                looked_for.push((name.to_owned(), path.relations(name)));
            }
            _ => named.push(relation_name(reference)),
        }
    }
    Ok(Names {
        relations: named,
        looked_for,
        of_freshness: called.contains(FRESHNESS),
        of_information: !of_information.is_empty()
            || dialect.is_some_and(|dialect| dialect.asks(statement)),
    })
}

/// The table functions that a statement calls: what is called and not read as a relation besides.
fn called(statement: &Statement) -> BTreeSet<String> {
    #[derive(Default)]
    struct Factors {
        called: BTreeSet<String>,
        read: BTreeSet<String>,
    }
    impl Visitor for Factors {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, args, .. } = factor
                && let [ObjectNamePart::Identifier(name)] = name.0.as_slice()
            {
                let name = match name.quote_style {
                    Some(_) => name.value.clone(),
                    None => name.value.to_ascii_lowercase(),
                };
                match args {
                    Some(_) => self.called.insert(name),
                    None => self.read.insert(name),
                };
            }
            ControlFlow::Continue(())
        }
    }
    let mut factors = Factors::default();
    let mut statement = statement;
    while let Statement::Explain(explain) = statement {
        statement = &explain.statement;
    }
    let Statement::Statement(sql) = statement else {
        return BTreeSet::new();
    };
    match sql.visit(&mut factors) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => &factors.called - &factors.read,
    }
}

/// The name of a relation as pins have it: generations that don't answer lie in schemas of their own.
fn relation_name(reference: &TableReference) -> String {
    match reference.schema() {
        Some(schema) if is_schema_of_generations(schema) => {
            format!("{schema}.{}", reference.table())
        }
        _ => reference.table().to_owned(),
    }
}
