//! JSON as Envoy writes it: compact, keys sorted, numbers in their shortest form, bytes that are no UTF-8 escaped.

use std::io::Write as _;

use serde_json::Value;

/// Appends a value.
pub(super) fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number.as_f64().unwrap_or(f64::NAN), out),
        Value::String(text) => write_string(text.as_bytes(), out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => write_map(map, out),
    }
}

/// Appends an object.
pub(super) fn write_map(map: &serde_json::Map<String, Value>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}

/// Appends a string with its quotes.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text);
    escape_from(start, out);
    out.push(b'"');
}

/// Escapes what stands in `out` from `start` on. Costs a look at the bytes when there is nothing to escape.
pub(super) fn escape_from(start: usize, out: &mut Vec<u8>) {
    let text = &out[start..];
    if text
        .iter()
        .all(|b| (b' '..0x7f).contains(b) && *b != b'"' && *b != b'\\')
    {
        return;
    }
    let text = out.split_off(start);
    match std::str::from_utf8(&text) {
        Ok(_) => text.iter().for_each(|byte| match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => escape_code(*byte, out),
            _ => out.push(*byte),
        }),
        Err(_) => text.iter().for_each(|byte| match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => escape_code(*byte, out),
            _ => out.push(*byte),
        }),
    }
}

fn escape_code(byte: u8, out: &mut Vec<u8>) {
    let written = write!(out, "\\u{byte:04x}");
    debug_assert!(written.is_ok(), "memory takes what is written to it");
}

/// Appends a count. A number of JSON is a double, and so it prints as one.
#[allow(
    clippy::cast_precision_loss,
    reason = "Envoy's logs carry doubles: beyond 2^53 they lose the same digits"
)]
pub(super) fn write_count(count: u64, out: &mut Vec<u8>) {
    if count < 100_000 {
        write_digits(count, out);
    } else {
        write_number(count as f64, out);
    }
}

/// Appends decimal digits.
pub(super) fn write_digits(mut count: u64, out: &mut Vec<u8>) {
    // Most often there was no body, and it took no time.
    if count == 0 {
        return out.push(b'0');
    }
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        // The remainder is a single digit.
        buffer[at] = b'0' + u8::try_from(count % 10).unwrap_or(0);
        count /= 10;
        if count == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Appends a number in the shorter of plain and scientific notation, plain if they are of one length.
pub(super) fn write_number(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let plain = number.to_string();
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    let scientific = format!("{mantissa}e{sign}{exponent:0>2}");
    if scientific.len() < plain.len() {
        out.extend_from_slice(scientific.as_bytes());
    } else if number.abs() >= 9_007_199_254_740_992.0 && number.abs() < 1e30 {
        // All digits of a large whole number are its own, not zeros in the place of lost ones.
        out.extend_from_slice(format!("{number:.0}").as_bytes());
    } else {
        out.extend_from_slice(plain.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_envoy_prints_them() {
        for (number, text) in [
            (100_000.0, "1e+05"),
            (1e21, "1e+21"),
            (0.1, "0.1"),
            (-3.0, "-3"),
            (1e-7, "1e-07"),
            (123_456.789, "123456.789"),
            (1e15, "1e+15"),
            (1_500_000.0, "1500000"),
            (12_345_678_901_234_567_890.0, "12345678901234567168"),
            (1.5, "1.5"),
            (0.0, "0"),
        ] {
            let mut out = Vec::new();
            write_number(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn strings_are_escaped_and_those_that_are_no_utf8_entirely() {
        for (text, json) in [
            (
                &b"\x7f\"\x08\x1f/\\\xc3\xa9"[..],
                "\"\u{7f}\\\"\\b\\u001f/\\\\é\"",
            ),
            (b"\x7f\"\x08\xff", "\"\\u007f\\u0022\\u0008\\u00ff\""),
            (b"plain", "\"plain\""),
        ] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
    }

    #[test]
    fn counts_print_as_doubles() {
        let mut out = Vec::new();
        for count in [0, 99_999, 100_000, 123_456] {
            write_count(count, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"0 99999 1e+05 123456 ");
    }
}
