//! Scalars of JSON as protobuf reads them: a number may be quoted, an integer may be written as a fraction-free float.

/// An integer of `min..=max` from the text of a number or of a quoted number.
pub(crate) fn integer(text: &str, min: i128, max: i128) -> Result<i128, String> {
    let digits = text
        .strip_prefix('+')
        .filter(|rest| !rest.starts_with(['+', '-']))
        .unwrap_or(text);
    let value = match digits.parse::<i128>() {
        Ok(value) => value,
        Err(_) if text.contains(|character: char| character.is_ascii_whitespace()) => {
            return Err(format!("{text:?} is no integer"));
        }
        Err(_) => from_float(text).ok_or_else(|| format!("{text:?} is no integer"))?,
    };
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text} is not in {min}..={max}"))
    }
}

/// An integer written as `1e3` or `5.0`, exact up to 2^53 as in protobuf.
#[allow(
    clippy::cast_possible_truncation,
    reason = "whole and below 2^54, so it is exact"
)]
fn from_float(text: &str) -> Option<i128> {
    let value = float(text)?;
    (value.is_finite() && value.fract() == 0.0 && value.abs() <= 18_014_398_509_481_984.0)
        .then_some(value as i128)
}

/// A float, from the text of a number, a quoted number in decimal or hexadecimal, `NaN`, `Infinity` or `-Infinity`.
pub(crate) fn float(text: &str) -> Option<f64> {
    let trimmed = text.trim_matches(|character: char| character.is_ascii_whitespace());
    trimmed.parse().ok().or_else(|| hexadecimal(trimmed))
}

fn hexadecimal(text: &str) -> Option<f64> {
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let digits = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))?;
    if digits.is_empty() || digits.len() > 13 {
        return None;
    }
    let magnitude = digits.chars().try_fold(0.0, |value, digit| {
        Some(value * 16.0 + f64::from(digit.to_digit(16)?))
    })?;
    Some(if negative { -magnitude } else { magnitude })
}

/// A quoted boolean. Protobuf takes more words than `true` and `false` here, and so does Envoy.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(&["true", "t", "yes", "y", "1"]) {
        Some(true)
    } else if is(&["false", "f", "no", "n", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// Seconds and nanoseconds of `1s`, `-0.25s`, at most 9 digits after the dot.
pub(crate) fn duration(text: &str) -> Result<(i64, i32), String> {
    const MAX_SECONDS: i64 = 3_652_500 * 86_400;
    let wrong = || format!("{text:?} is no duration; write seconds with an s, such as 0.25s");
    let rest = text.strip_suffix('s').ok_or_else(wrong)?;
    let (negative, rest) = rest
        .strip_prefix('-')
        .map_or((false, rest), |rest| (true, rest));
    let (whole, nanos) = split_nanos(rest).ok_or_else(wrong)?;
    if whole.is_empty() || !whole.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: i64 = whole
        .parse()
        .ok()
        .filter(|seconds| *seconds <= MAX_SECONDS)
        .ok_or_else(|| format!("{text} is beyond 10,000 years"))?;
    Ok(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 time.
pub(crate) fn timestamp(text: &str) -> Result<(i64, i32), String> {
    parse_timestamp(text)
        .ok_or_else(|| format!("{text:?} is no time; write it as 2026-01-02T03:04:05Z"))
}

fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once('T')?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, nanos) = split_nanos(clock)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let days_in_month = [
        31,
        if is_leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month_length = *days_in_month.get(usize::try_from(month - 1).ok()?)?;
    if year == 0 || day == 0 || day > month_length || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, offset) => {
            let [hours, minutes] = numbers(offset, ':', [2, 2])?;
            let seconds = (hours * 60 + minutes) * 60;
            if sign == "+" { seconds } else { -seconds }
        }
    };
    let days_before: i64 = days_in_month
        .iter()
        .take(usize::try_from(month - 1).ok()?)
        .sum();
    let years = year - 1;
    let days =
        years * 365 + years / 4 - years / 100 + years / 400 + days_before + day - 1 - 719_162;
    Some((
        days * 86_400 + hour * 3_600 + minute * 60 + second - offset,
        nanos,
    ))
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, width) in found.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| {
            part.len() == width && part.bytes().all(|digit| digit.is_ascii_digit())
        })?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Splits `12.5` into `12` and 500,000,000.
fn split_nanos(text: &str) -> Option<(&str, i32)> {
    let Some((whole, fraction)) = text.split_once('.') else {
        return Some((text, 0));
    };
    if fraction.is_empty()
        || fraction.len() > 9
        || !fraction.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let digits: i32 = fraction.parse().ok()?;
    let scale = 10_i32.pow(9 - u32::try_from(fraction.len()).ok()?);
    Some((whole, digits * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_be_written_as_floats_without_a_fraction() {
        for (text, expected) in [
            ("5", Ok(5)),
            ("+5", Ok(5)),
            ("08", Ok(8)),
            ("1e2", Ok(100)),
            ("5.0", Ok(5)),
            ("-1", Ok(-1)),
            ("0x1F", Ok(31)),
        ] {
            assert_eq!(integer(text, -1, 100), expected, "{text}");
        }
        for text in [
            "5.5", "", "abc", "0x", "0xg", " 5", "5 ", "101", "-2", "1e400", "NaN", "+-5",
        ] {
            assert!(integer(text, -1, 100).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_with_an_s() {
        for (text, expected) in [
            ("1s", (1, 0)),
            ("0.25s", (0, 250_000_000)),
            ("-0.5s", (0, -500_000_000)),
            ("-2.000000001s", (-2, -1)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in [
            "1",
            "s",
            "1m",
            "1.s",
            ".5s",
            "1.0000000001s",
            "1 s",
            "--1s",
            "+1s",
            "315576000001s",
            "1ss",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_count_from_1970_in_any_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", (0, 0)),
            ("2000-03-01T00:00:00Z", (951_868_800, 0)),
            ("2026-01-02T03:04:05.5Z", (1_767_323_045, 500_000_000)),
            ("2026-01-02T03:04:05+01:30", (1_767_317_645, 0)),
            ("0001-01-01T00:00:00Z", (-62_135_596_800, 0)),
        ] {
            assert_eq!(timestamp(text), Ok(expected), "{text}");
        }
        for text in [
            "2026-01-02",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-02T03:04:05",
            "2026-01-02T24:00:00Z",
            "2026-01-02T03:04:05z",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }
}
