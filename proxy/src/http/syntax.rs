//! What names and values of fields may be made of, in any version of HTTP.

/// Whether a byte may stand in a name.
pub(crate) fn is_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Whether a field may be called so.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| is_token(*byte))
}

/// Whether a field may have this value: it has no bytes that end a line, nor other control bytes.
pub(crate) fn is_value(value: &[u8]) -> bool {
    // Most values are printable text, for which one pass without branches is enough.
    let odd = value.iter().fold(false, |odd, byte| {
        odd | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f)
    });
    !odd
}
