//! One value of the header `x-forwarded-client-cert`: `%XFCC_VALUE(uri)%`.

use super::FormatData;

/// A key of an element of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formatter) enum XfccKey {
    By,
    Hash,
    Cert,
    Chain,
    Subject,
    Uri,
    Dns,
}

impl XfccKey {
    /// The key of this name, in small letters.
    pub(in crate::formatter) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "by" => Self::By,
            "hash" => Self::Hash,
            "cert" => Self::Cert,
            "chain" => Self::Chain,
            "subject" => Self::Subject,
            "uri" => Self::Uri,
            "dns" => Self::Dns,
            _ => return None,
        })
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::By => b"by",
            Self::Hash => b"hash",
            Self::Cert => b"cert",
            Self::Chain => b"chain",
            Self::Subject => b"subject",
            Self::Uri => b"uri",
            Self::Dns => b"dns",
        }
    }

    /// Appends the value of the first element that has the key: the one of the proxy next to the client.
    pub(super) fn write(self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let header = data
            .request
            .and_then(|head| head.fields.get("x-forwarded-client-cert"));
        let pairs = header
            .into_iter()
            .flat_map(|header| parts(header, b','))
            .flat_map(|element| parts(element, b';'));
        let mut values = pairs.filter_map(|pair| {
            let equals = pair.iter().position(|b| *b == b'=');
            let (key, value) = pair.split_at(equals.unwrap_or(pair.len()));
            let value = value.get(1..).unwrap_or_default();
            let wanted = key.trim_ascii().eq_ignore_ascii_case(self.name());
            wanted.then(|| value.trim_ascii())
        });
        match values.next() {
            Some(value) => {
                unescape(value, out);
                true
            }
            None => false,
        }
    }
}

/// The parts between separators outside of quotes. What follows a quote without end is no part.
fn parts(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut start = Some(0);
    std::iter::from_fn(move || {
        let from = start?;
        let (mut quoted, mut backslashes) = (false, 0);
        for at in from..=text.len() {
            let byte = text.get(at).copied();
            match byte {
                None if quoted => break,
                None => {
                    start = None;
                    return text.get(from..);
                }
                Some(byte) if byte == separator && !quoted => {
                    start = Some(at + 1);
                    return text.get(from..at);
                }
                Some(b'"') if backslashes % 2 == 0 => quoted = !quoted,
                Some(_) => {}
            }
            backslashes = if byte == Some(b'\\') {
                backslashes + 1
            } else {
                0
            };
        }
        start = None;
        None
    })
}

/// Appends a value without its quotes, and without the backslashes before quotes and backslashes.
fn unescape(value: &[u8], out: &mut Vec<u8>) {
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    };
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = match (byte, bytes.peek()) {
            (b'\\', Some(next @ (b'"' | b'\\'))) => Some(*next),
            _ => None,
        };
        if escaped.is_some() {
            bytes.next();
        }
        out.push(escaped.unwrap_or(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(header: &str) -> Vec<String> {
        let pairs = parts(header.as_bytes(), b',').flat_map(|element| parts(element, b';'));
        let text = |pair: &[u8]| String::from_utf8(pair.to_vec()).unwrap();
        pairs.map(text).collect()
    }

    #[test]
    fn separators_in_quotes_separate_nothing() {
        assert_eq!(
            values(r#"By=a;Subject="x,y;z",URI=b"#),
            ["By=a", r#"Subject="x,y;z""#, "URI=b"]
        );
        assert_eq!(values(r#"A="\";";B=c"#), [r#"A="\";""#, "B=c"]);
        assert_eq!(values(r#"A=b;C="d"#), Vec::<String>::new());
        assert_eq!(values(r#"A=b,C="d"#), ["A=b"]);
    }

    proptest::proptest! {
        #[test]
        fn parts_are_parts_of_the_text(text in "[a-c\"\\\\;,=]{0,24}") {
            let all: usize = parts(text.as_bytes(), b';').map(<[u8]>::len).sum();
            proptest::prop_assert!(all <= text.len());
        }
    }

    #[test]
    fn values_lose_their_quotes_and_escapes() {
        for (value, expected) in [
            (r#""a b""#, "a b"),
            (r#""a\"b\\""#, r#"a"b\"#),
            (r"a\b", r"a\b"),
            (r"\", r"\"),
            (r#"""#, r#"""#),
        ] {
            let mut out = Vec::new();
            unescape(value.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
