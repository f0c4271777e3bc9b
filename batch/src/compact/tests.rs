//! Which files of a log are merged, and that no row changes its place.

use std::collections::BTreeSet;

use anabranch_shared::Offset;

use super::*;

type Spans<'a> = &'a [(i32, i64, i64)];

fn file(name: usize, size: i64, spans: Spans<'_>) -> Result<Arc<AddFile>> {
    let ranges: Ranges = spans
        .iter()
        .map(|&(p, a, b)| (PartitionId(p), OffsetRange::new(Offset(a), Offset(b))))
        .collect();
    let mut add = AddFile::default();
    (add.path, add.size) = (name.to_string(), size);
    add.set_ranges(&ranges)?;
    Ok(Arc::new(add))
}

fn options() -> CompactOptions {
    CompactOptions {
        below_bytes: 100,
        to_bytes: 400,
        stop: Arc::default(),
    }
}

/// The groups, by the files' numbers.
fn grouped(files: &[(i64, Spans<'_>)]) -> Result<Vec<Vec<String>>> {
    let files = files.iter().enumerate();
    let files = files.map(|(i, (size, spans))| file(i, *size, spans));
    let groups = groups(
        LogTable::Facts,
        &files.collect::<Result<Vec<_>>>()?,
        &[],
        &options(),
    )?;
    let names = |g: &Vec<SmallFile>| g.iter().map(|f| f.add.path.clone()).collect();
    Ok(groups.iter().map(names).collect())
}

#[test]
fn neighbours_are_merged_up_to_the_target() -> Result<()> {
    // Ten files of 60 bytes: six make 360, four more 240.
    let spans: Vec<Vec<(i32, i64, i64)>> = (0..10).map(|i| vec![(0, i * 10, i * 10 + 7)]).collect();
    let files: Vec<(i64, Spans<'_>)> = spans.iter().map(|s| (60, s.as_slice())).collect();
    let found = grouped(&files)?;
    assert_eq!(
        found,
        [vec!["0", "1", "2", "3", "4", "5"], vec!["6", "7", "8", "9"]]
    );
    Ok(())
}

#[test]
fn what_stays_small_waits_until_it_is_worth_it() -> Result<()> {
    let spans: Vec<Vec<(i32, i64, i64)>> = (0..9).map(|i| vec![(0, i, i + 1)]).collect();
    let of = |sizes: &[i64]| -> Result<Vec<usize>> {
        let files: Vec<_> = sizes
            .iter()
            .zip(&spans)
            .map(|(s, r)| (*s, r.as_slice()))
            .collect();
        Ok(grouped(&files)?.iter().map(Vec::len).collect())
    };
    assert_eq!(of(&[1; 7])?, Vec::<usize>::new(), "too few");
    assert_eq!(of(&[1; 8])?, [8]);
    assert_eq!(
        of(&[50, 1, 1, 1, 1, 1, 1, 1])?,
        Vec::<usize>::new(),
        "the large one would be written again for seven small ones"
    );
    assert_eq!(of(&[50, 1, 1, 1, 1, 1, 1, 1, 1])?, [8], "it is left out");
    assert_eq!(of(&[99, 1])?, [2], "the result is not small");
    Ok(())
}

#[test]
fn large_files_are_not_touched_and_not_crossed() -> Result<()> {
    let found = grouped(&[
        (60, &[(0, 0, 1)]),
        (60, &[(0, 1, 2)]),
        (100, &[(0, 2, 3)]),
        (60, &[(0, 3, 4)]),
        (60, &[(0, 4, 5)]),
    ])?;
    assert_eq!(found, [["0", "1"], ["3", "4"]]);
    Ok(())
}

#[test]
fn files_of_several_partitions_follow_each_other_in_all_of_them() -> Result<()> {
    let found = grouped(&[
        (50, &[(0, 0, 5), (1, 0, 5)]),
        (50, &[(0, 5, 9)]),
        (50, &[(1, 5, 6), (2, 0, 4)]),
        (50, &[(0, 9, 12), (2, 4, 8)]),
    ])?;
    assert_eq!(found, [["0", "1", "2", "3"]]);
    // A large file of partition 1 lies between those of partition 0.
    let found = grouped(&[
        (50, &[(0, 0, 5), (1, 0, 5)]),
        (200, &[(1, 5, 7)]),
        (50, &[(0, 5, 9), (1, 7, 9)]),
    ])?;
    assert_eq!(found, [] as [[&str; 0]; 0]);
    Ok(())
}

/// Random layouts: no file in two groups, and in each partition a group's files have none between.
#[test]
fn a_group_is_a_run_of_files_in_each_of_its_partitions() -> Result<()> {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for _ in 0..300 {
        let mut heads = [0_i64; 4];
        let mut files = Vec::new();
        for name in 0..random(40) as usize {
            let mut spans = Vec::new();
            for (p, head) in heads.iter_mut().enumerate() {
                if random(2) == 0 {
                    let start = *head + random(3) as i64;
                    *head = start + 1 + random(5) as i64;
                    spans.push((p as i32, start, *head));
                }
            }
            if !spans.is_empty() {
                files.push(file(name, 1 + random(120) as i64, &spans)?);
            }
        }
        let found = groups(LogTable::Facts, &files, &[], &options())?;
        let mut seen = BTreeSet::new();
        for group in &found {
            assert!(group.len() > 1);
            assert!(group.iter().map(|f| f.bytes).sum::<u64>() <= 400);
            assert!(
                group
                    .iter()
                    .all(|f| f.bytes < 100 && seen.insert(f.add.path.clone()))
            );
            for p in (0..4).map(PartitionId) {
                let of_group = group.iter().filter_map(|f| f.spans.get(&p));
                let Some(hull) = of_group.copied().reduce(join) else {
                    continue;
                };
                for other in &files {
                    let inside = group.iter().any(|f| f.add.path == other.path);
                    let span = spans(other)?.get(&p).copied();
                    assert!(inside || span.is_none_or(|s| !s.overlaps(hull)));
                }
            }
        }
    }
    Ok(())
}

/// Old dead letters that were merged with new ones would stay as long as those.
#[test]
fn dead_letters_of_different_weeks_are_not_merged() -> Result<()> {
    let of_day = |day: usize| -> Result<Arc<AddFile>> {
        let offset = i64::try_from(day).unwrap_or(0);
        let mut add = file(day, 60, &[(0, offset, offset + 1)])?.as_ref().clone();
        let came = format!("1970-01-{:02}T12:00:00.000000Z", day + 1);
        let stats = serde_json::json!({"numRecords": 1, "maxValues": {"received_at": came}});
        add.stats = Some(stats.to_string());
        Ok(Arc::new(add))
    };
    let files: Vec<_> = (0..14).map(of_day).collect::<Result<_>>()?;
    let names = |which: LogTable| -> Result<Vec<Vec<usize>>> {
        let found = groups(which, &files, &[], &options())?;
        let number = |f: &SmallFile| f.add.path.parse().unwrap_or(99);
        Ok(found
            .iter()
            .map(|g| g.iter().map(number).collect())
            .collect())
    };
    let weeks = [(0..6).collect::<Vec<_>>(), (7..13).collect()];
    assert_eq!(names(LogTable::DeadLetters)?, weeks);
    assert_eq!(names(LogTable::Facts)?[0], weeks[0]);
    assert_eq!(names(LogTable::Facts)?[1], (6..12).collect::<Vec<_>>());
    Ok(())
}
