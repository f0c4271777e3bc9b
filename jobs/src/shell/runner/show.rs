//! Owns where answers go (the terminal or pipe, a file, a pager), how much of them, and what is said
//! below them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;

use super::{Answer, Giver, Runner};
use crate::output::{
    Expanded, Format, Layout, Style, human_count, human_duration, terminal_height, write_answer,
};
use crate::shell::external;

/// Lines that stand around the rows of a table, with that of the prompt.
const AROUND: usize = 6;

/// Where answers go.
pub(super) struct Place<'a> {
    out: &'a mut (dyn Write + Send),
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl<'a> Place<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send)) -> Self {
        Self { out, file: None }
    }

    /// Sends answers to a new file.
    pub(super) fn open(&mut self, path: PathBuf) -> io::Result<()> {
        self.flush()?;
        let file = BufWriter::new(File::create(&path)?);
        self.file = Some((path, file));
        Ok(())
    }

    /// Sends answers to the terminal or pipe again. Returns the file, if they went to one.
    pub(super) fn close(&mut self) -> io::Result<Option<PathBuf>> {
        let Some((path, mut file)) = self.file.take() else {
            return Ok(None);
        };
        file.flush()?;
        Ok(Some(path))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.file {
            Some((_, file)) => file,
            None => self.out,
        }
    }
}

/// An answer on its way out, which owns all that it needs.
struct Shown {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    format: Format,
    style: Style,
    layout: Layout,
}

impl Shown {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_plan() {
            return self.batches.iter().try_for_each(|batch| plan(out, batch));
        }
        let (schema, batches) = (&self.schema, &self.batches);
        write_answer(out, schema, batches, self.format, self.style, self.layout)
    }

    /// Whether it is the answer of EXPLAIN: texts of many lines, which no table shows well.
    fn is_plan(&self) -> bool {
        let mut names = self.schema.fields().iter().map(|f| f.name().as_str());
        self.format == Format::Table
            && names.next() == Some("plan_type")
            && names.next() == Some("plan")
            && names.next().is_none()
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// About how many lines it takes.
    fn lines(&self) -> usize {
        let columns = self.schema.fields().len();
        match (self.format, self.layout.expanded) {
            _ if self.is_plan() => {
                let mut text = Vec::new();
                // What can't be written is told when it is.
                self.write(&mut text).ok();
                text.iter().filter(|byte| **byte == b'\n').count()
            }
            (Format::Table, Expanded::On) => self.rows() * (columns + 1) + 2,
            // Whether rows become lists is known only when they are written.
            (Format::Table, Expanded::Auto) => self.rows() * (columns + 1) + AROUND,
            _ => self.rows() + AROUND,
        }
    }
}

impl Runner<'_> {
    /// What the place of the answers can show now.
    pub(super) fn place_style(&self) -> Style {
        match (&self.place.file, &self.giver) {
            (Some(_), _) => Style::plain(),
            (None, Giver::Person(_)) => self.options.style.resized(),
            (None, Giver::Script) => self.options.style,
        }
    }

    /// Writes an answer, and below it what a person should know.
    pub(super) async fn answer(
        &mut self,
        answer: &Answer,
        elapsed: Duration,
        expanded: Option<Expanded>,
    ) -> io::Result<()> {
        let style = self.place_style();
        let mut layout = self.options.layout;
        layout.expanded = expanded.unwrap_or(layout.expanded);
        let all: usize = answer.batches.iter().map(RecordBatch::num_rows).sum();
        let shown = Shown {
            schema: answer.schema.clone(),
            batches: match self.most_rows(style) {
                Some(most) if most < all => first_rows(&answer.batches, most),
                _ => answer.batches.clone(),
            },
            format: self.options.format,
            style,
            layout,
        };
        let rows = shown.rows();
        let has_columns = !answer.schema.fields().is_empty();
        if has_columns {
            self.show(shown).await?;
        }
        if rows < all {
            self.note(&self.cut_note(rows, all))?;
        }
        let mut parts = Vec::new();
        if self.options.layout.footer {
            parts.extend(self.counted(has_columns, all));
        }
        if self.options.timing {
            parts.push(human_duration(elapsed));
        }
        if self.options.layout.footer && !answer.freshness.is_empty() {
            parts.push(answer.freshness.clone());
        }
        if !parts.is_empty() {
            self.remark(&parts.join(" · "))?;
        }
        answer.notes.iter().try_for_each(|note| self.note(note))
    }

    /// What counts the rows where the answer itself does not.
    fn counted(&self, has_columns: bool, rows: usize) -> Option<String> {
        let unit = if rows == 1 { "row" } else { "rows" };
        let counted = format!("{} {unit}", human_count(rows as u64));
        match (&self.place.file, self.options.format) {
            _ if !has_columns => Some("done".to_owned()),
            (Some((path, _)), _) => Some(format!("{counted} to `{}`", path.display())),
            (None, Format::Table) => None,
            (None, _) => Some(counted),
        }
    }

    /// How many rows are shown, where a person could not read all.
    fn most_rows(&self, style: Style) -> Option<usize> {
        let most = usize::try_from(self.options.rows).ok()?;
        (style.terminal && most > 0).then_some(most)
    }

    fn cut_note(&self, rows: usize, all: usize) -> String {
        let (rows, all) = (human_count(rows as u64), human_count(all as u64));
        let how = match self.giver {
            Giver::Person(_) => "`\\pset rows 0` shows all, `\\o FILE` writes all to a file",
            Giver::Script => "in a file or a pipe there are all",
        };
        format!("the first {rows} of {all} rows are shown; {how}")
    }

    async fn show(&mut self, shown: Shown) -> io::Result<()> {
        let Some(pager) = self.pager_for(shown.lines()) else {
            shown.write(self.place.writer())?;
            return self.place.flush();
        };
        self.page(pager, move |out| shown.write(out)).await
    }

    /// Writes text that is an answer.
    pub(in crate::shell) async fn say(&mut self, text: &str) -> io::Result<()> {
        let Some(pager) = self.pager_for(text.lines().count() + 1) else {
            self.place.writer().write_all(text.as_bytes())?;
            return self.place.flush();
        };
        let text = text.to_owned();
        self.page(pager, move |out| out.write_all(text.as_bytes()))
            .await
    }

    /// The pager, where so many lines need one and a person is there to turn pages.
    fn pager_for(&self, lines: usize) -> Option<String> {
        let is_here = self.is_person() && self.place.file.is_none() && self.options.style.terminal;
        let height = usize::from(terminal_height().filter(|_| is_here)?);
        self.options.pager.clone().filter(|_| lines >= height)
    }

    /// Lets a person turn pages; Ctrl-C is the pager's meanwhile.
    async fn page(
        &mut self,
        pager: String,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.place.flush()?;
        let _deaf = match &self.giver {
            Giver::Person(interrupt) => Some(interrupt.deafened()),
            Giver::Script => None,
        };
        let paged = tokio::task::spawn_blocking(move || external::page(&pager, write));
        match paged.await.map_err(io::Error::other)? {
            Err(error) => self.note(&format!(
                "the pager can't be used: {error}; `\\pset pager off` does without"
            )),
            Ok(()) => Ok(()),
        }
    }
}

/// The first rows of an answer.
fn first_rows(batches: &[RecordBatch], most: usize) -> Vec<RecordBatch> {
    let mut left = most;
    let mut first = Vec::new();
    for batch in batches {
        let rows = batch.num_rows().min(left);
        left -= rows;
        first.push(batch.slice(0, rows));
    }
    first
}

fn plan(out: &mut dyn Write, batch: &RecordBatch) -> io::Result<()> {
    let text = |column: usize, row| {
        array_value_to_string(batch.column(column), row).map_err(io::Error::other)
    };
    for row in 0..batch.num_rows() {
        writeln!(out, "{}", text(0, row)?)?;
        for line in text(1, row)?.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
