//! Durations and times as protobuf's JSON writes them.

/// `1s`, `0.250s`: none, three, six or nine digits after the dot.
pub(crate) fn duration((seconds, nanos): (i64, i32)) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos))
}

/// `2026-01-02T03:04:05.250Z`.
pub(super) fn timestamp((seconds, nanos): (i64, i32)) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z",
        fraction(nanos)
    )
}

fn fraction(nanos: i32) -> String {
    match nanos.unsigned_abs() {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        nanos => format!(".{nanos:09}"),
    }
}

/// The date of a day counted from 1970-01-01. Years begin in March here, so that a leap day is the last of its year.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_none_three_six_or_nine_digits() {
        for (time, text) in [
            ((1, 0), "1s"),
            ((0, 250_000_000), "0.250s"),
            ((0, -500_000), "-0.000500s"),
            ((-2, -1), "-2.000000001s"),
            ((0, 0), "0s"),
        ] {
            assert_eq!(duration(time), text);
        }
    }

    #[test]
    fn times_are_in_utc() {
        for (time, text) in [
            ((0, 0), "1970-01-01T00:00:00Z"),
            ((951_782_400, 0), "2000-02-29T00:00:00Z"),
            ((1_767_323_045, 500_000_000), "2026-01-02T03:04:05.500Z"),
            ((-1, 0), "1969-12-31T23:59:59Z"),
            ((-62_135_596_800, 0), "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(time), text);
        }
    }
}
