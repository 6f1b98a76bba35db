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
