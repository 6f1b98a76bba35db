//! Lines of the application log, in the pattern syntax of spdlog that Envoy's `--log-format` has.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPattern {
    parts: Vec<Part>,
    /// Line breaks and tabs within messages are written as escape sequences.
    escaped: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Flag(char),
}

/// Envoy's default.
pub const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

impl LogPattern {
    /// Parses a pattern. A flag that spdlog does not have stays as it is.
    pub fn parse(pattern: &str, escaped: bool) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut text = String::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match (
                character,
                (character == '%').then(|| characters.next()).flatten(),
            ) {
                ('%', Some('%')) => text.push('%'),
                ('%', Some(flag)) if FLAGS.contains(flag) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Flag(flag));
                }
                ('%', Some(other)) => text.extend(['%', other]),
                (character, _) => text.push(character),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Self { parts, escaped }
    }

    fn write_line(&self, line: &Line<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_str(text)?,
                Part::Flag(flag) => self.write_flag(*flag, line, out)?,
            }
        }
        out.write_char('\n')
    }

    fn write_flag(&self, flag: char, line: &Line<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        let time = &line.time;
        match flag {
            'Y' => write!(out, "{:04}", time.year),
            'C' => write!(out, "{:02}", time.year % 100),
            'm' => write!(out, "{:02}", time.month),
            'd' => write!(out, "{:02}", time.day),
            'H' => write!(out, "{:02}", time.hour),
            'M' => write!(out, "{:02}", time.minute),
            'S' => write!(out, "{:02}", time.second),
            'T' | 'X' => write!(
                out,
                "{:02}:{:02}:{:02}",
                time.hour, time.minute, time.second
            ),
            'D' => write!(
                out,
                "{:02}/{:02}/{:02}",
                time.month,
                time.day,
                time.year % 100
            ),
            'e' => write!(out, "{:03}", time.nanos / 1_000_000),
            'f' => write!(out, "{:06}", time.nanos / 1000),
            'F' => write!(out, "{:09}", time.nanos),
            'E' => write!(out, "{}", time.epoch),
            'z' => out.write_str("+00:00"),
            't' => out.write_str(line.thread),
            'P' => write!(out, "{}", std::process::id()),
            'l' => out.write_str(level_name(line.level)),
            'L' => out.write_str(&level_name(line.level)[..1].to_ascii_uppercase()),
            'n' => out.write_str(line.target),
            'g' | 's' => out.write_str(line.file),
            '#' => write!(out, "{}", line.line),
            '@' => write!(out, "{}:{}", line.file, line.line),
            '_' => out.write_str(&escape(line.message)),
            'j' => {
                let quoted = serde_json::Value::from(line.message).to_string();
                out.write_str(
                    quoted
                        .trim_start_matches('"')
                        .strip_suffix('"')
                        .unwrap_or(&quoted),
                )
            }
            'v' if self.escaped => out.write_str(&escape(line.message)),
            'v' => out.write_str(line.message),
            _ => Ok(()),
        }
    }
}

struct Line<'a> {
    time: Time,
    level: Level,
    target: &'a str,
    file: &'a str,
    line: u32,
    thread: &'a str,
    message: &'a str,
}

impl<S, N> FormatEvent<S, N> for LogPattern
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
        let mut message = Message::default();
        event.record(&mut message);
        let metadata = event.metadata();
        let thread = std::thread::current();
        let line = Line {
            time: Time::now(),
            level: *metadata.level(),
            target: super::log_control::component_of(metadata.target()),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            thread: thread.name().unwrap_or("main"),
            message: &message.text,
        };
        self.write_line(&line, &mut writer)
    }
}

/// The message of an event, and its fields after it.
#[derive(Default)]
struct Message {
    text: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            let fields = std::mem::take(&mut self.text);
            write!(self.text, "{value:?}{fields}")
        } else {
            write!(self.text, " {}={value:?}", field.name())
        };
    }
}

/// A point in time, taken apart. UTC.
struct Time {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u32,
    epoch: u64,
}

impl Time {
    fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self::at(since.as_secs(), since.subsec_nanos())
    }

    /// Days since 0000-03-01 fall into eras of 400 years, which are all alike.
    fn at(epoch: u64, nanos: u32) -> Self {
        let days = epoch / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: epoch % 86_400 / 3600,
            minute: epoch % 3600 / 60,
            second: epoch % 60,
            nanos,
            epoch,
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warning",
        Level::ERROR => "error",
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    escaped
}

const FLAGS: &str = "YCmdHMSTXDefFEztPlLngs#@_jv";

#[cfg(test)]
mod tests {
    use super::*;

    fn render(pattern: &str, escaped: bool) -> String {
        let line = Line {
            time: Time::at(1_709_210_096, 7_008_009),
            level: Level::WARN,
            target: "upstream",
            file: "a.rs",
            line: 12,
            thread: "main",
            message: "said \"x\"\nand went",
        };
        let mut out = String::new();
        LogPattern::parse(pattern, escaped)
            .write_line(&line, &mut out)
            .unwrap();
        out
    }

    #[test]
    fn the_default_pattern_is_laid_out_as_envoys() {
        assert_eq!(
            render(DEFAULT_PATTERN, true),
            "[2024-02-29 12:34:56.007][main][warning][upstream] [a.rs:12] said \\\"x\\\"\\nand went\n"
        );
    }

    #[test]
    fn messages_fit_into_json_and_unknown_flags_stay() {
        assert_eq!(
            render("{\"m\":\"%j\",\"l\":\"%L\"} 100%% %Q", false),
            "{\"m\":\"said \\\"x\\\"\\nand went\",\"l\":\"W\"} 100% %Q\n"
        );
    }
}
