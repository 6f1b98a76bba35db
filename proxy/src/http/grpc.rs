//! `grpc-timeout`: up to eight digits and a unit.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::time::Duration;

use super::{Known, RequestHead};

impl RequestHead {
    /// What `grpc-timeout` asks for; none if it is missing or cannot be read.
    pub fn grpc_timeout(&self) -> Option<Duration> {
        let text = self.fields.get_str(Known::GrpcTimeout)?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
        Some(match unit {
            "H" => Duration::from_secs(value * 3600),
            "M" => Duration::from_secs(value * 60),
            "S" => Duration::from_secs(value),
            "m" => Duration::from_millis(value),
            "u" => Duration::from_micros(value),
            "n" => Duration::from_nanos(value),
            _ => return None,
        })
    }

    /// Writes `grpc-timeout`: eight digits at most, in the finest unit from milliseconds on that they fit into.
    pub fn set_grpc_timeout(&mut self, timeout: Duration) {
        const MOST: u128 = 99_999_999;
        let millis = timeout.as_millis();
        let units = [(1, "m"), (1000, "S"), (60_000, "M"), (3_600_000, "H")];
        let fits = units.into_iter().find(|(unit, _)| millis / unit <= MOST);
        let text = match fits {
            Some((unit, name)) => format!("{}{name}", millis / unit),
            None => format!("{MOST}H"),
        };
        self.fields.set(Known::GrpcTimeout, text);
    }
}

/// The status of gRPC that stands for one of HTTP.
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
pub(crate) fn grpc_status_of(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message` carries printable ASCII; the rest and `%` are escaped.
pub(crate) fn percent_encode(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;

    #[test]
    fn a_long_timeout_is_written_in_a_coarser_unit() {
        let mut head = RequestHead::new(Protocol::Http2, b"POST");
        for (millis, expected) in [
            (300, "300m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (100_000_000_000, "1666666M"),
            (u64::MAX, "99999999H"),
        ] {
            head.set_grpc_timeout(Duration::from_millis(millis));
            assert_eq!(head.fields.get_str(Known::GrpcTimeout), Some(expected));
        }
    }

    #[test]
    fn units_are_read_and_nonsense_is_not() {
        for (text, expected) in [
            ("5S", Some(5000)),
            ("250m", Some(250)),
            ("1H", Some(3_600_000)),
            ("123456789S", None),
            ("5", None),
            ("", None),
            ("xS", None),
        ] {
            let mut head = RequestHead::new(Protocol::Http2, b"POST");
            head.fields.append(Known::GrpcTimeout, text);
            assert_eq!(
                head.grpc_timeout(),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
    }
}
