//! JA3 and JA4: short names for how a client says hello.

use std::fmt::{Display, Write as _};

use md5::Md5;
use sha2::{Digest, Sha256};

use super::client_hello::{
    ALPN, ClientHello, EC_POINT_FORMATS, Reader, SERVER_NAME, SIGNATURE_ALGORITHMS,
    SUPPORTED_GROUPS, SUPPORTED_VERSIONS,
};

/// The MD5 of version, ciphers, extensions, groups and point formats, in hexadecimal.
pub fn ja3(hello: &ClientHello<'_>) -> String {
    let ciphers = join(numbers(hello.cipher_suites).filter(|id| !is_grease(*id)));
    let extensions = join(
        hello
            .extensions()
            .map(|(id, _)| id)
            .filter(|id| !is_grease(*id)),
    );
    let groups = join(numbers(list(hello, SUPPORTED_GROUPS, 2)));
    let formats = join(list(hello, EC_POINT_FORMATS, 1).iter());
    let text = format!(
        "{},{ciphers},{extensions},{groups},{formats}",
        hello.version
    );
    hex(&Md5::digest(text))
}

/// `t13d1516h2_8daaf6152771_b186095e22b6`: what is counted in plain, and hashes of sorted ciphers and extensions.
pub fn ja4(hello: &ClientHello<'_>) -> String {
    let mut ciphers: Vec<u16> = numbers(hello.cipher_suites)
        .filter(|id| !is_grease(*id))
        .collect();
    let mut extensions: Vec<u16> = hello
        .extensions()
        .map(|(id, _)| id)
        .filter(|id| !is_grease(*id))
        .collect();
    let head = format!(
        "t{}{}{:02}{:02}{}",
        version(hello),
        if hello.extension(SERVER_NAME).is_some() {
            'd'
        } else {
            'i'
        },
        ciphers.len().min(99),
        extensions.len().min(99),
        alpn(hello),
    );
    ciphers.sort_unstable();
    extensions.retain(|id| *id != SERVER_NAME && *id != ALPN);
    extensions.sort_unstable();
    let mut listed = hex_list(extensions.iter().copied());
    let algorithms = hex_list(numbers(list(hello, SIGNATURE_ALGORITHMS, 2)));
    if !algorithms.is_empty() && !listed.is_empty() {
        listed.push('_');
        listed.push_str(&algorithms);
    }
    format!(
        "{head}_{}_{}",
        short_hash(&hex_list(ciphers.into_iter())),
        short_hash(&listed)
    )
}

fn version(hello: &ClientHello<'_>) -> &'static str {
    let offered = hello
        .extension(SUPPORTED_VERSIONS)
        .and_then(|value| Reader(value).vector8())
        .and_then(|list| numbers(list).filter(|id| !is_grease(*id)).max());
    match offered.unwrap_or(hello.version) {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        _ => "00",
    }
}

fn alpn(hello: &ClientHello<'_>) -> String {
    let first = hello.extension(ALPN).and_then(|value| {
        let mut reader = Reader(value);
        reader.u16()?;
        reader.vector8()
    });
    match first {
        Some([first, .., last]) | Some([first @ last]) => {
            if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
                format!("{}{}", char::from(*first), char::from(*last))
            } else {
                format!("{:x}{:x}", first >> 4, last & 15)
            }
        }
        _ => "00".to_owned(),
    }
}

/// The list in an extension, without its length of `width` bytes.
fn list<'a>(hello: &ClientHello<'a>, kind: u16, width: usize) -> &'a [u8] {
    hello
        .extension(kind)
        .and_then(|value| value.get(width..))
        .unwrap_or_default()
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn join<T: Display>(items: impl Iterator<Item = T>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join("-")
}

fn hex_list(items: impl Iterator<Item = u16>) -> String {
    items
        .map(|item| format!("{item:04x}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    hex(&Sha256::digest(text)[..6])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Values that clients send only to see that servers ignore them.
fn is_grease(id: u16) -> bool {
    let [high, low] = id.to_be_bytes();
    high == low && low & 15 == 10
}

#[cfg(test)]
mod tests {
    use super::super::client_hello::tests::{alpn, extension, hello, sni, vector};
    use super::*;

    fn sample() -> Vec<u8> {
        hello(&[
            extension(0x0a0a, &[]),
            sni(b"a.example"),
            alpn(&[b"h2"]),
            extension(SUPPORTED_GROUPS, &vector(&[0, 29, 0, 23])),
            extension(EC_POINT_FORMATS, &[1, 0]),
            extension(SIGNATURE_ALGORITHMS, &vector(&[4, 3, 8, 4])),
            extension(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3]),
        ])
    }

    #[test]
    fn ja3_hashes_what_the_client_sent_in_its_order() {
        let message = sample();
        let hello = ClientHello::parse(&message[4..]).unwrap();
        assert_eq!(
            ja3(&hello),
            hex(&Md5::digest("771,4865-49199,0-16-10-11-13-43,29-23,0"))
        );
    }

    #[test]
    fn ja4_counts_in_plain_and_hashes_sorted_lists() {
        let message = sample();
        let hello = ClientHello::parse(&message[4..]).unwrap();
        let expected = format!(
            "t13d0206h2_{}_{}",
            short_hash("1301,c02f"),
            short_hash("000a,000b,000d,002b_0403,0804")
        );
        assert_eq!(ja4(&hello), expected);
    }

    #[test]
    fn a_bare_hello_has_empty_hashes() {
        let message = hello(&[]);
        let hello = ClientHello::parse(&message[4..]).unwrap();
        assert!(ja4(&hello).starts_with("t12i020000_"));
        assert!(ja4(&hello).ends_with("_000000000000"));
    }
}
