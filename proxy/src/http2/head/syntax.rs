//! Which octets names and values may have.

pub(super) fn is_path(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

pub(super) fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

pub(super) fn is_authority(value: &[u8]) -> bool {
    !value.is_empty()
        && value.iter().all(|b| {
            matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'$' | b'%' | b'&'..=b'.' | b':' | b';' | b'=' | b'@' | b'[' | b']' | b'_' | b'~')
        })
}

pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
