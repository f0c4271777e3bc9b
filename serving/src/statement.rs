//! Which statements a query may be, and what is said of the others.

use anabranch_shared::view::refuse_samples;
use anabranch_shared::{Error, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as Sql};

/// Refuses a statement that would change or write something, before it is planned.
pub(crate) fn check(statement: &Statement) -> Result<()> {
    let advice = match statement {
        Statement::Explain(explain) => return check(&explain.statement),
        Statement::Statement(sql) if has_no_columns(sql) => {
            return Err(Error::Invalid(
                "the query names no columns; write `SELECT * FROM …`".into(),
            ));
        }
        Statement::Statement(sql) => match advice(sql) {
            Some(advice) => advice,
            None => return refuse_samples(sql),
        },
        Statement::CopyTo(_) => {
            "queries write no files; save an answer with `anabranch sql --format csv -c '…' > FILE`"
        }
        Statement::CreateExternalTable(_) => NO_FILES,
        _ => SETTINGS,
    };
    let text = statement.to_string();
    let name: Vec<&str> = text.split_whitespace().take(words(statement)).collect();
    Err(Error::Invalid(format!(
        "`{}` is refused: {advice}",
        name.join(" ").to_uppercase()
    )))
}

/// Whether a query begins with FROM, which would give rows without columns.
fn has_no_columns(sql: &Sql) -> bool {
    let Sql::Query(query) = sql else { return false };
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    select.projection.is_empty()
}

const READ_ONLY: &str = "queries only read";
const NO_FILES: &str = "queries read topics, views, `dead_letters` and `jobs`, never files; views are declared in `anabranch.toml`, and files come in with `anabranch ingest`";
const FACTS: &str = "queries only read; facts come in with `anabranch ingest` or `POST /topics/TOPIC`, and are never changed";
const SETTINGS: &str = "of settings a query can only choose `anabranch.read`: `SET anabranch.read = 'batch'` or `'merged'` in `anabranch sql`, `?read=batch` with `POST /sql`";
const LIST: &str = "write `\\d` in `anabranch sql`, or ask `GET /relations`";

fn advice(sql: &Sql) -> Option<&'static str> {
    Some(match sql {
        Sql::Query(_)
        | Sql::Explain { .. }
        | Sql::ExplainTable { .. }
        | Sql::ShowColumns { .. }
        | Sql::ShowFunctions { .. }
        | Sql::ShowVariable { .. } => return None,
        Sql::ShowTables { .. } => LIST,
        Sql::Insert(_) | Sql::Update { .. } | Sql::Delete(_) | Sql::Merge { .. } => FACTS,
        Sql::Set(_) => SETTINGS,
        Sql::CreateView { .. } | Sql::CreateTable(_) | Sql::Copy { .. } => NO_FILES,
        _ => READ_ONLY,
    })
}

/// How many words of a statement name what it is.
fn words(statement: &Statement) -> usize {
    match statement {
        Statement::CreateExternalTable(_) => 3,
        Statement::Statement(sql) => match sql.as_ref() {
            Sql::ShowTables { .. } | Sql::CreateView { .. } | Sql::CreateTable(_) => 2,
            _ => 1,
        },
        _ => 1,
    }
}
