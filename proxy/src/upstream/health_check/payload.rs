//! `HealthCheck.Payload`: bytes to send, or to look for.

use outrigger_proto::pb::envoy::config::core::v3::health_check as pb;

use crate::config::{ConfigPath, Rejected};

/// The bytes of a payload: text is hexadecimal.
pub(super) fn bytes(proto: pb::Payload, path: &ConfigPath<'_>) -> Result<Vec<u8>, Rejected> {
    let pb::Payload { payload } = proto;
    match path.required("payload", payload)? {
        pb::payload::Payload::Text(text) => match from_hex(&text) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(path
                .field("text")
                .reject(format!("invalid hex string '{text}'"))),
        },
        pb::payload::Payload::Binary(bytes) => Ok(bytes),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

/// Whether all pieces are in `bytes`, one behind the other.
pub(super) fn contains_in_order(bytes: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut rest = bytes;
    for piece in pieces {
        if piece.is_empty() {
            continue;
        }
        let found = rest
            .windows(piece.len())
            .position(|window| window == piece.as_slice());
        let Some(behind) = found.and_then(|at| rest.get(at + piece.len()..)) else {
            return false;
        };
        rest = behind;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_in_their_order_whatever_lies_between() {
        let pieces = |pieces: &[&str]| -> Vec<Vec<u8>> {
            pieces
                .iter()
                .map(|piece| piece.as_bytes().to_vec())
                .collect()
        };
        assert!(contains_in_order(b"a b c", &pieces(&["a", "c"])));
        assert!(!contains_in_order(b"a b c", &pieces(&["c", "a"])));
        assert!(!contains_in_order(b"aa", &pieces(&["a", "a", "a"])));
        assert!(!contains_in_order(b"", &pieces(&["a"])));
        assert!(contains_in_order(b"", &[]));
    }

    #[test]
    fn hexadecimal_text_has_pairs_of_digits() {
        assert_eq!(from_hex("00fFA0"), Some(vec![0, 255, 160]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
    }
}
