//! Points of the wall clock: `%START_TIME(…)%` and its kin, with `strftime`'s specifiers and Envoy's for parts of a second.

mod civil;
mod digits;
mod parts;

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

use civil::Civil;
use parts::{Part, compile, prints_newline};

/// How a point in time prints.
#[derive(Debug)]
pub(super) struct TimeFormat {
    /// A number of its own within the process.
    id: u64,
    parts: Vec<Part>,
    /// So many parts at the front print the same for a whole second.
    steady: usize,
    /// None: UTC.
    zone: Option<TimeZone>,
}

/// What the last format printed of the last second: the next line of a log most likely begins the same.
struct LastSecond {
    /// The format and the second.
    of: Option<(u64, u64)>,
    civil: Civil,
    text: Vec<u8>,
}

thread_local! {
    static LAST: RefCell<LastSecond> = const {
        RefCell::new(LastSecond {
            of: None,
            civil: Civil::EPOCH,
            text: Vec::new(),
        })
    };
}

impl TimeFormat {
    /// Takes a format apart; an empty one stands for ISO 8601 with milliseconds.
    pub(super) fn parse(format: &str, local: bool) -> Result<Self, String> {
        if prints_newline(format.as_bytes()) {
            return Err("Invalid header configuration. Format string contains newline.".to_owned());
        }
        let format = match (format, local) {
            ("", false) => "%Y-%m-%dT%H:%M:%E3SZ",
            ("", true) => "%Y-%m-%dT%H:%M:%E3S%z",
            (format, _) => format,
        };
        let zone = local.then(TimeZone::system);
        Ok(Self::new(compile(format.as_bytes()), zone))
    }

    fn new(parts: Vec<Part>, zone: Option<TimeZone>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let changes = |part: &Part| matches!(part, Part::Fraction(_) | Part::ExactSeconds { .. });
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            steady: parts.iter().position(changes).unwrap_or(parts.len()),
            parts,
            zone,
        }
    }

    /// Appends `time`.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (steady, rest) = self.parts.split_at(self.steady);
        LAST.with_borrow_mut(|last| {
            let of = Some((self.id, since.as_secs()));
            if last.of != of {
                last.of = of;
                last.civil = Civil::new(since.as_secs(), self.zone.as_ref());
                last.text.clear();
                for part in steady {
                    part.write(&last.civil, &mut last.text);
                }
            }
            out.extend_from_slice(&last.text);
            // Envoy's clock counts microseconds.
            last.civil.nanosecond = since.subsec_micros() * 1_000;
            for part in rest {
                part.write(&last.civil, out);
            }
        });
    }
}

#[cfg(test)]
mod tests;
