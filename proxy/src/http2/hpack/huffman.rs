//! The Huffman code of RFC 7541, appendix B. It is canonical: the lengths of its codes say everything.

/// Length in bits of the code of each octet, and of the end of string behind them.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The longest code, in bits.
const LONGEST: usize = 30;
/// Bits that the first table of the decoder looks at: most text has no longer codes.
const FIRST: u32 = 9;

/// Codes and the tables of the decoder, made at compile time.
struct Tables {
    codes: [u32; 257],
    /// For the next [`FIRST`] bits: the octet and the length of its code; length 0 where the code is longer.
    first: [(u8, u8); 1 << FIRST],
    /// For each length the code behind its last one, aligned to the left of 32 bits.
    limits: [u64; LONGEST + 1],
    /// For each length its first code and where its symbols begin.
    starts: [(u32, u16); LONGEST + 1],
    symbols: [u16; 257],
}

static TABLES: Tables = build();

#[allow(
    clippy::cast_possible_truncation,
    reason = "symbols are below 257 and lengths below 31"
)]
const fn build() -> Tables {
    let mut tables = Tables {
        codes: [0; 257],
        first: [(0, 0); 1 << FIRST],
        limits: [0; LONGEST + 1],
        starts: [(0, 0); LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut code, mut placed, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        code <<= 1;
        tables.starts[length] = (code, placed as u16);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = code;
                tables.symbols[placed] = symbol as u16;
                if length <= FIRST as usize {
                    let spare = FIRST as usize - length;
                    let mut rest = 0;
                    while rest < 1 << spare {
                        tables.first[((code as usize) << spare) + rest] =
                            (symbol as u8, length as u8);
                        rest += 1;
                    }
                }
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        tables.limits[length] = (code as u64) << (32 - length);
        length += 1;
    }
    tables
}

/// How many bytes a text takes when it is coded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|octet| usize::from(LENGTHS[usize::from(*octet)]))
        .sum();
    bits.div_ceil(8)
}

/// Adds the coded text.
#[allow(
    clippy::cast_possible_truncation,
    reason = "whole octets are taken from the low end of a bit buffer"
)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u32);
    for octet in text {
        let symbol = usize::from(*octet);
        let length = u32::from(LENGTHS[symbol]);
        bits = (bits << length) | u64::from(TABLES.codes[symbol]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        let padding = 8 - count;
        out.push(((bits << padding) | ((1 << padding) - 1)) as u8);
    }
}

/// Decodes a text. None: it is no coded text (a padding longer than 7 bits or not of ones, or the end of string in it).
#[allow(
    clippy::cast_possible_truncation,
    reason = "indices are made of a few bits, and symbols other than the end of string are octets"
)]
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // The next bits stand at the left end of `bits`.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut rest = coded.iter();
    loop {
        while count <= 56
            && let Some(octet) = rest.next()
        {
            bits |= u64::from(*octet) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Some(());
        }
        let (symbol, length) = TABLES.first[(bits >> (64 - FIRST)) as usize];
        let length = u32::from(length);
        if length != 0 && length <= count {
            out.push(symbol);
            bits <<= length;
            count -= length;
            continue;
        }
        if count < 8 && bits == !0 << (64 - count) {
            return Some(());
        }
        let top = bits >> 32;
        let length = (FIRST as usize + 1..=LONGEST).find(|length| top < TABLES.limits[*length])?;
        if length as u32 > count {
            return None;
        }
        let (start, place) = TABLES.starts[length];
        let code = (top >> (32 - length)) as u32;
        let symbol = TABLES
            .symbols
            .get(usize::from(place) + (code - start) as usize)?;
        if *symbol == 256 {
            return None;
        }
        out.push(*symbol as u8);
        bits <<= length;
        count -= length as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc_are_coded_as_it_says() {
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, coded);
            assert_eq!(encoded_len(text.as_bytes()), out.len());
        }
    }

    #[test]
    fn every_octet_comes_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let (mut coded, mut back) = (Vec::new(), Vec::new());
        encode(&all, &mut coded);
        decode(&coded, &mut back).unwrap();
        assert_eq!(back, all);
    }

    #[test]
    fn wrong_padding_and_the_end_of_string_are_refused() {
        let refused: [&[u8]; 5] = [
            &[0xff],
            &[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff, 0xff,
            ],
            &[0x18],
            &[0xff, 0xff, 0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xfc, 0xff],
        ];
        for coded in refused {
            assert_eq!(decode(coded, &mut Vec::new()), None, "{coded:x?}");
        }
    }
}
