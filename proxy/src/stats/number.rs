//! Numbers as Envoy prints them, which differs from page to page.

/// The shortest digits that give the number again; scientific from 1e16 on and below 1e-4. For text pages.
pub(super) fn shortest(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_nan() {
        "nan".to_owned()
    } else if value == 0.0 || (1e-4..1e16).contains(&magnitude) {
        value.to_string()
    } else {
        scientific(&format!("{value:e}"))
    }
}

/// The shorter one of plain and scientific notation; `null` for what JSON has no number for.
pub(super) fn json(value: f64) -> String {
    if !value.is_finite() {
        return "null".to_owned();
    }
    let plain = value.to_string();
    let exponent = scientific(&format!("{value:e}"));
    if exponent.len() < plain.len() {
        exponent
    } else {
        plain
    }
}

/// As `printf` does with `%.<digits>g`.
pub(super) fn general(value: f64, digits: usize) -> String {
    if !value.is_finite() || value == 0.0 {
        return value.to_string().to_lowercase();
    }
    let rounded = format!("{value:.*e}", digits - 1);
    let exponent: i32 = rounded
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    let places = i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exponent;
    match usize::try_from(places) {
        Ok(places) if exponent >= -4 => trimmed(&format!("{value:.places$}")).to_owned(),
        _ => scientific(&rounded),
    }
}

/// Gives the exponent a sign and two digits, and takes the zeros off the end of the digits.
fn scientific(number: &str) -> String {
    let (digits, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{}e{sign}{exponent:0>2}", trimmed(digits))
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_its_own_digits() {
        for (value, text, g, json_text) in [
            (0.5, "0.5", "0.5", "0.5"),
            (0.0, "0", "0", "0"),
            (300_000.0, "300000", "300000", "3e+05"),
            (1_800_000.0, "1800000", "1.8e+06", "1800000"),
            (
                1.004_545_454_545_454_6,
                "1.0045454545454546",
                "1.00455",
                "1.0045454545454546",
            ),
            (1e16, "1e+16", "1e+16", "1e+16"),
            (0.000_01, "1e-05", "1e-05", "1e-05"),
        ] {
            assert_eq!(shortest(value), text);
            assert_eq!(general(value, 6), g);
            assert_eq!(json(value), json_text);
        }
        assert_eq!(shortest(f64::NAN), "nan");
        assert_eq!(json(f64::NAN), "null");
    }

    #[test]
    fn thirty_two_digits_are_exact() {
        assert_eq!(
            general(8.049_689_440_993_788, 32),
            "8.049689440993788025480171199888"
        );
        assert_eq!(general(22.0, 32), "22");
        assert_eq!(general(3_600_000.0, 32), "3600000");
    }
}
