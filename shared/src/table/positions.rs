//! The positions of partitions in a table: up to where its commits have absorbed each.

use object_store::path::Path;

use super::{TableState, Txn};
use crate::{Error, Offset, OffsetRange, Offsets, PartitionId, Result, planted};

/// The position of a partition, by its name in `txn` actions.
const PARTITION_APP: &str = "partition/";
/// The name of a partition's position in `txn` actions.
pub(crate) fn partition_app(partition: PartitionId) -> String {
    format!("{PARTITION_APP}{partition}")
}

/// The vector of a table's partitions' positions.
pub(crate) fn positions(state: &TableState) -> Offsets {
    let position = |(app, &version): (&String, &i64)| {
        let partition = app.strip_prefix(PARTITION_APP)?.parse().ok()?;
        Some((PartitionId(partition), Offset(version)))
    };
    state.txns.iter().filter_map(position).collect()
}

/// Positions as `txn` actions.
pub(crate) fn position_txns(ranges: &[(PartitionId, OffsetRange)]) -> Vec<Txn> {
    ranges
        .iter()
        .map(|(p, r)| Txn::new(partition_app(*p), r.end.0))
        .collect()
}

/// Refuses a commit whose ranges don't start where the table's positions are.
pub(crate) fn check_start(
    table: &Path,
    state: &TableState,
    ranges: &[(PartitionId, OffsetRange)],
) -> Result<()> {
    for (partition, range) in ranges {
        let app = partition_app(*partition);
        let found = state.txn(&app);
        if found != range.start.0 && !planted("planted-fence-ignored") {
            let (table, start) = (table.to_string(), range.start.0);
            return Err(Error::Fenced {
                table,
                app,
                start,
                found,
            });
        }
    }
    Ok(())
}
