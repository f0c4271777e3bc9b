//! `anabranch rollback`: the generation that answered before answers again, with all facts that came
//! since; and `anabranch history`: which took whose place, when and why.

use anabranch_shared::{Act, Result, Succession};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use crate::commands::printing::Printing;
use crate::output::rows_table;
use crate::project::context::{Context, no_view};
use crate::signal::stop_flag;
use crate::work::apply::{roll_back, rolled_back_text};
use crate::work::doer::Why;
use crate::work::history;

/// What goes back.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// The view
    pub view: String,
    /// Why it is done; kept with the history of the view
    #[arg(long, short)]
    pub message: Option<String>,
}

/// Goes back, and says so.
pub(crate) async fn run(args: &RollbackArgs, context: &Context, printing: Printing) -> Result<u8> {
    let stop = stop_flag();
    let why = Why::because(args.message.as_deref());
    let done = roll_back(context, &args.view, &why, &stop).await?;
    let (from, to) = done;
    printing.either(
        || rolled_back_text(&args.view, from, to),
        &json!({"view": args.view, "from": from, "to": to}),
    )?;
    Ok(0)
}

fn done(of: &Succession) -> &'static str {
    match of.act {
        Act::CutOver => "cut over",
        Act::RollBack => "rolled back",
    }
}

/// Shows which generation of a view took whose place.
pub(crate) async fn history(view: &str, context: &Context, printing: Printing) -> Result<u8> {
    let entry = context.catalogue.current();
    let all = history::of_view(context, view).await?;
    if all.is_empty() && !entry.views.contains_key(view) {
        return Err(no_view(view, entry.views.keys()));
    }
    let text = || {
        if all.is_empty() {
            return format!("view {view}: its first generation answers\n");
        }
        let rows = all.iter().map(|s| {
            let at = DateTime::from_timestamp_millis(s.at_ms);
            let at = at.map_or(String::new(), |at| {
                at.to_rfc3339_opts(SecondsFormat::Secs, true)
            });
            let judged = s.judged.as_ref().map(|j| j.summary.clone());
            vec![
                at,
                done(s).to_owned(),
                match &s.moved_from {
                    Some(former) => format!("g{} of {former} → g{}", s.from, s.to),
                    None => format!("g{} → g{}", s.from, s.to),
                },
                s.by.clone(),
                s.message.clone().unwrap_or_default(),
                judged.unwrap_or_default(),
            ]
        });
        rows_table(
            &["when", "what", "", "by", "why", "difference"],
            rows.collect(),
        )
    };
    printing.either(text, &all)?;
    Ok(0)
}
