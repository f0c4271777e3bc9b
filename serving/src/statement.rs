//! Which statements a query may be, and what is said of the others.

use anabranch_shared::view::refuse_samples;
use anabranch_shared::{Error, Result, sql};
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    SetExpr, ShowStatementFilter, ShowStatementFilterPosition, Statement as Sql,
};

/// Refuses a statement that would change or write something, before it is planned.
pub(crate) fn check(statement: &Statement, text: &str) -> Result<()> {
    let advice = match statement {
        Statement::Explain(explain) => return check(&explain.statement, text),
        Statement::Statement(sql) if has_no_columns(sql) => {
            return Err(Error::Invalid(
                "the query names no columns; write `SELECT * FROM …`".into(),
            ));
        }
        Statement::Statement(sql) => match advice(sql) {
            Some(advice) => advice,
            None => return refuse_samples(sql, text),
        },
        Statement::CopyTo(_) => {
            "queries write no files; save an answer with `anabranch sql --format csv -c '…' > FILE`"
        }
        Statement::CreateExternalTable(_) => NO_FILES,
        _ => SETTINGS,
    };
    let shown = statement.to_string();
    let name: Vec<&str> = shown.split_whitespace().take(words(statement)).collect();
    Err(Error::Invalid(format!(
        "`{}` is refused: {advice}",
        name.join(" ").to_uppercase()
    )))
}

/// Whether a statement asks for a plan.
pub(crate) fn explains(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(_) => true,
        Statement::Statement(sql) => matches!(sql.as_ref(), Sql::Explain { .. }),
        _ => false,
    }
}

/// `SHOW TABLES` as the query that it stands for; any other statement as it is.
///
/// # Errors
/// `Invalid` for words of it that have no meaning here.
pub(crate) fn written_out(state: &SessionState, statement: Statement) -> Result<Statement> {
    let Statement::Statement(sql) = &statement else {
        return Ok(statement);
    };
    let Sql::ShowTables { show_options, .. } = sql.as_ref() else {
        return Ok(statement);
    };
    let filter = match &show_options.filter_position {
        None => String::new(),
        Some(
            ShowStatementFilterPosition::Infix(filter)
            | ShowStatementFilterPosition::Suffix(filter),
        ) => match filter {
            ShowStatementFilter::Where(condition) => format!(" AND ({condition})"),
            ShowStatementFilter::NoKeyword(text) => {
                let like = ShowStatementFilter::Like(text.clone());
                format!(" AND table_name {like}")
            }
            filter => format!(" AND table_name {filter}"),
        },
    };
    let is_plain = sql.to_string() == format!("SHOW TABLES{show_options}")
        && show_options.show_in.is_none()
        && show_options.starts_with.is_none()
        && show_options.limit.is_none();
    if !is_plain {
        return Err(Error::Invalid(
            "of `SHOW TABLES` there is only `SHOW TABLES`, with LIKE or WHERE; `information_schema.tables` can be queried like any table".into(),
        ));
    }
    let schema = &state.config_options().catalog.default_schema;
    sql::parse(
        state,
        &format!(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = '{schema}'{filter} ORDER BY table_name"
        ),
    )
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
const SETTINGS: &str = "of settings a query can only choose `anabranch.read`, `anabranch.at_least`, `anabranch.as_of`, `anabranch.receipts` and `search_path`: `SET anabranch.read = 'batch'` or `'merged'`, `SET search_path = candidate, public` in `anabranch sql`; `?read=batch&search_path=candidate,public` with `POST /sql`";

fn advice(sql: &Sql) -> Option<&'static str> {
    Some(match sql {
        Sql::Query(_)
        | Sql::Explain { .. }
        | Sql::ExplainTable { .. }
        | Sql::ShowColumns { .. }
        | Sql::ShowFunctions { .. }
        | Sql::ShowTables { .. }
        | Sql::ShowVariable { .. } => return None,
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
            Sql::CreateView { .. } | Sql::CreateTable(_) => 2,
            _ => 1,
        },
        _ => 1,
    }
}
