//! How numbers print.

/// With six significant digits, as C's `%g`: `1.5`, `1.23457e+06`, `inf`.
pub(super) fn short(number: f64) -> String {
    const DIGITS: i32 = 6;
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{number:.*e}", 5);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if (-4..DIGITS).contains(&exponent) {
        let places = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
        return trim(&format!("{number:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_have_six_digits_and_no_zeros_at_their_end() {
        for (number, expected) in [
            (1.0, "1"),
            (1.5, "1.5"),
            (0.1 + 0.2, "0.3"),
            (100_000.0, "100000"),
            (1_234_567.0, "1.23457e+06"),
            (1e20, "1e+20"),
            (-0.000_01, "-1e-05"),
            (0.000_1, "0.0001"),
            (999_999.5, "1e+06"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(number), expected);
        }
    }
}
