//! `anabranch verify`: the law on live data.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::{Error, Ids, Result};

use crate::commands::printing::Printing;
use crate::commands::{FOUND_WRONG, batch};
use crate::commands::{LINE_EVERY, SHOW_EVERY, progress_bar};
use crate::output::Format;
use crate::project::context::{Context, no_view};
use crate::signal::stop_flag;
use crate::work::verify::text::{json, text};
use crate::work::verify::{Part, Verified, VerifyOptions, VerifyProgress, Whose};
use crate::work::verify_view;
use crate::work::verify_view::compare_view;

/// How many keys are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleSize {
    /// A share, above 0 and at most 1.
    Share(f64),
    /// About so many.
    Keys(u64),
}

impl FromStr for SampleSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no sample: write a share above 0% and up to 100%, such as `1%`, or a number of keys, such as `10000`"
            )
        };
        let share = |text: &str| {
            let percent = text.trim().parse::<f64>().ok()?;
            (percent > 0.0 && percent <= 100.0).then_some(Self::Share(percent / 100.0))
        };
        let keys = || text.parse().ok().filter(|&n: &u64| n > 0).map(Self::Keys);
        match text.strip_suffix('%') {
            Some(percent) => share(percent),
            None => keys(),
        }
        .ok_or_else(wrong)
    }
}

/// What of the views is compared.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The views [default: all]
    pub views: Vec<String>,
    /// Compares only a part of the keys: a share (`1%`) or about a number of them (`10000`). The
    /// facts are still read once; aggregating and comparing cost the part
    #[arg(long, value_name = "N%|N")]
    pub sample: Option<SampleSize>,
    /// Chooses which keys are in the sample: the same seed chooses the same keys [default: random]
    #[arg(long, requires = "sample")]
    pub seed: Option<u64>,
    /// Compares the answers of the running daemon, with what it has in memory, instead of answers
    /// that this command makes from the log and the WAL. The daemon does the work
    #[arg(long)]
    pub daemon: bool,
}

impl VerifyArgs {
    /// Whose answers are meant.
    pub fn whose(&self) -> Whose {
        match self.daemon {
            true => Whose::Daemon,
            false => Whose::Own,
        }
    }

    fn part(&self) -> Part {
        let seed = self
            .seed
            .unwrap_or_else(|| Ids::default().fresh().as_u64_pair().0 >> 32);
        match self.sample {
            None => Part::Whole,
            Some(SampleSize::Share(share)) => Part::Share { share, seed },
            Some(SampleSize::Keys(keys)) => Part::Keys { keys, seed },
        }
    }

    /// The views that are meant, and what of them. All are checked before the first is verified.
    ///
    /// # Errors
    /// `NotFound` for a name that no view has.
    pub fn chosen(&self, context: &Context) -> Result<(Vec<String>, Part)> {
        let entry = context.catalogue.current();
        let known = |name: &&String| entry.views.get(*name).is_some_and(|v| v.live.is_some());
        if let Some(unknown) = self.views.iter().find(|name| !known(name)) {
            return Err(no_view(unknown, entry.views.keys()));
        }
        let names = match self.views.is_empty() {
            true => entry.views.keys().filter(known).cloned().collect(),
            false => self.views.clone(),
        };
        Ok((names, self.part()))
    }
}

/// Verifies one view and writes nothing, showing how far it is: a bar on a terminal, lines
/// elsewhere.
pub async fn verify_shown(
    context: &Context,
    name: &str,
    options: &VerifyOptions,
    terminal: bool,
) -> Result<Verified> {
    if !terminal {
        tracing::info!(view = %name, "verifying");
    }
    let shower = tokio::spawn(show(name.to_owned(), options.progress.clone(), terminal));
    let verified = compare_view(context, name, options).await;
    shower.abort();
    verified
}

/// That a view could not be compared, for programs.
pub fn failed_json(view: &str, e: &Error) -> serde_json::Value {
    serde_json::json!({ "view": view, "error": e.to_string(), "kind": e.kind().to_string() })
}

async fn show(view: String, progress: Arc<VerifyProgress>, terminal: bool) {
    let style = "{prefix} {bar:30} {human_pos}/{human_len} facts read again, {msg}";
    let bar = progress_bar(style, terminal);
    bar.set_prefix(view.clone());
    let mut looks = 0_u32;
    let mut facts = 0;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let total = progress.facts_total.load(Ordering::Relaxed);
        facts = progress.facts().max(facts);
        let recomputed = progress.expected.load(Ordering::Relaxed);
        let merged = progress.found.load(Ordering::Relaxed);
        bar.set_length(total);
        bar.set_position(facts);
        bar.set_message(format!("{recomputed} rows recomputed, {merged} merged"));
        looks += 1;
        if !terminal && looks.is_multiple_of(LINE_EVERY) {
            tracing::info!(%view, facts, of = total, recomputed, merged, "verifying");
        }
    }
}

/// Verifies the views that are meant, one after the other; each is told beside the others.
pub(crate) async fn run(args: &VerifyArgs, context: &Context, printing: Printing) -> Result<u8> {
    let format = printing.format;
    let (views, part) = args.chosen(context)?;
    let stop = stop_flag();
    let terminal = std::io::stderr().is_terminal();
    let mut all = Vec::new();
    let mut code = 0;
    let mut failed = Vec::new();
    for view in &views {
        let options = VerifyOptions {
            whose: args.whose(),
            ..verify_view::options(context, part, &stop)
        };
        let verified = match verify_shown(context, view, &options, terminal).await {
            Ok(verified) => verified,
            // It is told beside the others, never instead of them.
            Err(e) => {
                match format {
                    Format::Table => printing.text(&format!("{view}: not compared: {e}\n"))?,
                    Format::Ndjson => printing.json(&failed_json(view, &e))?,
                    _ => all.push(failed_json(view, &e)),
                }
                failed.push(verify_view::named(view, e));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                continue;
            }
        };
        if !verified.comparison.is_equal() {
            code = FOUND_WRONG;
        }
        match format {
            Format::Table => printing.text(&text(view, &verified))?,
            Format::Ndjson => printing.json(&json(view, &verified))?,
            _ => all.push(json(view, &verified)),
        }
    }
    if format == Format::Json {
        printing.json(&all)?;
    }
    match batch::all_of(failed) {
        // A difference is worse than what was not looked at.
        Some(e) if code == 0 => Err(e),
        Some(e) => {
            tracing::error!("{e}");
            Ok(code)
        }
        None => Ok(code),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_sample_is_a_share_or_a_number() {
        let read = |text: &str| text.parse::<SampleSize>();
        assert_eq!(read("1%").unwrap(), SampleSize::Share(0.01));
        assert_eq!(read("0.5 %").unwrap(), SampleSize::Share(0.005));
        assert_eq!(read("10000").unwrap(), SampleSize::Keys(10_000));
        for wrong in ["0", "0%", "101%", "-1", "NaN%", "1.5", "", "%", "a lot"] {
            assert!(read(wrong).unwrap_err().contains("`1%`"), "{wrong}");
        }
    }
}
