//! What the process logs on standard error, and in which form: text, or a JSON object on a line.

use std::fmt;
use std::io::{IsTerminal, Write};

use anabranch_shared::settings::LogFormat;
use anabranch_shared::{Error, Result, without_passwords};
use chrono::SecondsFormat;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::now;
use crate::output::{Style, for_people};

/// The variable that names the level.
const LEVEL: &str = "ANABRANCH_LOG";

/// The variable that names the form, before the project does.
const FORMAT: &str = "ANABRANCH_LOG_FORMAT";

/// Begins to log, in the form that the environment names, otherwise in that of the project. Returns
/// the form.
///
/// # Errors
/// `Invalid` where a variable is none of what it may be.
pub fn begin(of_project: Option<LogFormat>) -> Result<LogFormat> {
    let filter = filter(std::env::var(LEVEL).ok().as_deref())?;
    let format = match std::env::var(FORMAT).ok().as_deref() {
        None | Some("") => of_project.unwrap_or(LogFormat::Text),
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            return Err(Error::Invalid(format!(
                "`{FORMAT}` = `{other}`: write text or json"
            )));
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Redacted(std::io::stderr()));
    match format {
        LogFormat::Text => log
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        LogFormat::Json => log.event_format(JsonLines).init(),
    }
    Ok(format)
}

/// Says why the process fails.
pub fn fail(e: &Error, format: LogFormat) {
    let text = match format {
        LogFormat::Text => {
            let text = for_people(&without_passwords(&format!("error: {e}")));
            Style::detect_stderr().red(&text)
        }
        LogFormat::Json => {
            let message = without_passwords(&e.to_string()).into();
            line(
                "ERROR",
                [("message", message), ("kind", e.kind().to_string().into())],
            )
        }
    };
    // With standard error gone too there is nobody left to tell.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// What is logged: of this software from the level that `ANABRANCH_LOG` names on, of others warnings.
fn filter(wanted: Option<&str>) -> Result<EnvFilter> {
    let wanted = wanted.filter(|w| !w.is_empty()).unwrap_or("info");
    let wrong = || {
        Error::Invalid(format!(
            "`{LEVEL}` = `{wanted}`: write error, warn, info or debug"
        ))
    };
    let others = match wanted {
        "off" | "error" => wanted,
        "warn" | "info" | "debug" | "trace" => "warn",
        // Targets with levels of their own, as `tracing` writes them.
        _ if wanted.contains('=') => return EnvFilter::try_new(wanted).map_err(|_| wrong()),
        _ => return Err(wrong()),
    };
    // A consumer that was refused can't be closed well, and is told of by its source.
    let quiet = "rdkafka::consumer::base_consumer=off";
    EnvFilter::try_new(format!("{others},{quiet},anabranch={wanted}")).map_err(|_| wrong())
}

/// Standard error for logs: URLs in them lose their passwords. Each event comes in one piece.
struct Redacted(std::io::Stderr);

impl Write for Redacted {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(without_passwords(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Writes each event as an object: `time`, `level` and `message` first, then its fields.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        // The message is what it is about; the others say of what.
        fields.0.sort_by_key(|(name, _)| *name != "message");
        let level = event.metadata().level().as_str();
        writeln!(writer, "{}", line(level, fields.0))
    }
}

/// The fields of an event.
struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}").into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), value.into()));
    }
}

/// An object on one line.
fn line<'f>(level: &str, fields: impl IntoIterator<Item = (&'f str, Value)>) -> String {
    let time = now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let first = [("time", time.into()), ("level", level.into())];
    let pairs = first.into_iter().chain(fields);
    let pairs = pairs.map(|(name, value)| format!("{}:{value}", Value::from(name)));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_line_is_an_object_in_its_order() {
        let fields = [
            ("message", Value::from("a \"quoted\"\nline")),
            ("facts", 3.into()),
        ];
        let text = line("INFO", fields);
        assert_eq!(text.lines().count(), 1);
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["message"], "a \"quoted\"\nline");
        assert_eq!(
            (read["level"].as_str(), read["facts"].as_i64()),
            (Some("INFO"), Some(3))
        );
        let order: Vec<_> = ["\"time\"", "\"level\"", "\"message\"", "\"facts\""]
            .map(|name| text.find(name).unwrap())
            .to_vec();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn levels_that_are_none_are_refused() {
        for level in [
            "error",
            "warn",
            "info",
            "debug",
            "anabranch_speed=trace",
            "",
        ] {
            assert!(filter(Some(level)).is_ok(), "{level}");
        }
        assert!(filter(Some("verbose")).is_err());
    }
}
