//! Durations and points in time, both in nanoseconds.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

const NANOS: i128 = 1_000_000_000;
/// As far as the language goes: ten thousand years.
const MAX_DURATION: i128 = 315_576_000_000 * NANOS;

/// The duration, unless it is too long.
pub(super) fn duration(nanos: i128) -> Option<i128> {
    (-MAX_DURATION..=MAX_DURATION)
        .contains(&nanos)
        .then_some(nanos)
}

/// The point in time since 1970, unless it is before the year 1 or after the year 9999.
pub(super) fn timestamp(nanos: i128) -> Option<i128> {
    const FIRST: i128 = -62_135_596_800 * NANOS;
    const AFTER_LAST: i128 = 253_402_300_800 * NANOS;
    (FIRST..AFTER_LAST).contains(&nanos).then_some(nanos)
}

/// Reads `1h30m`, `-1.5s`, `0`.
pub(super) fn parse_duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let units = [
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", NANOS),
            ("m", 60 * NANOS),
            ("h", 3600 * NANOS),
        ];
        let (unit, nanos) = units
            .into_iter()
            .find(|(unit, _)| after.starts_with(unit))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            i128::from(whole.parse::<i64>().ok()?)
        };
        let fraction = fraction.get(..fraction.len().min(18))?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let part: i128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        };
        total = total.checked_add(whole * nanos + part * nanos / scale)?;
        rest = &after[unit.len()..];
    }
    duration(if negative { -total } else { total })
}

/// Reads `2020-01-02T03:04:05.678Z`.
pub(super) fn parse_timestamp(text: &str) -> Option<i128> {
    let parsed: Timestamp = text.parse().ok()?;
    timestamp(parsed.as_nanosecond())
}

/// `1h30m`, `1.5s`, `323.35us`, `0`.
pub(super) fn print_duration(nanos: i128) -> String {
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    let nanos = nanos.abs();
    if nanos == 0 {
        return "0".to_owned();
    }
    let fraction = |whole: i128, part: i128, digits: usize| {
        let text = format!("{whole}.{part:0digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if nanos < NANOS {
        let (unit, size, digits) = match nanos {
            0..1_000 => ("ns", 1, 0),
            1_000..1_000_000 => ("us", 1_000, 3),
            _ => ("ms", 1_000_000, 6),
        };
        if digits == 0 {
            return format!("{out}{nanos}{unit}");
        }
        return format!(
            "{out}{}{unit}",
            fraction(nanos / size, nanos % size, digits)
        );
    }
    let seconds = nanos / NANOS;
    for (unit, count) in [('h', seconds / 3600), ('m', seconds / 60 % 60)] {
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    let rest = fraction(seconds % 60, nanos % NANOS, 9);
    if rest != "0" {
        out.push_str(&rest);
        out.push('s');
    }
    out
}

/// As JSON has it: `1.500s`.
pub(super) fn json_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.abs();
    format!("{sign}{}{}s", nanos / NANOS, thousands(nanos % NANOS))
}

/// `2020-01-02T03:04:05.678+00:00`.
pub(super) fn print_timestamp(nanos: i128) -> String {
    let (mut text, part) = civil(nanos);
    if part > 0 {
        let part = format!(".{part:09}");
        text.push_str(part.trim_end_matches('0'));
    }
    text.push_str("+00:00");
    text
}

/// As JSON has it: `2020-01-02T03:04:05.500Z`.
pub(super) fn json_timestamp(nanos: i128) -> String {
    let (text, part) = civil(nanos);
    format!("{text}{}Z", thousands(part))
}

/// Fractions of a second with three, six or nine digits, or none.
fn thousands(nanos: i128) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

fn civil(nanos: i128) -> (String, i128) {
    let (seconds, part) = (nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
    let time = Timestamp::from_nanosecond(seconds * NANOS).unwrap_or_default();
    (time.strftime("%Y-%m-%dT%H:%M:%S").to_string(), part)
}

/// A part of a point in time or of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    DayOfMonth,
    Date,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl Part {
    /// The function of this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDate" => Self::Date,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }

    /// Of a point in time, in this time zone: a name, or `+02:00`. None: nobody knows the zone.
    pub(super) fn of_timestamp(self, nanos: i128, zone: Option<&str>) -> Option<i64> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(zone) => time_zone(zone)?,
        };
        let time = Timestamp::from_nanosecond(nanos).ok()?.to_zoned(zone);
        Some(match self {
            Self::FullYear => time.year().into(),
            Self::Month => i64::from(time.month()) - 1,
            Self::DayOfMonth => i64::from(time.day()) - 1,
            Self::Date => time.day().into(),
            Self::DayOfWeek => time.weekday().to_sunday_zero_offset().into(),
            Self::DayOfYear => i64::from(time.day_of_year()) - 1,
            Self::Hours => time.hour().into(),
            Self::Minutes => time.minute().into(),
            Self::Seconds => time.second().into(),
            Self::Milliseconds => time.millisecond().into(),
        })
    }

    /// Of a duration, whole; milliseconds are those of its last second.
    pub(super) fn of_duration(self, nanos: i128) -> Option<i64> {
        let part = match self {
            Self::Hours => nanos / (3600 * NANOS),
            Self::Minutes => nanos / (60 * NANOS),
            Self::Seconds => nanos / NANOS,
            Self::Milliseconds => nanos % NANOS / 1_000_000,
            _ => return None,
        };
        i64::try_from(part).ok()
    }
}

fn time_zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).ok();
    };
    let (sign, hours) = match hours.strip_prefix('-') {
        Some(hours) => (-1, hours),
        None => (1, hours.strip_prefix('+').unwrap_or(hours)),
    };
    let number = |text: &str, most: i32| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        let number: i32 = digits.then(|| text.parse().ok()).flatten()?;
        (number <= most).then_some(number)
    };
    let seconds = sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60);
    Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
}
