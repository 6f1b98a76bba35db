//! Header blocks to fields.

use super::huffman;
use super::table::{STATIC, Table, static_classes};
use crate::http::Known;

/// The size that a table has before anybody says otherwise.
pub(super) const DEFAULT_SIZE: usize = 4096;

/// A header block that cannot be decoded: nothing behind it on the connection can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HpackError;

/// What a name is. Found once for an entry of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameClass {
    /// A token in lower case.
    Regular(Option<Known>),
    Pseudo(Pseudo),
    /// Neither; upper case is among these.
    Invalid,
}

/// The pseudo headers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

/// A name as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) class: NameClass,
}

/// Takes the fields of a block, in order.
pub(crate) trait FieldSink {
    fn field(&mut self, name: Name<'_>, value: &[u8]);
}

/// The decoder of one connection.
pub struct Decoder {
    table: Table,
    /// The size that the peer may use.
    limit: usize,
    /// The peer has to say that it uses no more than the limit before it sends anything else.
    must_shrink: bool,
    /// Octets that a name or a value may have on the wire.
    max_string: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl NameClass {
    pub(super) fn of(name: &[u8]) -> Self {
        if let Some(pseudo) = name.strip_prefix(b":") {
            return match pseudo {
                b"method" => Self::Pseudo(Pseudo::Method),
                b"scheme" => Self::Pseudo(Pseudo::Scheme),
                b"authority" => Self::Pseudo(Pseudo::Authority),
                b"path" => Self::Pseudo(Pseudo::Path),
                b"protocol" => Self::Pseudo(Pseudo::Protocol),
                b"status" => Self::Pseudo(Pseudo::Status),
                _ => Self::Invalid,
            };
        }
        if name.is_empty() || !name.iter().all(|b| is_lower_token(*b)) {
            return Self::Invalid;
        }
        Self::Regular(Known::find(name))
    }
}

fn is_lower_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(DEFAULT_SIZE),
            limit: DEFAULT_SIZE,
            must_shrink: false,
            max_string: usize::MAX,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// Sets the size of the table that the peer may use, once it has agreed to it.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.must_shrink = self.table.max() > limit;
    }

    /// Sets how many octets a name or a value may have on the wire. Without it, any number.
    pub fn set_max_string(&mut self, max: usize) {
        self.max_string = max;
    }

    /// Decodes a whole block.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        sink: &mut impl FieldSink,
    ) -> Result<(), HpackError> {
        let mut rest = block;
        let mut may_resize = true;
        while let Some(first) = rest.first().copied() {
            let is_resize = first & 0xe0 == 0x20;
            if !is_resize && self.must_shrink || is_resize && !may_resize {
                return Err(HpackError);
            }
            may_resize &= is_resize;
            match first {
                0x80.. => {
                    let number = integer(&mut rest, 7)?;
                    self.indexed(number, sink)?;
                }
                0x40..0x80 => self.literal(&mut rest, 6, true, sink)?,
                0x20..0x40 => self.resize(integer(&mut rest, 5)?)?,
                0x00..0x20 => self.literal(&mut rest, 4, false, sink)?,
            }
        }
        if self.must_shrink {
            return Err(HpackError);
        }
        Ok(())
    }

    /// Decodes a whole block and hands over its fields as they came, for those who want no head of them.
    pub fn decode_fields(
        &mut self,
        block: &[u8],
        take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        struct Taker<F>(F);
        impl<F: FnMut(&[u8], &[u8])> FieldSink for Taker<F> {
            fn field(&mut self, name: Name<'_>, value: &[u8]) {
                self.0(name.bytes, value);
            }
        }
        self.decode(block, &mut Taker(take))
    }

    fn resize(&mut self, size: usize) -> Result<(), HpackError> {
        if size > self.limit {
            return Err(HpackError);
        }
        self.must_shrink = false;
        self.table.set_max(size);
        Ok(())
    }

    fn indexed(&self, number: usize, sink: &mut impl FieldSink) -> Result<(), HpackError> {
        let number = number.checked_sub(1).ok_or(HpackError)?;
        if let Some((name, value)) = STATIC.get(number) {
            let name = Name {
                bytes: name.as_bytes(),
                class: static_classes()[number],
            };
            sink.field(name, value.as_bytes());
            return Ok(());
        }
        let entry = self.table.get(number - STATIC.len()).ok_or(HpackError)?;
        let name = Name {
            bytes: entry.name(),
            class: entry.class,
        };
        sink.field(name, entry.value());
        Ok(())
    }

    fn literal(
        &mut self,
        rest: &mut &[u8],
        prefix: u32,
        keep: bool,
        sink: &mut impl FieldSink,
    ) -> Result<(), HpackError> {
        let number = integer(rest, prefix)?;
        self.name.clear();
        self.value.clear();
        let mut coded_name = None;
        if number == 0 {
            coded_name = string(rest, self.max_string, &mut self.name)?;
        }
        let plain_value = string(rest, self.max_string, &mut self.value)?;
        let value = plain_value.unwrap_or(&self.value);
        let name = match number.checked_sub(1) {
            None => {
                let bytes = coded_name.unwrap_or(&self.name);
                Name {
                    bytes,
                    class: NameClass::of(bytes),
                }
            }
            Some(number) => match STATIC.get(number) {
                Some((name, _)) => Name {
                    bytes: name.as_bytes(),
                    class: static_classes()[number],
                },
                None => {
                    let entry = self.table.get(number - STATIC.len()).ok_or(HpackError)?;
                    Name {
                        bytes: entry.name(),
                        class: entry.class,
                    }
                }
            },
        };
        sink.field(name, value);
        if keep {
            if number > STATIC.len() {
                // The entry that the name comes from may be evicted by the new one.
                let bytes = name.bytes.to_vec();
                let class = name.class;
                self.table.insert(&bytes, class, value);
            } else if number == 0 {
                let (bytes, class) = (coded_name.unwrap_or(&self.name), name.class);
                self.table.insert(bytes, class, value);
            } else if let Some((bytes, _)) = STATIC.get(number - 1) {
                let class = static_classes()[number - 1];
                self.table.insert(bytes.as_bytes(), class, value);
            }
        }
        Ok(())
    }

    /// Gives back what the last block needed.
    pub(crate) fn give_back_buffers(&mut self) -> [Vec<u8>; 2] {
        [&mut self.name, &mut self.value].map(std::mem::take)
    }

    /// Takes what another decoder has given back.
    pub(crate) fn lend_buffers(&mut self, [name, value]: [Vec<u8>; 2]) {
        self.name = name;
        self.value = value;
    }
}

/// A string: as it stands in the block, or decoded into `buffer`.
fn string<'a>(
    rest: &mut &'a [u8],
    max: usize,
    buffer: &mut Vec<u8>,
) -> Result<Option<&'a [u8]>, HpackError> {
    let coded = rest.first().ok_or(HpackError)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    if length > max {
        return Err(HpackError);
    }
    let (text, behind) = rest.split_at_checked(length).ok_or(HpackError)?;
    *rest = behind;
    if coded {
        huffman::decode(text, buffer).ok_or(HpackError)?;
        return Ok(None);
    }
    Ok(Some(text))
}

/// An integer with a prefix of so many bits. Numbers above 2^32, and those of more octets than these need, are refused.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    let (first, behind) = rest.split_first().ok_or(HpackError)?;
    *rest = behind;
    let mask = (1u8 << prefix) - 1;
    let first = first & mask;
    if first < mask {
        return Ok(usize::from(first));
    }
    let mut value = u64::from(first);
    for shift in [0, 7, 14, 21, 28] {
        let (next, behind) = rest.split_first().ok_or(HpackError)?;
        *rest = behind;
        value += u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| HpackError)?;
            return usize::try_from(value).map_err(|_| HpackError);
        }
    }
    Err(HpackError)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[derive(Default)]
    pub(in super::super) struct Seen(pub(in super::super) Vec<(String, String)>);

    impl FieldSink for Seen {
        fn field(&mut self, name: Name<'_>, value: &[u8]) {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            self.0.push((text(name.bytes), text(value)));
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        hex.chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn decoded(decoder: &mut Decoder, hex: &str) -> Result<Vec<(String, String)>, HpackError> {
        let mut seen = Seen::default();
        decoder.decode(&bytes(hex), &mut seen)?;
        Ok(seen.0)
    }

    fn check(decoder: &mut Decoder, hex: &str, wanted: &str) {
        let got = decoded(decoder, hex).unwrap();
        let got: Vec<_> = got.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(got.join("\n"), wanted);
    }

    #[test]
    fn requests_of_the_rfc_without_huffman() {
        let mut decoder = Decoder::default();
        let first = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com";
        check(
            &mut decoder,
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            first,
        );
        let second = format!("{first}\ncache-control: no-cache");
        check(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865", &second);
        check(
            &mut decoder,
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value",
        );
        assert_eq!(decoder.table.len(), 3);
    }

    #[test]
    fn requests_of_the_rfc_with_huffman() {
        let mut decoder = Decoder::default();
        let first = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com";
        check(
            &mut decoder,
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            first,
        );
        let second = format!("{first}\ncache-control: no-cache");
        check(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", &second);
        check(
            &mut decoder,
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value",
        );
    }

    #[test]
    fn responses_of_the_rfc_evict_entries() {
        let mut decoder = Decoder::default();
        decoder.table.set_max(256);
        check(
            &mut decoder,
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com",
        );
        check(
            &mut decoder,
            "4883 640e ffc1 c0bf",
            ":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com",
        );
        check(
            &mut decoder,
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\ncontent-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        );
        assert_eq!(decoder.table.len(), 3);
    }

    #[test]
    fn broken_blocks_are_refused() {
        for hex in [
            "80",
            "ff00",
            "be",
            "c0",
            "ffffffffff01",
            "00",
            "0001",
            "000161",
            "40 0161 05 61",
            "3fe2 1f",
            "82 3fe1 1f",
        ] {
            assert!(decoded(&mut Decoder::default(), hex).is_err(), "{hex}");
        }
    }

    #[test]
    fn strings_above_their_limit_are_refused_as_they_are_on_the_wire() {
        let mut decoder = Decoder::default();
        decoder.set_max_string(3);
        // "custom" is five octets in Huffman's code, "aaaa" three, "abcd" four without.
        assert!(decoded(&mut decoder, "00 01 61 03 616263").is_ok());
        assert!(decoded(&mut decoder, "00 01 61 83 18c63f").is_ok());
        assert_eq!(
            decoded(&mut decoder, "00 01 61 04 61626364"),
            Err(HpackError)
        );
        assert_eq!(
            decoded(&mut decoder, "00 04 61626364 01 61"),
            Err(HpackError)
        );
    }

    #[test]
    fn a_smaller_limit_has_to_be_taken_note_of() {
        let mut decoder = Decoder::default();
        decoder.set_limit(100);
        assert!(decoded(&mut decoder, "82").is_err());
        assert!(decoded(&mut decoder, "3f46 82").is_err());
        assert!(decoded(&mut decoder, "3f45 82").is_ok());
        assert!(decoded(&mut decoder, "82").is_ok());
    }
}
