//! The ClientHello of a TLS connection, out of the records that it arrives in.

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Cannot be said before at least this many bytes are there.
    NeedMore(usize),
    /// Not TLS, or a ClientHello that no server would accept.
    NotTls,
    /// A complete ClientHello.
    ClientHello {
        /// The handshake message, without its header and out of its records.
        message: Vec<u8>,
        /// How many bytes its records take.
        consumed: usize,
    },
}

/// Takes the first handshake message out of its records. It may be at most `max` bytes long, records included.
pub fn unwrap_records(bytes: &[u8], max: usize) -> Parsed {
    let mut message = Vec::new();
    let mut position = 0;
    loop {
        let Some(header) = bytes.get(position..position + RECORD_HEADER) else {
            return Parsed::NeedMore(position + RECORD_HEADER);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || header[1] != 3 || length == 0 || length > MAX_RECORD {
            return Parsed::NotTls;
        }
        let body_start = position + RECORD_HEADER;
        let end = body_start + length;
        let Some(body) = bytes.get(body_start..end) else {
            return Parsed::NeedMore(end);
        };
        message.extend_from_slice(body);
        position = end;
        if let Some(header) = message.first_chunk::<HANDSHAKE_HEADER>() {
            let [kind, length @ ..] = *header;
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            if kind != CLIENT_HELLO || length > max {
                return Parsed::NotTls;
            }
            if message.len() >= HANDSHAKE_HEADER + length {
                message.truncate(HANDSHAKE_HEADER + length);
                message.drain(..HANDSHAKE_HEADER);
                return Parsed::ClientHello {
                    message,
                    consumed: position,
                };
            }
        }
    }
}

/// The parts of a ClientHello that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// `legacy_version`.
    pub version: u16,
    /// The cipher suites, two bytes each.
    pub cipher_suites: &'a [u8],
    /// The extensions: type, length, value.
    pub extensions: &'a [u8],
}

/// An extension that no server would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl<'a> ClientHello<'a> {
    /// Parses a handshake message; none where it breaks the rules.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        let version = reader.u16()?;
        reader.take(32)?;
        if reader.vector8()?.len() > 32 {
            return None;
        }
        let cipher_suites = reader.vector16()?;
        if cipher_suites.len() < 2 || cipher_suites.len() % 2 != 0 {
            return None;
        }
        if reader.vector8()?.is_empty() {
            return None;
        }
        let extensions = if reader.0.is_empty() {
            &[]
        } else {
            reader.vector16()?
        };
        if !reader.0.is_empty() || !extensions_are_well_formed(extensions) {
            return None;
        }
        Some(Self {
            version,
            cipher_suites,
            extensions,
        })
    }

    /// Type and value of each extension, in the order of the wire.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut reader = Reader(self.extensions);
        std::iter::from_fn(move || Some((reader.u16()?, reader.vector16()?)))
    }

    /// The value of the extension of this type.
    pub fn extension(&self, kind: u16) -> Option<&'a [u8]> {
        self.extensions()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The server name; `Err` where the extension is broken, so that no server would go on.
    pub fn server_name(&self) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(value) = self.extension(SERVER_NAME) else {
            return Ok(None);
        };
        let parse = || {
            let mut reader = Reader(value);
            let mut list = Reader(reader.vector16()?);
            let kind = list.take(1)?[0];
            let name = list.vector16()?;
            let complete = reader.0.is_empty() && list.0.is_empty() && kind == 0;
            (complete && (1..=255).contains(&name.len()) && !name.contains(&0)).then_some(name)
        };
        parse().map(Some).ok_or(Malformed)
    }

    /// The protocols that the client offers (ALPN); none where it offers none or the list is broken.
    pub fn application_protocols(&self) -> Option<Vec<Box<[u8]>>> {
        let mut reader = Reader(self.extension(ALPN)?);
        let mut list = Reader(reader.vector16()?);
        if !reader.0.is_empty() || list.0.len() < 2 {
            return None;
        }
        let mut protocols = Vec::new();
        while !list.0.is_empty() {
            let name = list.vector8()?;
            if name.is_empty() {
                return None;
            }
            protocols.push(name.into());
        }
        Some(protocols)
    }
}

/// Whether each extension is complete and none comes twice.
fn extensions_are_well_formed(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    let mut seen = Vec::new();
    while !reader.0.is_empty() {
        let (Some(kind), Some(_)) = (reader.u16(), reader.vector16()) else {
            return false;
        };
        seen.push(kind);
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    seen.len() == count
}

/// Reads from the front of a slice; none where it is too short.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

pub(super) const SERVER_NAME: u16 = 0;
pub(super) const SUPPORTED_GROUPS: u16 = 10;
pub(super) const EC_POINT_FORMATS: u16 = 11;
pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
pub(super) const SUPPORTED_VERSIONS: u16 = 43;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const MAX_RECORD: usize = 16_384 + 256;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn vector(bytes: &[u8]) -> Vec<u8> {
        [
            &u16::try_from(bytes.len()).unwrap().to_be_bytes()[..],
            bytes,
        ]
        .concat()
    }

    pub(crate) fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(value)].concat()
    }

    pub(crate) fn sni(name: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &vector(&[&[0], &vector(name)[..]].concat()))
    }

    pub(crate) fn alpn(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[u8::try_from(name.len()).unwrap()], *name].concat())
            .collect();
        extension(ALPN, &vector(&list))
    }

    pub(crate) fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &vector(&[0x13, 0x01, 0xc0, 0x2f]),
            &[1, 0],
            &vector(&extensions.concat()),
        ]
        .concat();
        [&[1, 0][..], &vector(&body)].concat()
    }

    /// Cuts a handshake message into records of `size` bytes.
    pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|chunk| [&[22, 3, 1][..], &vector(chunk)].concat())
            .collect()
    }

    #[test]
    fn name_and_protocols_are_found_in_any_fragmentation() {
        let message = hello(&[sni(b"Example.com"), alpn(&[b"h2", b"http/1.1"])]);
        for size in [1, 3, 50, 10_000] {
            let bytes = records(&message, size);
            for end in 0..bytes.len() {
                assert!(
                    matches!(unwrap_records(&bytes[..end], 16_384), Parsed::NeedMore(more) if more > end),
                );
            }
            let Parsed::ClientHello { message, consumed } = unwrap_records(&bytes, 16_384) else {
                panic!("no hello");
            };
            assert_eq!(consumed, bytes.len());
            let hello = ClientHello::parse(&message).unwrap();
            assert_eq!(hello.server_name(), Ok(Some(&b"Example.com"[..])));
            assert_eq!(
                hello.application_protocols().unwrap(),
                [Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])]
            );
        }
    }

    #[test]
    fn what_is_no_client_hello_is_not_tls() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 2, 0, 0, 1, 1],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
            &[22, 3, 1, 0xff, 0xff],
            &[21, 3, 1, 0, 2, 1, 1],
        ] {
            assert_eq!(unwrap_records(bytes, 16_384), Parsed::NotTls, "{bytes:?}");
        }
    }

    #[test]
    fn broken_hellos_are_refused() {
        let good = hello(&[sni(b"a.b")]);
        assert!(ClientHello::parse(&good[4..]).is_some());
        assert!(ClientHello::parse(&good[4..good.len() - 1]).is_none());
        let twice = hello(&[sni(b"a.b"), sni(b"a.b")]);
        assert!(ClientHello::parse(&twice[4..]).is_none());
        let empty_name = hello(&[sni(b"")]);
        assert_eq!(
            ClientHello::parse(&empty_name[4..]).unwrap().server_name(),
            Err(Malformed)
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), wrapped in any::<bool>()) {
            let bytes = if wrapped { records(&bytes, 40) } else { bytes };
            let _ = unwrap_records(&bytes, 100);
            if let Some(hello) = ClientHello::parse(&bytes) {
                let _ = (hello.server_name(), hello.application_protocols());
            }
        }
    }
}
