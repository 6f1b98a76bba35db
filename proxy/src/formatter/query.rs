//! The query of a request's path: `%QUERY_PARAM(…)%` and `%QUERY_PARAMS%`.

use std::borrow::Cow;

/// The decoded value of the first parameter called `name`.
pub(super) fn parameter<'a>(path: Option<&'a [u8]>, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    raw(path?)?.split(|b| *b == b'&').find_map(|pair| {
        let (key, value) = match pair.iter().position(|b| *b == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        };
        (*decode(key) == *name).then(|| decode(value))
    })
}

/// The whole query as it was sent, or with its escapes resolved.
pub(super) fn text(path: Option<&[u8]>, decoded: bool) -> Option<Cow<'_, [u8]>> {
    let query = raw(path?)?;
    Some(if decoded {
        Cow::Owned(decode_visible(query))
    } else {
        Cow::Borrowed(query)
    })
}

fn raw(path: &[u8]) -> Option<&[u8]> {
    Some(&path[path.iter().position(|b| *b == b'?')? + 1..])
}

/// Resolves those escapes whose characters may stand in a query; a percent sign before anything else is dropped.
fn decode_visible(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let (Some(high_digit), Some(low_digit)) = (hex(*high), hex(*low)) else {
                    continue;
                };
                match high_digit << 4 | low_digit {
                    0..=b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'{' | b'|' | b'}' | 0x7f.. => {
                        out.extend_from_slice(&[b'%', *high, *low]);
                    }
                    visible => out.push(visible),
                }
                rest = after;
            }
            _ => out.push(byte),
        }
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Resolves `%41` to `A`. What is no escape stands for itself, `+` too.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_one_counts() {
        let path = Some(&b"/p?a=%7f%22+%20&b=&c&d=%f&a=2"[..]);
        let get = |name: &str| parameter(path, name.as_bytes()).map(Cow::into_owned);
        assert_eq!(get("a").as_deref(), Some(&b"\x7f\"+ "[..]));
        assert_eq!(get("b").as_deref(), Some(&b""[..]));
        assert_eq!(get("c").as_deref(), Some(&b""[..]));
        assert_eq!(get("d").as_deref(), Some(&b"%f"[..]));
        assert_eq!(get("e"), None);
        assert_eq!(parameter(Some(b"/p"), b"a"), None);
    }

    #[test]
    fn a_decoded_query_keeps_the_escapes_of_what_must_not_stand_in_one() {
        for (query, decoded) in [
            (
                "x=1&y=a%20b&z%3d=%41&c=%f&d=%2&e=%zz%",
                "x=1&y=a%20b&z==A&c=f&d=2&e=zz%",
            ),
            ("%4", "%4"),
            ("%%41%41%", "AA%"),
            ("%22%C3%a9%7e", "%22%C3%a9~"),
            ("", ""),
        ] {
            let path = format!("/p?{query}");
            assert_eq!(
                text(Some(path.as_bytes()), true).as_deref(),
                Some(decoded.as_bytes())
            );
            assert_eq!(
                text(Some(path.as_bytes()), false).as_deref(),
                Some(query.as_bytes())
            );
        }
        assert_eq!(text(Some(b"/p"), true), None);
    }
}
