//! `anabranch settings`: every setting with its value in this project, and where that comes from.

use std::path::Path;
use std::sync::Arc;

use anabranch_shared::settings::{FILE_NAME, Project, SettingInForce, in_force, reference};
use anabranch_shared::{Error, ErrorKind, Result, nearest};
use arrow::array::{ArrayRef, RecordBatch, StringViewArray, UInt64Array};

use crate::commands::fitting::fitted;
use crate::commands::printing::Printing;
use crate::output::{Format, Style};

/// Which settings are shown.
#[derive(Debug, clap::Args)]
pub struct SettingsArgs {
    /// A setting, such as `grace`, or a table, such as `query`: it is shown with its meaning
    #[arg(value_name = "SETTING|TABLE")]
    name: Option<String>,
}

/// Where a value comes from, in words.
fn from(setting: &SettingInForce) -> String {
    let variables: Vec<String> = setting.variables.iter().map(|v| format!("${v}")).collect();
    match (setting.line, variables.is_empty()) {
        (None, true) => "default".to_owned(),
        (None, false) => variables.join(" "),
        (Some(line), true) => format!("line {line}"),
        (Some(line), false) => format!("{}, line {line}", variables.join(" ")),
    }
}

fn value(setting: &SettingInForce) -> String {
    setting.value.clone().unwrap_or_else(|| "unset".to_owned())
}

/// The settings of a name: those of a table, or those that are called so; all where there is none.
///
/// # Errors
/// `NotFound` where nothing is called so.
fn chosen(all: Vec<SettingInForce>, name: Option<&str>) -> Result<Vec<SettingInForce>> {
    let Some(name) = name else { return Ok(all) };
    let bare = name.trim_matches(['[', ']']);
    let is = |s: &SettingInForce| {
        let table = s.table.trim_matches(['[', ']']);
        s.key == bare || table == bare || format!("{table}.{}", s.key) == bare
    };
    let found: Vec<SettingInForce> = all.iter().filter(|s| is(s)).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let keys = all.iter().map(|s| s.key.as_str());
    let near = nearest(bare, keys);
    let near = near.map_or_else(
        || "`anabranch settings` lists all".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    Err(Error::NotFound(format!(
        "no setting or table `{name}`; {near}"
    )))
}

/// The settings by table, each on a line.
fn text(settings: &[SettingInForce], style: Style) -> String {
    let mut text = String::new();
    for of_table in settings.chunk_by(|a, b| a.table == b.table) {
        let rows = of_table.iter().map(|s| {
            let default = match (&s.default, s.line.is_some() || !s.variables.is_empty()) {
                (_, false) => String::new(),
                (Some(default), true) => default.clone(),
                (None, true) => "unset".to_owned(),
            };
            vec![s.key.clone(), value(s), from(s), default]
        });
        let headers = [of_table[0].table.as_str(), "value", "from", "default"];
        text += &fitted(&headers, rows.collect(), &[1, 3], style);
        text.push('\n');
    }
    text
}

/// Each setting with all that is known of it.
fn long_text(settings: &[SettingInForce]) -> String {
    let one = |s: &SettingInForce| {
        let default = s.default.clone().unwrap_or_else(|| "unset".to_owned());
        format!(
            "{} {} = {}\n  from     {}\n  default  {default}\n  type     {}\n  {}\n",
            s.table,
            s.key,
            value(s),
            from(s),
            s.kind,
            s.meaning
        )
    };
    settings.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// The settings as rows.
fn rows(settings: &[SettingInForce]) -> Result<RecordBatch> {
    let texts = |of: &dyn Fn(&SettingInForce) -> Option<String>| -> ArrayRef {
        Arc::new(settings.iter().map(of).collect::<StringViewArray>())
    };
    let lines = settings.iter().map(|s| s.line.map(|line| line as u64));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("table", texts(&|s| Some(s.table.clone())), true),
        ("setting", texts(&|s| Some(s.key.clone())), true),
        ("value", texts(&|s| s.value.clone()), true),
        ("from", texts(&|s| Some(from(s))), true),
        (
            "line",
            Arc::new(lines.collect::<UInt64Array>()) as ArrayRef,
            true,
        ),
        ("default", texts(&|s| s.default.clone()), true),
        ("type", texts(&|s| Some(s.kind.to_owned())), true),
        ("meaning", texts(&|s| Some(s.meaning.to_owned())), true),
    ])?)
}

/// Where the folder of the project comes from.
fn project_from(dir: &Path) -> &'static str {
    let of_environment = std::env::var_os("ANABRANCH_PROJECT");
    match of_environment {
        Some(named) if Path::new(&named) == dir => "$ANABRANCH_PROJECT",
        _ if dir == Path::new(".") => "the current folder",
        _ => "--project",
    }
}

/// Shows the settings.
///
/// # Errors
/// Those of a project that can't be read; `NotFound` for a name that no setting has.
pub(crate) fn run(args: &SettingsArgs, dir: &Path, printing: Printing) -> Result<u8> {
    let file = dir.join(FILE_NAME);
    let is_there = match Project::load(dir) {
        Ok(_) => true,
        Err(e) => {
            let e = Error::from(e);
            match e.kind() {
                ErrorKind::NotFound => false,
                _ => return Err(e),
            }
        }
    };
    let written = match is_there {
        true => std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?,
        false => String::new(),
    };
    let environment = |name: &str| std::env::var(name).ok();
    let settings = chosen(in_force(&written, &environment), args.name.as_deref())?;
    match printing.format {
        Format::Table if args.name.is_some() => printing.text(&long_text(&settings))?,
        Format::Table if is_there => {
            let shown = file.display();
            let head = format!(
                "settings of `{shown}` ({}); `anabranch settings NAME` says what one does\n\n",
                project_from(dir)
            );
            printing.text(&(head + &text(&settings, printing.style)))?;
        }
        Format::Table => {
            let head = format!(
                "There is no `{}`: these are the defaults.\n",
                file.display()
            );
            printing.text(&(head + &reference()))?;
        }
        _ => printing.rows(&rows(&settings)?)?,
    }
    Ok(0)
}
