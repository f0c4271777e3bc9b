//! The law against another engine: what random cases answer, merged, DuckDB answers over the same
//! facts. Needs `ANABRANCH_PYTHON`, the Python of `tests/bench/setup.sh`; without it the test says so
//! and is skipped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anabranch_shared::{DeltaPart, encode_parquet};
use anabranch_tests::places;
use anabranch_tests::skip::skipped;
use anabranch_tests::views::RandomView;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, new_null_array,
};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema, SchemaRef};
use rand::Rng;
use rand::rngs::SmallRng;

use super::check::is_out_of_range;
use super::world::World;
use super::{Coverage, run};

/// Cases that are compared.
const CASES: u64 = 200;

/// The first seed, apart from those of the law's own test.
const FIRST_SEED: u64 = 5_000_000;

impl World<'_> {
    /// Writes the case as it stands, and a wrong answer to it. Returns the view, unless a sum of it is
    /// out of range.
    async fn write_case(&mut self, dir: &Path) -> anyhow::Result<Option<RandomView>> {
        let pin = self.pin_by_hand().await?;
        let view = pin.views.get("v");
        let view = view.ok_or_else(|| anyhow::anyhow!("the pin has no view"))?;
        let sql = &view.view.definition().sql;
        let definitions = &self.view("v")?.definitions;
        let random = definitions.iter().find(|d| d.sql == *sql).cloned();
        let random = random.ok_or_else(|| anyhow::anyhow!("nobody made `{sql}`"))?;
        let states: u64 = view.delta.iter().map(DeltaPart::rows).sum();
        let answer = self.ask("SELECT * FROM v", &pin).await;
        if answer.as_ref().err().is_some_and(is_out_of_range) {
            return Ok(None);
        }
        self.coverage.count(match (view.files.is_empty(), states) {
            (false, 1..) => "from both layers",
            (false, 0) => "from the master view alone",
            (true, _) => "from the delta alone",
        });
        let facts = self.facts_between(&self.view("v")?.start_of(view.generation), &view.head)?;
        let (schema, answer) = answer?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("view.sql"), &random.duckdb)?;
        write(&dir.join("facts.parquet"), &self.whole.schema(), &facts)?;
        write(&dir.join("answer.parquet"), &schema, &answer)?;
        let answer = concat_batches(&schema, &answer)?;
        if let Some(wrong) = planted(&mut self.rng, &answer)? {
            write(&dir.join("planted.parquet"), &wrong.schema(), &[wrong])?;
        }
        Ok(Some(random))
    }
}

pub(super) fn write(
    path: &Path,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> anyhow::Result<()> {
    let file = encode_parquet(String::new(), schema, batches, 0)?;
    Ok(std::fs::write(path, file.body)?)
}

/// The answer with one difference: a row lost, a row doubled, or a value that is another one.
/// `None` where there is no row to begin with.
fn planted(rng: &mut SmallRng, answer: &RecordBatch) -> anyhow::Result<Option<RecordBatch>> {
    let rows = answer.num_rows();
    if rows == 0 {
        return Ok(None);
    }
    let at = rng.random_range(0..rows);
    let (before, row) = (answer.slice(0, at), answer.slice(at, 1));
    let after = answer.slice(at + 1, rows - at - 1);
    let fields = answer.schema().fields().clone();
    let nullable = fields
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<Field>>()));
    let changed = match rng.random_range(0..4) {
        0 => None,
        1 => Some(vec![row.clone(), row]),
        _ => {
            let wrong = rng.random_range(0..fields.len());
            let mut columns = row.columns().to_vec();
            columns[wrong] = another(fields[wrong].name(), &columns[wrong])?;
            Some(vec![RecordBatch::try_new(schema.clone(), columns)?])
        }
    };
    let parts = [vec![before], changed.unwrap_or_default(), vec![after]].concat();
    let columns = (0..fields.len()).map(|i| {
        let parts: Vec<&dyn Array> = parts.iter().map(|b| b.column(i).as_ref()).collect();
        concat(&parts)
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(RecordBatch::try_new(schema, columns)?))
}

/// Another value than that of an array of one: as near to it as must still be noticed.
fn another(name: &str, value: &ArrayRef) -> anyhow::Result<ArrayRef> {
    if let Some(floats) = value.as_primitive_opt::<Float64Type>() {
        let was = floats.iter().flatten().next();
        let now = match was {
            None => 0.0,
            Some(was) if was.is_nan() => 0.0,
            // Keys are exact, and zeroes of either sign are two keys.
            Some(0.0) if name.starts_with('k') => -was.unwrap_or_default(),
            Some(was) => was + 1e-6 * (1.0 + was.abs()),
        };
        return Ok(Arc::new(Float64Array::from(vec![now])));
    }
    if let Some(whole) = value.as_primitive_opt::<Int64Type>() {
        let was = whole.iter().flatten().next();
        // A sketch may be off by one.
        let now = was.map_or(0, |was| was.wrapping_add(3));
        return Ok(Arc::new(Int64Array::from(vec![now])));
    }
    let kind = value.data_type();
    Ok(match value.is_null(0) {
        false => new_null_array(kind, 1),
        true => {
            let zero = Int64Array::from(vec![0]);
            let text = arrow::compute::cast(&zero, &arrow::datatypes::DataType::Utf8)?;
            match arrow::compute::can_cast_types(zero.data_type(), kind) {
                true => arrow::compute::cast(&zero, kind)?,
                false => arrow::compute::cast(&text, kind)?,
            }
        }
    })
}

/// What the script says of the cases in a folder.
fn compared(python: &std::ffi::OsString, dir: &Path) -> anyhow::Result<serde_json::Value> {
    let out = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/law_duck.py"))
        .arg(dir)
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "{said}");
    Ok(serde_json::from_slice(&out.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_gives_the_merged_answers() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        skipped("`ANABRANCH_PYTHON` names no Python with DuckDB");
        return Ok(());
    };
    let dir = places::folder()?;
    let (mut events, mut views) = (Coverage::default(), BTreeMap::<String, u64>::new());
    let mut out_of_range = 0;
    for case in 0..CASES {
        let seed = FIRST_SEED + case;
        let mut coverage = Coverage::default();
        let mut world = World::new(seed, None, &mut coverage).await?;
        let written = async {
            run(&mut world).await?;
            world.write_case(&dir.path().join(seed.to_string())).await
        };
        let view = written
            .await
            .map_err(|e| anyhow::anyhow!("seed {seed}: {e}"))?;
        let Some(view) = view else {
            out_of_range += 1;
            continue;
        };
        view.covers
            .into_iter()
            .for_each(|c| *views.entry(c).or_default() += 1);
        coverage.0.retain(|what, _| what.starts_with("from "));
        events.add(coverage);
    }
    let said = compared(&python, dir.path())?;
    let list = |name: &str| said[name].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(
        list("different").is_empty(),
        "DuckDB answers otherwise (the folders are seeds):\n{:#}",
        said["different"]
    );
    anyhow::ensure!(
        list("missed").is_empty(),
        "differences that were planted were not noticed: {}",
        said["missed"]
    );
    let number = |name: &str| said[name].as_u64().unwrap_or(0);
    let (cases, planted) = (number("cases"), number("planted"));
    anyhow::ensure!(
        cases + out_of_range == CASES,
        "{cases} of {CASES} cases were compared, {out_of_range} have a sum out of range"
    );
    anyhow::ensure!(
        planted > CASES / 2,
        "only {planted} differences were planted"
    );
    anyhow::ensure!(number("rows") > CASES, "only {} rows", number("rows"));
    println!(
        "DuckDB {} gives the same answers in {cases} cases: {} rows, {} of them from facts; {planted} planted differences were noticed; {} values were compared within a bound (floating point, sketches, averages of decimals), all others by equality; {out_of_range} cases were left out, whose sums are out of range. Covered:",
        said["duckdb"], said["rows"], said["facts"], said["within_bounds"]
    );
    for (what, times) in events.0.iter().chain(&views) {
        println!("  {times:>7} {what}");
    }
    Ok(())
}
