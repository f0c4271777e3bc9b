//! A log of many small landings, as a daemon makes in a day: what would take it that day is done
//! as fast as the storage allows, by the daemon's own admission and the log's own landings.

use std::path::PathBuf;

use anabranch_jobs::clock::{now_ms, now_us};
use anabranch_jobs::project::context::Context;
use anabranch_shared::settings::UnknownFields;
use anabranch_shared::{Landing, Offset, OffsetRange, OwnPartitions};
use anabranch_speed::Payload;
use anabranch_speed::intake::admission::Admission;
use anyhow::{Result, ensure};
use serde_json::json;

use crate::Output;
use crate::requests::Lines;

/// The owner of the partition that these landings are of.
const OWNER: &str = "load-land";

/// The largest record, in bytes.
const RECORD_BYTES: usize = 16 << 20;

/// What to land. No daemon may run.
#[derive(Debug, clap::Args)]
pub struct LandArgs {
    /// The project's folder
    #[arg(long)]
    project: PathBuf,
    /// The topic
    #[arg(long, default_value = "pageviews")]
    topic: String,
    /// The facts, as NDJSON
    #[arg(long)]
    file: PathBuf,
    /// How many landings; fewer where the facts don't suffice
    #[arg(long)]
    landings: u64,
    /// Facts of one landing
    #[arg(long)]
    facts_per_landing: u64,
    /// Facts of the file to pass over
    #[arg(long, default_value_t = 0)]
    skip: u64,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Lands and prints what it landed.
pub fn run(args: &LandArgs) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (landings, facts) = runtime.block_on(land(args))?;
    args.output.print(
        &format!("{facts} facts in {landings} landings"),
        &json!({ "facts": facts, "landings": landings }),
    )
}

async fn land(args: &LandArgs) -> Result<(u64, u64)> {
    ensure!(
        args.facts_per_landing > 0,
        "`--facts-per-landing` has to be at least 1"
    );
    let context = Context::open(&args.project).await?;
    let partition = context
        .catalogue
        .claim_partition(&args.topic, OWNER, OwnPartitions::First)
        .await?;
    let log = context.log(&args.topic).await?;
    let topic = log.topic();
    let (schema, event_time) = (topic.field_schema(), &topic.event_time);
    let admission = Admission::new(&schema, event_time, UnknownFields::Keep, RECORD_BYTES)?;
    let mut next = log.head().get(partition);
    let mut lines = Lines::open(&args.file)?;
    lines.pass(args.skip)?;
    let checkpoint_every = context.project.daemon.checkpoint_every.max(1);
    let (mut landings, mut facts) = (0, 0);
    while landings < args.landings {
        let (body, count) = lines.next(args.facts_per_landing)?;
        if count == 0 {
            break;
        }
        let admitted = admission.ndjson(&body.into())?;
        let payload = Payload::new(admitted, now_us(), None, None);
        let piece = payload.at(&topic, &log.schema(), partition, next)?;
        let end: Offset = piece.range.end;
        let landing = Landing {
            ranges: vec![(partition, OffsetRange::new(next, end))],
            facts: vec![piece.facts],
            dead_letters: piece.dead.into_iter().collect(),
            ..Default::default()
        };
        log.land(&landing, now_ms()).await?;
        (next, landings, facts) = (end, landings + 1, facts + count);
        if landings.is_multiple_of(checkpoint_every) {
            log.table().write_checkpoint().await?;
        }
    }
    Ok((landings, facts))
}
