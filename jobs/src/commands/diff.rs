//! `anabranch diff`: two generations of a view, compared row by row at the same offsets.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_shared::{Error, Result, Role, Stop, counted};

use crate::commands::FOUND_WRONG;
use crate::commands::printing::Printing;
use crate::commands::verify::SampleSize;
use crate::output::{human_count, human_number, rows_table};
use crate::project::context::{Context, no_view};
use crate::signal::stop_flag;
use crate::work::diff::{Diff, RowsFile};
use crate::work::judge::{JudgeOptions, Judged, Judgement, judge};

/// The share of the memory bound of a build that rows may take.
const ROWS_SHARE: u64 = 4;

/// What is compared.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The view
    pub view: String,
    /// The generation to compare with: `live`, `candidate`, `previous` or a number such as `g6`
    /// [default: live]
    pub a: Option<String>,
    /// The generation that is compared [default: candidate, or previous where there is none]
    pub b: Option<String>,
    /// Compares only rows that meet a condition in SQL over the view's columns
    #[arg(long = "where", value_name = "CONDITION")]
    pub only_where: Option<String>,
    /// Compares only a part of the keys, such as `1%`
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "only_where")]
    pub sample: Option<f64>,
    /// Also writes every row that differs to a file: `.csv`, `.ndjson` or `.parquet`
    #[arg(long, value_name = "FILE")]
    pub rows: Option<PathBuf>,
}

/// A share of the keys.
fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse()? {
        SampleSize::Share(share) => Ok(share),
        SampleSize::Keys(_) => Err(format!("`{text}` is no share; write one such as `1%`")),
    }
}

/// The relation of a view's generation that a word means.
fn relation(view: &str, word: &str) -> Result<String> {
    match word {
        "live" => Ok(view.to_owned()),
        "candidate" | "previous" => Ok(format!("{word}.{view}")),
        _ if anabranch_shared::is_schema_of_generations(word) => Ok(format!("{word}.{view}")),
        _ => Err(Error::Invalid(format!(
            "`{word}` is no generation; write `live`, `candidate`, `previous`, or a number such as `g6`"
        ))),
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.2}%", part as f64 / whole as f64 * 100.0),
    }
}

fn amount(number: Option<f64>) -> String {
    number.map_or(String::new(), human_number)
}

/// A comparison for people.
pub(crate) fn text(judged: &Judged) -> String {
    let diff = &judged.diff;
    let [a, b] = judged.generations;
    let mut text = format!(
        "{}: g{b} compared with g{a} at [{}]: {}\n",
        judged.view,
        judged.head,
        diff.summary()
    );
    if let Some(share) = judged.sample {
        text += &format!("  of {}% of the keys\n", share * 100.0);
    }
    if let Some([a, b]) = &judged.grain {
        text += &format!(
            "  the grain changed from ({}) to ({}): compared by ({})\n",
            a.join(", "),
            b.join(", "),
            diff.keys.join(", ")
        );
    }
    for (what, columns) in [
        ("lost", &diff.columns_only_a),
        ("new", &diff.columns_only_b),
    ] {
        if !columns.is_empty() {
            text += &format!("  columns {what}: {}\n", columns.join(", "));
        }
    }
    if diff.is_equal() {
        return text;
    }
    text += &indented(&columns_table(diff));
    let rows = diff.largest.iter().map(|c| {
        let key = c.key.join(", ");
        vec![
            key,
            c.column.clone(),
            c.a.clone(),
            c.b.clone(),
            amount(c.by),
        ]
    });
    text += &titled(
        "largest changes",
        &[&diff.keys.join(", "), "column", "before", "after", "by"],
        rows.collect(),
    );
    let rows = diff.segments.iter().map(|s| {
        vec![
            format!("{} = {}", s.key, s.value),
            human_count(s.differing),
            human_count(s.rows),
            format!("{:.1}%", s.share * 100.0),
            format!("{:.1}", s.lift),
        ]
    });
    text += &titled(
        "where it differs more than elsewhere",
        &["segment", "differing", "rows", "of all", "lift"],
        rows.collect(),
    );
    for (what, rows) in [
        ("lost", &diff.samples_only_a),
        ("new", &diff.samples_only_b),
    ] {
        for row in rows {
            text += &format!("  {what}: {}\n", row.join(", "));
        }
    }
    text
}

fn columns_table(diff: &Diff) -> String {
    let both = diff.rows_of_both();
    let rows = diff.columns.iter().map(|c| {
        vec![
            c.name.clone(),
            percent(both - c.changed.min(both), both),
            human_count(c.changed),
            amount(c.total_a),
            amount(c.total_b),
            c.total_changed()
                .filter(|_| c.total_a != c.total_b)
                .map_or(String::new(), |share| format!("{:+.2}%", share * 100.0)),
            c.compared.unwrap_or_default().to_owned(),
        ]
    });
    let headers = ["column", "same", "changed", "total before", "after", "", ""];
    rows_table(&headers, rows.collect())
}

fn titled(title: &str, headers: &[&str], rows: Vec<Vec<String>>) -> String {
    match rows.is_empty() {
        true => String::new(),
        false => format!("  {title}\n{}", indented(&rows_table(headers, rows))),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Compares, and says what came of it. The exit code tells whether something differs.
pub(crate) async fn run(args: &DiffArgs, context: &Context, printing: Printing) -> Result<u8> {
    let entry = context.catalogue.current();
    let known = entry.views.get(&args.view);
    let known = known.ok_or_else(|| no_view(&args.view, entry.views.keys()))?;
    let other = match (&args.b, known.candidate.is_some()) {
        (Some(word), _) => word.clone(),
        (None, true) => "candidate".to_owned(),
        (None, false) if known.of_role(Role::Previous).is_some() => "previous".to_owned(),
        (None, false) => {
            return Err(Error::NotFound(format!(
                "view `{}` has neither a candidate nor a previous generation to compare with; `anabranch apply --no-cut-over` builds a candidate",
                args.view
            )));
        }
    };
    let a = relation(&args.view, args.a.as_deref().unwrap_or("live"))?;
    let b = relation(&args.view, &other)?;
    let rows = args.rows.as_deref().map(RowsFile::create).transpose()?;
    let rows = rows.map(Arc::new);
    let options = JudgeOptions {
        only_where: args.only_where.clone(),
        sample: args.sample,
        rows: rows.clone(),
        memory_bytes: usize::try_from(context.project.build.memory_bytes / ROWS_SHARE)
            .unwrap_or(usize::MAX),
        stop: Stop::by_flag(&stop_flag()),
    };
    let judged = match judge(context, (&a, &b), &options).await? {
        Judgement::Compared(judged) => judged,
        Judgement::OtherGrain(why) => return Err(Error::Invalid(why)),
    };
    let written = rows.map(|file| file.finish()).transpose()?;
    let told = match (&args.rows, written) {
        (Some(path), Some(rows)) => {
            let rows = counted(rows, "row", "rows");
            format!("  {rows} in `{}`\n", path.display())
        }
        _ => String::new(),
    };
    printing.either(|| text(&judged) + &told, &judged)?;
    Ok(if judged.diff.is_equal() {
        0
    } else {
        FOUND_WRONG
    })
}
