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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;

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
