//! Numbers as they print: padded, in fractions of a second, as offsets from UTC.

use std::io::Write as _;

pub(super) fn number(value: i64, width: usize, fill: u8, out: &mut Vec<u8>) {
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
pub(super) fn fraction(nanosecond: u32, digits: usize, out: &mut Vec<u8>) {
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
pub(super) fn significant(nanosecond: u32) -> usize {
    let (mut rest, mut digits) = (nanosecond, 9);
    while digits > 0 && rest.is_multiple_of(10) {
        rest /= 10;
        digits -= 1;
    }
    digits
}

pub(super) fn offset(seconds: i64, colon: bool, out: &mut Vec<u8>) {
    out.push(if seconds < 0 { b'-' } else { b'+' });
    let minutes = seconds.abs() / 60;
    number(minutes / 60, 2, b'0', out);
    if colon {
        out.push(b':');
    }
    number(minutes % 60, 2, b'0', out);
}
