//! Fields to header blocks. What repeats is put into the table; what comes once is not.

use super::decode::{DEFAULT_SIZE, NameClass};
use super::huffman;
use super::table::{STATIC, Table, static_name};
use crate::http::Known;

/// Hashes of fields that were seen, so that the second time puts a field into the table.
const SEEN: usize = 64;
/// A table of 4 KiB has no more than 128 entries, and most often 50.
const SLOTS: usize = 128;

/// The bits that a literal begins with, and those that are left for the number of its name.
#[derive(Clone, Copy)]
struct Form(u8, u32);

const INDEXED: Form = Form(0x40, 6);
const NOT_INDEXED: Form = Form(0x00, 4);
const NEVER_INDEXED: Form = Form(0x10, 4);

/// Where a field may be found, by a hash of it. What is found is compared, so that an old hint does no harm.
struct Hints {
    /// Fields that were seen: a part of the hash that does not say their place.
    seen: [u16; SEEN],
    /// Numbers of entries by the hash of the field, and by that of the name. Every connection has these: they are small, and
    /// entries behind the newest 256 of a table beyond the usual size are not found.
    fields: [u8; SLOTS],
    names: [u8; SLOTS],
}

/// The encoder of one connection.
pub struct Encoder {
    table: Table,
    /// Entries that were ever put into the table, modulo 256; the newest has this number.
    newest: u8,
    hints: Option<Box<Hints>>,
    /// Table sizes to tell the peer before the next block: the smallest that was set since, and the last.
    resize: Option<(usize, usize)>,
    /// The largest table that we use, whatever the peer allows.
    cap: usize,
    huffman: bool,
}

impl Encoder {
    /// An encoder that uses a table of at most `cap` bytes.
    pub fn new(cap: usize, huffman: bool) -> Self {
        let max = DEFAULT_SIZE.min(cap);
        Self {
            table: Table::new(max),
            newest: 0,
            hints: None,
            resize: (max != DEFAULT_SIZE).then_some((max, max)),
            cap,
            huffman,
        }
    }

    /// Takes the size of the table that the peer allows.
    pub fn set_limit(&mut self, limit: usize) {
        let max = limit.min(self.cap);
        if max == self.table.max() {
            return;
        }
        let smallest = self.resize.map_or(max, |(smallest, _)| smallest.min(max));
        self.resize = Some((smallest, max));
        self.table.set_max(max);
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.resize.take() {
            if smallest < last {
                integer(out, 0x20, 5, smallest);
            }
            integer(out, 0x20, 5, last);
        }
    }

    /// Adds `:status`.
    pub fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let number = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [
                    b'0' + u8::try_from(status / 100 % 10).unwrap_or(0),
                    b'0' + u8::try_from(status / 10 % 10).unwrap_or(0),
                    b'0' + u8::try_from(status % 10).unwrap_or(0),
                ];
                return self.field(None, b":status", &digits, out);
            }
        };
        out.push(0x80 | number);
    }

    /// Adds `:method`.
    pub fn method(&mut self, method: &[u8], out: &mut Vec<u8>) {
        match method {
            b"GET" => out.push(0x82),
            b"POST" => out.push(0x83),
            _ => self.field(None, b":method", method, out),
        }
    }

    /// Adds `:scheme`.
    pub fn scheme(&mut self, scheme: &[u8], out: &mut Vec<u8>) {
        match scheme {
            b"http" => out.push(0x86),
            b"https" => out.push(0x87),
            _ => self.field(None, b":scheme", scheme, out),
        }
    }

    /// Adds `:path`.
    pub fn path(&mut self, path: &[u8], out: &mut Vec<u8>) {
        match path {
            b"/" => out.push(0x84),
            _ => self.field(None, b":path", path, out),
        }
    }

    /// Adds a field; its name is in lower case.
    pub fn field(&mut self, known: Option<Known>, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if is_secret(known, name) {
            let number = static_name(known, name).unwrap_or(0);
            return self.literal(NEVER_INDEXED, number, (name, value), out);
        }
        let name_hash = hash(name, 0x811c_9dc5);
        let field_hash = hash(value, name_hash);
        let newest = self.newest;
        let hints = self.hints.get_or_insert_with(Hints::new);
        // How far an entry is behind the newest one, if it is still there.
        let place = newest.wrapping_sub(hints.fields[field_hash as usize % SLOTS]);
        let place = usize::from(place);
        if let Some(entry) = self.table.get(place)
            && entry.name() == name
            && entry.value() == value
        {
            return integer(out, 0x80, 7, STATIC.len() + 1 + place);
        }
        let number = static_name(known, name).or_else(|| {
            let place = newest.wrapping_sub(hints.names[name_hash as usize % SLOTS]);
            let place = usize::from(place);
            let entry = self.table.get(place)?;
            (entry.name() == name).then_some(STATIC.len() + 1 + place)
        });
        let number = number.unwrap_or(0);
        let small = (name.len() + value.len() + 32) * 2 <= self.table.max();
        let seen = &mut hints.seen[field_hash as usize % SEEN];
        let rest = u16::try_from(field_hash >> 16).unwrap_or(0);
        let comes_again = std::mem::replace(seen, rest) == rest;
        if !small || !comes_again {
            return self.literal(NOT_INDEXED, number, (name, value), out);
        }
        if self.table.insert(name, NameClass::Regular(known), value) {
            self.newest = newest.wrapping_add(1);
            hints.fields[field_hash as usize % SLOTS] = self.newest;
            hints.names[name_hash as usize % SLOTS] = self.newest;
        }
        self.literal(INDEXED, number, (name, value), out);
    }

    fn literal(&self, form: Form, number: usize, (name, value): (&[u8], &[u8]), out: &mut Vec<u8>) {
        let Form(kind, prefix) = form;
        integer(out, kind, prefix, number);
        if number == 0 {
            self.string(name, out);
        }
        self.string(value, out);
    }

    fn string(&self, text: &[u8], out: &mut Vec<u8>) {
        let coded = if self.huffman {
            huffman::encoded_len(text)
        } else {
            text.len()
        };
        if coded < text.len() {
            integer(out, 0x80, 7, coded);
            huffman::encode(text, out);
        } else {
            integer(out, 0, 7, text.len());
            out.extend_from_slice(text);
        }
    }
}

impl Hints {
    /// None yet.
    fn new() -> Box<Self> {
        Box::new(Self {
            seen: [0; SEEN],
            fields: [0; SLOTS],
            names: [0; SLOTS],
        })
    }
}

/// What must not be guessed by watching sizes: it never enters a table.
fn is_secret(known: Option<Known>, name: &[u8]) -> bool {
    matches!(
        known,
        Some(Known::Authorization | Known::Cookie | Known::SetCookie)
    ) || known.is_none() && name == b"proxy-authorization"
}

/// FNV-1a over words: no more than a hint, what it finds is compared.
fn hash(text: &[u8], seed: u32) -> u32 {
    let mut hash = u64::from(seed) ^ text.len() as u64;
    let mut words = text.chunks_exact(8);
    for word in &mut words {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    for byte in words.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    #[allow(clippy::cast_possible_truncation, reason = "the upper half is taken")]
    let hash = (hash >> 32) as u32;
    hash
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn integer(out: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(kind | value as u8);
        return;
    }
    out.push(kind | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::super::decode::Decoder;
    use super::super::decode::tests::Seen;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_repeats_becomes_one_byte() {
        let mut encoder = Encoder::new(4096, true);
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            encoder.field(None, b"x-tenant", b"blue-and-green", &mut out);
            sizes.push(out.len());
        }
        assert!(sizes[0] > 10 && sizes[1] > 10, "{sizes:?}");
        assert_eq!(sizes[2], 1);
    }

    #[test]
    fn secrets_are_never_indexed() {
        let mut encoder = Encoder::new(4096, false);
        for _ in 0..3 {
            let mut out = Vec::new();
            encoder.field(
                Some(Known::Authorization),
                b"authorization",
                b"secret",
                &mut out,
            );
            assert_eq!(out, b"\x1f\x08\x06secret");
        }
    }

    #[test]
    fn both_table_sizes_are_told() {
        let mut encoder = Encoder::new(4096, true);
        encoder.set_limit(0);
        encoder.set_limit(100);
        let mut out = Vec::new();
        encoder.begin(&mut out);
        assert_eq!(out, [0x20, 0x3f, 0x45]);
        let mut small = Encoder::new(10, true);
        let mut out = Vec::new();
        small.begin(&mut out);
        assert_eq!(out, [0x2a]);
    }

    proptest! {
        #[test]
        fn the_decoder_reads_what_the_encoder_writes(
            blocks in proptest::collection::vec(
                proptest::collection::vec(("[a-d-]{1,9}|te|via|date", "[ -~]{0,40}|x|y|\\PC{0,9}", 0u8..4), 0..12), 1..30),
            limits in proptest::collection::vec(0usize..5000, 1..30),
            huffman: bool,
        ) {
            let mut encoder = Encoder::new(4096, huffman);
            let mut decoder = Decoder::default();
            for (number, block) in blocks.iter().enumerate() {
                if number % 3 == 2 {
                    let limit = limits[number % limits.len()];
                    // The peer says a limit only after it has made its own table follow.
                    encoder.set_limit(limit.min(4096));
                }
                let mut out = Vec::new();
                encoder.begin(&mut out);
                for (name, value, _) in block {
                    let known = Known::find(name.as_bytes());
                    encoder.field(known, name.as_bytes(), value.as_bytes(), &mut out);
                }
                let mut seen = Seen::default();
                decoder.decode(&out, &mut seen).unwrap();
                let wanted: Vec<_> = block.iter().map(|(n, v, _)| (n.clone(), v.clone())).collect();
                prop_assert_eq!(seen.0, wanted);
            }
        }
    }
}
