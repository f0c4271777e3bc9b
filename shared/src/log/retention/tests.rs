//! Dead letters go when they are old enough, whatever becomes of the facts.

use arrow::array::{
    ArrayRef, BinaryViewArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};

use super::*;
use crate::storage::Storage;
use crate::topic::TopicField;
use crate::{Landing, Topic};

const PARTITION: PartitionId = PartitionId(0);

/// A landing of one offset, which is a dead letter that came at a time in microseconds since 1970.
fn landing(offset: i64, came_us: i64) -> Result<Landing> {
    let text = |v: &str| -> ArrayRef { Arc::new(StringViewArray::from_iter_values([v])) };
    let none = || -> ArrayRef { Arc::new(StringViewArray::new_null(1)) };
    let came = TimestampMicrosecondArray::from(vec![came_us]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        text("t"),
        Arc::new(Int32Array::from(vec![0])),
        Arc::new(Int64Array::from(vec![offset])),
        Arc::new(came),
        none(),
        Arc::new(Int64Array::from(vec![None])),
        text("no time"),
        none(),
        Arc::new(BinaryViewArray::from_iter_values([b"{}"])),
    ];
    Ok(Landing {
        ranges: vec![(
            PARTITION,
            OffsetRange::new(Offset(offset), Offset(offset + 1)),
        )],
        dead_letters: vec![RecordBatch::try_new(dead_letter_schema(), columns)?],
        ..Default::default()
    })
}

#[tokio::test]
async fn old_dead_letters_go_by_the_file() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| crate::Error::io("a folder", e))?;
    let storage = Storage::folder(dir.path())?;
    let topic = Topic {
        name: "t".into(),
        event_time: "ts".into(),
        fields: vec![TopicField {
            name: "ts".into(),
            field_type: crate::settings::FieldType::Timestamp,
            nullable: false,
            reads: crate::settings::FieldReads::default(),
        }],
    };
    let log = Log::open(&storage, &topic, 1).await?;
    for (offset, came_us) in [(0, 1_000), (1, 2_000), (2, 3_000)] {
        log.land(&landing(offset, came_us)?, 1).await?;
    }
    let low = Offsets::default();
    let rows = |before_us| log.removable(&low, before_us).map(|(_, dead)| dead.rows);
    assert_eq!(
        (rows(None)?, rows(Some(1_000))?, rows(Some(2_500))?),
        (0, 0, 2)
    );
    assert_eq!(log.remove_dead_letters(None, 2).await?.rows, 0);
    assert_eq!(log.remove_dead_letters(Some(2_500), 2).await?.rows, 2);
    assert_eq!(log.remove_dead_letters(Some(2_500), 3).await?.rows, 0);
    // The log goes on, for who opens it anew too.
    let log = Log::open(&storage, &topic, 1).await?;
    log.land(&landing(3, 4_000)?, 4).await?;
    let left = log.dead_letters().with_state(|s| {
        let mut came: Vec<_> = s
            .files
            .values()
            .filter_map(|f| newest_dead_letter(f))
            .collect();
        came.sort_unstable();
        came
    });
    assert_eq!(left, [3_000, 4_000]);
    assert_eq!(log.head().get(PARTITION), Offset(4));
    Ok(())
}
