//! The protobuf wire format: a reader over bytes, and writers.

/// How a field is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// One field of an encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireField<'a> {
    pub(crate) number: u32,
    pub(crate) value: WireValue<'a>,
}

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Iterates over the fields of an encoded message. Ends after the first error.
#[derive(Clone, Copy)]
pub(crate) struct WireReader<'a> {
    rest: &'a [u8],
}

impl<'a> WireReader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn field(&mut self) -> Option<WireField<'a>> {
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))?;
        let value = match tag & 7 {
            0 => WireValue::Varint(varint(&mut self.rest)?),
            1 => WireValue::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).ok()?;
                let (bytes, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                WireValue::Bytes(bytes)
            }
            5 => WireValue::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return None,
        };
        Some(WireField { number, value })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }
}

impl<'a> Iterator for WireReader<'a> {
    type Item = Result<WireField<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

/// Takes one varint off the front.
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(first & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

pub(crate) fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

pub(crate) fn put_fixed64_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_fixed32_field(out: &mut Vec<u8>, number: u32, value: u32) {
    put_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_bytes_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    let at = begin_field(out, number);
    out.extend_from_slice(value);
    end_field(out, at);
}

/// Begins a length-delimited field whose content follows; give the result to [`end_field`].
pub(crate) fn begin_field(out: &mut Vec<u8>, number: u32) -> usize {
    put_varint(out, u64::from(number) << 3 | 2);
    out.push(0);
    out.len()
}

/// Puts the length in front of what was written since [`begin_field`].
pub(crate) fn end_field(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if let Ok(short) = u8::try_from(length)
        && short < 0x80
    {
        out[start - 1] = short;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    out.splice(start - 1..start, prefix);
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the mask leaves seven bits"
)]
fn low_byte(value: u64) -> u8 {
    (value & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        put_varint_field(&mut out, 1, u64::MAX);
        put_fixed32_field(&mut out, 2, 7);
        put_fixed64_field(&mut out, 3, 8);
        let long = vec![5; 300];
        put_bytes_field(&mut out, 536_870_911, &long);
        let fields: Vec<_> = WireReader::new(&out)
            .map(|field| field.expect("well formed").value)
            .collect();
        let expected = [
            WireValue::Varint(u64::MAX),
            WireValue::Fixed32(7),
            WireValue::Fixed64(8),
            WireValue::Bytes(&long),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn broken_bytes_end_in_one_error() {
        for broken in [
            &[0x0a_u8, 5, 1][..],
            &[0x08],
            &[0x0b],
            &[0x00, 0x00],
            &[0x09, 1],
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            let read: Vec<_> = WireReader::new(broken).collect();
            assert_eq!(read, [Err(Malformed)], "{broken:?}");
        }
    }
}
