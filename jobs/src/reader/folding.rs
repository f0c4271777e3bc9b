//! How this process folds facts for a query that it answers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_shared::{FoldOptions, FoldProgress, Result, Spill};
use anabranch_speed::Following;

use crate::project::context::Context;
use crate::project::limits::threads;

/// How facts of the log are folded for one query, within so much memory.
pub(super) fn following(
    context: &Context,
    memory_bytes: usize,
    stop: &Arc<AtomicBool>,
) -> Result<Following> {
    let name = format!("anabranch-{}", context.storage.ids().fresh());
    Ok(Following {
        fold: FoldOptions {
            threads: threads(context.project.query.threads),
            memory_bytes,
            stop: stop.clone(),
            progress: Arc::new(FoldProgress::default()),
        },
        memory_bytes,
        most_memory_bytes: memory_bytes,
        memory_setting: "`memory` in `[query]`",
        spill: Some(Arc::new(Spill::open(
            &std::env::temp_dir().join(name),
            context.project.daemon.spill_bytes,
        )?)),
        held: Arc::default(),
    })
}
