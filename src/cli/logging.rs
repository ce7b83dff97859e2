// SPDX-License-Identifier: Apache-2.0
//! Log lines: to the file that engines give (`--log`, one JSON object or one text line an event), else to stderr. What is only good
//! to know goes to people there, not to programs, which may take it for an answer: to a terminal, or with `--debug`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

use super::Global;
use crate::sys::clock::rfc3339_utc;
use crate::{Context, Error, ErrorKind, Result};

/// The forms of a log line, as runc has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogFormat {
    /// `time="…" level=… msg="…"`
    Text,
    /// `{"level":…,"msg":…,"time":…}`
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("invalid log-format: {text}"))
                .with_hint("it is text or json")),
        }
    }
}

/// Sets logging up for this process.
///
/// # Errors
/// When the log file cannot be opened.
pub(super) fn init(global: &Global) -> Result<()> {
    let file = open(global)?.map(Mutex::new);
    let level = match global.debug {
        true => LevelFilter::DEBUG,
        false if file.is_some() || std::io::stderr().is_terminal() => LevelFilter::INFO,
        false => LevelFilter::WARN,
    };
    let lines = Lines { format: global.log_format, file };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(level));
    // A second call in one process (a test) keeps the first subscriber.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}

/// Writes the error that ends the command to the log file, where engines look for it.
pub(super) fn error(global: &Global, error: &Error) {
    if let Ok(Some(mut file)) = open(global) {
        // It has been printed already: a log that cannot be written changes nothing.
        drop(file.write_all(line(global.log_format, Level::ERROR, &error.chain()).as_bytes()));
    }
}

fn open(global: &Global) -> Result<Option<File>> {
    let Some(path) = &global.log else { return Ok(None) };
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    file.map(Some).context(|| format!("open the log {}", path.display()))
}

struct Lines {
    format: LogFormat,
    file: Option<Mutex<File>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = line(self.format, *event.metadata().level(), &text.finish());
        let written = match &self.file {
            Some(file) => match file.lock() {
                Ok(mut file) => file.write_all(line.as_bytes()),
                Err(_) => return,
            },
            None => std::io::stderr().write_all(line.as_bytes()),
        };
        // A log that cannot be written must not stop the work it speaks of.
        drop(written);
    }
}

fn line(format: LogFormat, level: Level, message: &str) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    };
    let time = rfc3339_utc(SystemTime::now());
    match format {
        LogFormat::Json => {
            let line = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{line}\n")
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    }
}

/// The message of an event, then its fields as `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
