//! MurmurHash64A, as the standard library of GNU C++ seeds it: what older proxies place hosts with.

const SEED: u64 = 0xc70f_6907;
const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;

/// The hash of `bytes`.
pub(super) fn murmur_hash2(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    // A `usize` has no more bits than a `u64`.
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    for word in words {
        let mixed = mix(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ mixed).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let last = rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

fn mix(word: u64) -> u64 {
    word ^ (word >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_have_their_known_hashes() {
        for (text, hash) in [
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("foobar", 1_006_047_371_904_342_835),
            ("foobarbazqux", 17_276_189_571_666_953_561),
        ] {
            assert_eq!(murmur_hash2(text.as_bytes()), hash, "{text}");
        }
    }
}
