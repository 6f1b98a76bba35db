//! A point in time as a calendar and a clock show it.

use std::borrow::Cow;

use jiff::tz::TimeZone;

use super::digits::{number, offset};
use super::parts::Pad;

/// A point in time, taken apart.
pub(super) struct Civil {
    year: i64,
    month: usize,
    day: u32,
    hour: u32,
    minute: u32,
    pub(super) second: u32,
    pub(super) nanosecond: u32,
    weekday: usize,
    year_day: u32,
    epoch: i64,
    pub(super) offset: i64,
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

impl Civil {
    pub(super) const EPOCH: Self = Self {
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
    pub(super) fn new(second: u64, zone: Option<&TimeZone>) -> Self {
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

    pub(super) fn write(&self, conversion: u8, pad: Pad, width: usize, out: &mut Vec<u8>) {
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
