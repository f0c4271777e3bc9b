//! `anabranch replay`: the answer of a receipt, computed again and compared.

use std::io::Read;

use anabranch_shared::{Claims, Error, Receipt, Result};
use chrono::SecondsFormat;

use crate::commands::FOUND_WRONG;
use crate::commands::printing::Printing;
use crate::commands::sql::RemoteArgs;
use crate::project::context::Context;
use crate::reader::session::QuerySession;

/// What is computed again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// The receipt; `-` reads it from standard input
    pub receipt: String,
    /// Who computes it, where it is no daemon of the project
    #[command(flatten)]
    pub remote: RemoteArgs,
}

const EXAMPLES: &str = "\
Examples:
  anabranch sql -c \"SET anabranch.receipts = on; SELECT count(*) FROM pageviews\"
  anabranch replay abr1.eyJz…
  anabranch replay --url https://facts.example.org:8787 - < receipt";

impl ReplayArgs {
    fn receipt(&self) -> Result<Receipt> {
        if self.receipt != "-" {
            return self.receipt.parse();
        }
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|e| Error::io("standard input", e))?;
        text.parse()
    }
}

/// Computes it again with whoever answers this project.
pub(crate) async fn run(args: &ReplayArgs, context: &Context, printing: Printing) -> Result<u8> {
    let receipt = args.receipt()?;
    told(&QuerySession::open(context).await?, &receipt, printing).await
}

/// As [`run`], with the daemon at a URL, which needs no project.
pub(crate) async fn run_remote(args: &ReplayArgs, printing: Printing) -> Result<u8> {
    let receipt = args.receipt()?;
    told(&args.remote.session().await?, &receipt, printing).await
}

async fn told(session: &QuerySession, receipt: &Receipt, printing: Printing) -> Result<u8> {
    let replayed = session.replay(receipt).await?;
    let lines = |name: &str| -> Vec<String> {
        let list = replayed[name].as_array().into_iter().flatten();
        list.filter_map(|line| Some(line.as_str()?.to_owned()))
            .collect()
    };
    let is_same = replayed["same"].as_bool().unwrap_or(false);
    let text = || {
        let mut text = about(receipt.claims());
        text += match is_same {
            true => "the same answer comes of it now\n",
            false => "another answer comes of it now:\n",
        };
        for line in lines("differences") {
            text += &format!("  {line}\n");
        }
        for line in lines("notes") {
            text += &format!("note: {line}\n");
        }
        text
    };
    printing.either(text, &replayed)?;
    Ok(if is_same { 0 } else { FOUND_WRONG })
}

/// What a receipt is of.
fn about(claims: &Claims) -> String {
    let mut text = format!("{}\n", claims.sql.trim());
    for (nth, value) in claims.values.iter().enumerate() {
        text += &format!("  ${} = {value}\n", nth + 1);
    }
    let at = claims.asked_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let by = claims.user.as_ref().map(|user| format!(" by {user}"));
    let rows = anabranch_shared::counted(claims.rows, "row", "rows");
    text += &format!(
        "asked {at}{} up to {}: {rows}\n",
        by.unwrap_or_default(),
        claims.heads
    );
    for (name, view) in &claims.views {
        text += &format!(
            "  {name}: generation {}, states up to [{}]\n",
            view.generation, view.boundary
        );
    }
    text
}
