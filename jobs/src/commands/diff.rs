//! `anabranch diff`: two generations of a view, compared row by row at the same offsets.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_shared::{Error, Result, Stop, counted};

use crate::commands::FOUND_WRONG;
use crate::commands::printing::Printing;
use crate::commands::verify::SampleSize;
use crate::project::context::Context;
use crate::signal::stop_flag;
use crate::work::diff::RowsFile;
use crate::work::judge::text::text;
use crate::work::judge::{JudgeOptions, Judgement, judge, sides};

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

/// Compares, and says what came of it. The exit code tells whether something differs.
pub(crate) async fn run(args: &DiffArgs, context: &Context, printing: Printing) -> Result<u8> {
    let (a, b) = sides(context, &args.view, args.a.as_deref(), args.b.as_deref())?;
    let rows = args.rows.as_deref().map(RowsFile::create).transpose()?;
    let rows = rows.map(Arc::new);
    let options = JudgeOptions {
        only_where: args.only_where.clone(),
        sample: args.sample,
        rows: rows.clone(),
        ..JudgeOptions::of(&context.project, Stop::by_flag(&stop_flag()))
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
