//! Points of the wall clock: `%START_TIME(…)%` and its kin, with `strftime`'s specifiers and Envoy's for parts of a second.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

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

#[derive(Debug, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    /// `%f` and `%1f` to `%9f`.
    Fraction(usize),
    /// `%E3S` or `%E*S`, and the same with `f`, which leaves the seconds out.
    ExactSeconds {
        digits: Option<usize>,
        seconds: bool,
    },
    /// `%Ez`: an offset with colons.
    ColonOffset,
    Field {
        pad: Pad,
        upper: bool,
        width: usize,
        conversion: u8,
    },
}

/// What stands in front of a short number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pad {
    Default,
    None,
    Space,
    Zero,
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

/// A point in time, taken apart.
struct Civil {
    year: i64,
    month: usize,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanosecond: u32,
    weekday: usize,
    year_day: u32,
    epoch: i64,
    offset: i64,
    abbreviation: Cow<'static, str>,
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

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

/// Whether some specifier stands for a line break, which a header value must not contain.
fn prints_newline(format: &[u8]) -> bool {
    format.iter().enumerate().any(|(at, byte)| {
        let mut rest = &format[at..];
        let mut skip = |set: &[u8], most: usize| {
            let n = rest
                .iter()
                .take(most)
                .take_while(|b| set.contains(b))
                .count();
            rest = &rest[n..];
        };
        if *byte != b'%' {
            return false;
        }
        skip(b"%", 1);
        skip(b"-_0^#", usize::MAX);
        skip(b"123456789", usize::MAX);
        skip(b"EO", 1);
        rest.first() == Some(&b'n')
    })
}

fn compile(format: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte == b'%').then(|| specifier(after)).flatten() {
            Some((part, used)) => {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(part);
                rest = &after[used..];
            }
            None => {
                literal.push(byte);
                rest = after;
            }
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    parts
}

/// Reads what follows a `%`: the part, and how many bytes it took. What is no specifier prints as it stands.
fn specifier(text: &[u8]) -> Option<(Part, usize)> {
    match text {
        [b'f', ..] => return Some((Part::Fraction(9), 1)),
        [digit @ b'1'..=b'9', b'f', ..] => {
            return Some((Part::Fraction(usize::from(digit - b'0')), 2));
        }
        [b'E', b'T', ..] => return Some((Part::Literal((*b"T").into()), 2)),
        [b'E', b'z', ..] => return Some((Part::ColonOffset, 2)),
        [b'E', b'*', kind @ (b'S' | b'f'), ..] => {
            let seconds = *kind == b'S';
            return Some((
                Part::ExactSeconds {
                    digits: None,
                    seconds,
                },
                3,
            ));
        }
        [b'E', digit @ b'0'..=b'9', kind @ (b'S' | b'f'), ..] => {
            let digits = Some(usize::from(digit - b'0'));
            let seconds = *kind == b'S';
            return Some((Part::ExactSeconds { digits, seconds }, 3));
        }
        [b'E', b'4', b'Y', ..] => {
            return Some((
                Part::Field {
                    pad: Pad::Zero,
                    upper: false,
                    width: 4,
                    conversion: b'Y',
                },
                3,
            ));
        }
        _ => {}
    }
    let (mut pad, mut upper, mut width, mut at) = (Pad::Default, false, 0usize, 0);
    while let Some(flag) = text.get(at) {
        match flag {
            b'-' => pad = Pad::None,
            b'_' => pad = Pad::Space,
            b'0' => pad = Pad::Zero,
            b'^' | b'#' => upper = true,
            _ => break,
        }
        at += 1;
    }
    while let Some(digit @ b'0'..=b'9') = text.get(at) {
        width = width * 10 + usize::from(digit - b'0');
        if width > 99 {
            return None;
        }
        at += 1;
    }
    if matches!(text.get(at), Some(b'E' | b'O')) {
        at += 1;
    }
    let conversion = *text.get(at)?;
    b"%aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ"
        .contains(&conversion)
        .then_some((
            Part::Field {
                pad,
                upper,
                width,
                conversion,
            },
            at + 1,
        ))
}

impl Part {
    fn write(&self, civil: &Civil, out: &mut Vec<u8>) {
        match self {
            Self::Literal(bytes) => out.extend_from_slice(bytes),
            Self::Fraction(digits) => fraction(civil.nanosecond, *digits, out),
            Self::ExactSeconds { digits, seconds } => {
                if *seconds {
                    number(civil.second.into(), 2, b'0', out);
                }
                let digits = digits.unwrap_or_else(|| significant(civil.nanosecond));
                if digits > 0 {
                    if *seconds {
                        out.push(b'.');
                    }
                    fraction(civil.nanosecond, digits, out);
                }
            }
            Self::ColonOffset => offset(civil.offset, true, out),
            Self::Field {
                pad,
                upper,
                width,
                conversion,
            } => {
                let start = out.len();
                civil.write(*conversion, *pad, *width, out);
                if *upper {
                    out[start..].make_ascii_uppercase();
                }
            }
        }
    }
}

impl Civil {
    const EPOCH: Self = Self {
        year: 1970,
        month: 1,
        day: 1,
        hour: 0,
        minute: 0,
        second: 0,
        nanosecond: 0,
        weekday: 4,
        year_day: 0,
        epoch: 0,
        offset: 0,
        abbreviation: Cow::Borrowed("UTC"),
    };

    /// The beginning of a second since 1970.
    fn new(second: u64, zone: Option<&TimeZone>) -> Self {
        let epoch = i64::try_from(second).unwrap_or(i64::MAX / 4);
        let (offset, abbreviation) = match zone {
            None => (0, Cow::Borrowed("UTC")),
            Some(zone) => {
                let at = jiff::Timestamp::from_second(epoch).unwrap_or(jiff::Timestamp::MAX);
                let info = zone.to_offset_info(at);
                (
                    i64::from(info.offset().seconds()),
                    info.abbreviation().to_owned().into(),
                )
            }
        };
        let local = epoch.saturating_add(offset);
        let (days, seconds) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = from_days(days);
        let small = |n: i64| u32::try_from(n).unwrap_or(0);
        Self {
            year,
            month,
            day,
            hour: small(seconds / 3600),
            minute: small(seconds / 60 % 60),
            second: small(seconds % 60),
            nanosecond: 0,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
            year_day: small(days - to_days(year)),
            epoch,
            offset,
            abbreviation,
        }
    }

    fn write(&self, conversion: u8, pad: Pad, width: usize, out: &mut Vec<u8>) {
        let mut digits = |value: i64, default: usize, fill: u8| {
            let fill = match pad {
                Pad::Default => fill,
                Pad::Zero => b'0',
                Pad::Space => b' ',
                Pad::None => return number(value, width, b'0', out),
            };
            number(value, width.max(default), fill, out);
        };
        let twelve = i64::from((self.hour + 11) % 12 + 1);
        let weekday = self.weekday as i64;
        let year_day = i64::from(self.year_day);
        match conversion {
            b'C' => digits(self.year.div_euclid(100), 2, b'0'),
            b'd' => digits(self.day.into(), 2, b'0'),
            b'e' => digits(self.day.into(), 2, b' '),
            b'g' => digits(self.iso_week().0.rem_euclid(100), 2, b'0'),
            b'G' => digits(self.iso_week().0, 1, b'0'),
            b'H' => digits(self.hour.into(), 2, b'0'),
            b'I' => digits(twelve, 2, b'0'),
            b'j' => digits(year_day + 1, 3, b'0'),
            b'k' => digits(self.hour.into(), 2, b' '),
            b'l' => digits(twelve, 2, b' '),
            b'm' => digits(self.month as i64, 2, b'0'),
            b'M' => digits(self.minute.into(), 2, b'0'),
            b's' => digits(self.epoch, 1, b'0'),
            b'S' => digits(self.second.into(), 2, b'0'),
            b'u' => digits((weekday + 6) % 7 + 1, 1, b'0'),
            b'U' => digits((year_day + 7 - weekday) / 7, 2, b'0'),
            b'V' => digits(self.iso_week().1, 2, b'0'),
            b'w' => digits(weekday, 1, b'0'),
            b'W' => digits((year_day + 7 - (weekday + 6) % 7) / 7, 2, b'0'),
            b'y' => digits(self.year.rem_euclid(100), 2, b'0'),
            b'Y' => digits(self.year, 1, b'0'),
            _ => self.write_text(conversion, out),
        }
    }

    fn write_text(&self, conversion: u8, out: &mut Vec<u8>) {
        let mut all = |format: &[u8]| {
            for conversion in format {
                if conversion.is_ascii_alphabetic() {
                    self.write(*conversion, Pad::Default, 0, out);
                } else {
                    out.push(*conversion);
                }
            }
        };
        match conversion {
            b'c' => return all(b"a b e T Y"),
            b'D' | b'x' => return all(b"m/d/y"),
            b'F' => return all(b"Y-m-d"),
            b'r' => return all(b"I:M:S p"),
            b'R' => return all(b"H:M"),
            b'T' | b'X' => return all(b"H:M:S"),
            b'z' => return offset(self.offset, false, out),
            _ => {}
        }
        let text = match conversion {
            b'a' => &DAYS[self.weekday][..3],
            b'A' => DAYS[self.weekday],
            b'b' | b'h' => &MONTHS[self.month - 1][..3],
            b'B' => MONTHS[self.month - 1],
            b'p' if self.hour < 12 => "AM",
            b'p' => "PM",
            b'P' if self.hour < 12 => "am",
            b'P' => "pm",
            b't' => "\t",
            b'Z' => &self.abbreviation,
            _ => "%",
        };
        out.extend_from_slice(text.as_bytes());
    }

    /// The year and number of the ISO 8601 week.
    fn iso_week(&self) -> (i64, i64) {
        let monday_based = (self.weekday as i64 + 6) % 7;
        let week = (i64::from(self.year_day) - monday_based + 10) / 7;
        let weeks_in = |year: i64| {
            let first = (to_days(year) + 4).rem_euclid(7);
            let leap = to_days(year + 1) - to_days(year) == 366;
            if first == 4 || (leap && first == 3) {
                53
            } else {
                52
            }
        };
        match week {
            0 => (self.year - 1, weeks_in(self.year - 1)),
            53 if weeks_in(self.year) == 52 => (self.year + 1, 1),
            _ => (self.year, week),
        }
    }
}

/// Days from 1970-01-01 to the first day of `year`.
fn to_days(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
}

/// Year, month (1-based) and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn from_days(days: i64) -> (i64, usize, u32) {
    // Counted in eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        usize::try_from(month).unwrap_or(1),
        u32::try_from(day).unwrap_or(1),
    )
}

fn number(value: i64, width: usize, fill: u8, out: &mut Vec<u8>) {
    const MOST: usize = 20;
    let mut digits = [fill; MOST];
    if let Ok(mut rest) = u64::try_from(value)
        && width <= MOST
    {
        let mut at = MOST;
        loop {
            at -= 1;
            // A single digit.
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&digits[at.min(MOST - width)..]);
        return;
    }
    let written = match fill {
        b' ' => write!(out, "{value:width$}"),
        _ => write!(out, "{value:0width$}"),
    };
    debug_assert!(written.is_ok(), "memory takes what is written to it");
}

/// The first `digits` of nine digits, nothing rounded.
fn fraction(nanosecond: u32, digits: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 9];
    let mut rest = nanosecond;
    for digit in text.iter_mut().rev() {
        // A single digit.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    out.extend_from_slice(&text[..digits.min(9)]);
}

/// How many of nine digits are left without the zeros at their end.
fn significant(nanosecond: u32) -> usize {
    let (mut rest, mut digits) = (nanosecond, 9);
    while digits > 0 && rest.is_multiple_of(10) {
        rest /= 10;
        digits -= 1;
    }
    digits
}

fn offset(seconds: i64, colon: bool, out: &mut Vec<u8>) {
    out.push(if seconds < 0 { b'-' } else { b'+' });
    let minutes = seconds.abs() / 60;
    number(minutes / 60, 2, b'0', out);
    if colon {
        out.push(b':');
    }
    number(minutes % 60, 2, b'0', out);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn render(format: &str, time: SystemTime) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format, false)
            .unwrap()
            .write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Saturday, 21 November 2026, 02:03:01.045223 UTC.
    fn saturday() -> SystemTime {
        UNIX_EPOCH + Duration::new(1_795_226_581, 45_223_000)
    }

    #[test]
    fn the_default_is_iso_8601_with_milliseconds() {
        assert_eq!(render("", saturday()), "2026-11-21T02:03:01.045Z");
    }

    #[test]
    fn specifiers_print_as_envoy_prints_them() {
        for (format, text) in [
            (
                "%Y/%m/%dT%H:%M:%S%z %s %3f %6f %9f %f %e %j %Z %a %A %b %p %I %y %%",
                "2026/11/21T02:03:01+0000 1795226581 045 045223 045223000 045223000 21 325 UTC Sat Saturday Nov AM 02 26 %",
            ),
            ("%1f %2f %4f %8f", "0 04 0452 04522300"),
            (
                "%E4Y %Ez %E3S %E*S %ET %s.%3f %Q",
                "2026 +00:00 01.045 01.045223 T 1795226581.045 %Q",
            ),
            (
                "%f%3f %-d %_d %5Y %F %T %R %D %c %x %X %C %u %w %U %W %V %G %g %h %t",
                "045223000045 21 21 02026 2026-11-21 02:03:01 02:03 11/21/26 Sat Nov 21 02:03:01 2026 11/21/26 02:03:01 20 6 6 46 46 47 2026 26 Nov \t",
            ),
            ("%10f %0f %q %i %J %", "%10f %0f %q %i %J %"),
            ("%^a %#b", "SAT NOV"),
        ] {
            assert_eq!(render(format, saturday()), text, "{format}");
        }
    }

    #[test]
    fn days_around_leap_years_and_iso_years_are_right() {
        for (epoch, text) in [
            (951_782_400, "2000-02-29 060 2000-W09"),
            (951_868_800, "2000-03-01 061 2000-W09"),
            (1_230_681_600, "2008-12-31 366 2009-W01"),
            (1_262_304_000, "2010-01-01 001 2009-W53"),
            (1_609_459_200, "2021-01-01 001 2020-W53"),
            (4_107_542_400, "2100-03-01 060 2100-W09"),
            (0, "1970-01-01 001 1970-W01"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(epoch);
            assert_eq!(render("%F %j %G-W%V", time), text);
        }
    }

    #[test]
    fn a_format_that_breaks_the_line_is_refused() {
        for format in ["%n", "x%En", "%-3On", "%%n"] {
            assert!(TimeFormat::parse(format, false).is_err(), "{format}");
        }
        assert!(TimeFormat::parse("n%Yn", false).is_ok());
    }

    #[test]
    fn moments_of_one_second_and_of_others_print_alike_in_any_order() {
        let format = |text| TimeFormat::parse(text, false).unwrap();
        let formats = [
            format(""),
            format("%S %3f %S"),
            format("%f %S %E*S"),
            format("%S"),
        ];
        let micros = [0, 1, 999_999, 1_000_000, 1_000_001, 61_500_000, 1];
        let print = |format: &TimeFormat, micros| {
            let mut out = Vec::new();
            format.write(saturday() + Duration::from_micros(micros), &mut out);
            String::from_utf8(out).unwrap()
        };
        // Another format in between: nothing is remembered.
        let anew = |format, micros| {
            print(&TimeFormat::parse("%Y", false).unwrap(), 0);
            print(format, micros)
        };
        for format in &formats {
            let wanted = micros.map(|micros| anew(format, micros));
            assert_eq!(micros.map(|micros| print(format, micros)), wanted);
        }
    }

    #[test]
    fn a_local_clock_follows_its_zone() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let format = TimeFormat::new(compile(b"%H:%M %z %Z"), Some(zone));
        let mut out = Vec::new();
        format.write(saturday(), &mut out);
        format.write(UNIX_EPOCH + Duration::from_secs(1_751_328_000), &mut out);
        assert_eq!(out, b"03:03 +0100 CET02:00 +0200 CEST");
    }
}
