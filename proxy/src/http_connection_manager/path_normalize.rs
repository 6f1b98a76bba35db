//! Path normalisation: `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action`, in Envoy's order.
//!
//! The query is never touched. Percent-encoding is kept but for unreserved characters, which RFC 3986 makes equal to their
//! plain form; `.` and `..` segments are resolved.

/// What is done to paths, of one connection manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathNormalization {
    /// `normalize_path`: RFC 3986, section 6.
    pub normalize: bool,
    /// `merge_slashes`: `//` becomes `/`.
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
}

/// What to do with `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Nothing.
    #[default]
    Keep,
    /// Answer 400.
    Reject,
    /// Replace them and answer with a redirect to the result.
    UnescapeAndRedirect,
    /// Replace them and go on.
    UnescapeAndForward,
}

/// What came of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized {
    /// It is normal already.
    Unchanged,
    /// Go on with this one.
    Changed(Vec<u8>),
    /// Redirect to this one.
    Redirect(Vec<u8>),
    /// It cannot be normalised, or must not pass; how far it was understood.
    Reject(Vec<u8>),
}

impl PathNormalization {
    /// Normalises a path with its query.
    pub fn apply(self, path: &[u8]) -> Normalized {
        if self == Self::default() {
            return Normalized::Unchanged;
        }
        let end = path
            .iter()
            .position(|b| matches!(b, b'?' | b'#'))
            .unwrap_or(path.len());
        let (original, rest) = path.split_at(end);
        if self.is_plain(original) {
            return Normalized::Unchanged;
        }
        let mut current = original.to_vec();
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::Keep {
            let unescaped = unescape_slashes(&current);
            if unescaped != current {
                match self.escaped_slashes {
                    EscapedSlashes::Reject => {
                        return Normalized::Reject([&unescaped, rest].concat());
                    }
                    EscapedSlashes::UnescapeAndRedirect => redirect = true,
                    EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
                }
                current = unescaped;
            }
        }
        if self.normalize {
            match canonical(&current) {
                Some(path) => current = path,
                None => return Normalized::Reject(path.to_vec()),
            }
        }
        if self.merge_slashes {
            current = merge_slashes(&current);
        }
        if current == original {
            return Normalized::Unchanged;
        }
        current.extend_from_slice(rest);
        if redirect {
            Normalized::Redirect(current)
        } else {
            Normalized::Changed(current)
        }
    }

    /// Whether none of the transformations can find anything to do: the case of nearly every request.
    fn is_plain(self, path: &[u8]) -> bool {
        let mut previous = 0;
        for &byte in path {
            match byte {
                b'%' | b'\\' => return false,
                b'.' | b'/' if previous == b'/' => return false,
                0x21..=0x7e => previous = byte,
                _ => return false,
            }
        }
        path.first() == Some(&b'/')
    }
}

fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [b'2', b'f' | b'F', after @ ..]) => {
                out.push(b'/');
                rest = after;
            }
            (b'%', [b'5', b'c' | b'C', after @ ..]) => {
                out.push(b'\\');
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || out.last() != Some(&b'/') {
            out.push(byte);
        }
    }
    out
}

/// The path with dot segments resolved, backslashes as slashes, unreserved characters decoded and forbidden ones encoded.
/// None for `%00` and for a path that does not begin with a slash.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    if !matches!(path.first(), Some(b'/' | b'\\')) {
        return None;
    }
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let mut pieces = path[1..].split(|b| matches!(b, b'/' | b'\\')).peekable();
    while let Some(piece) = pieces.next() {
        let segment = canonical_segment(piece)?;
        let last = pieces.peek().is_none();
        match &segment[..] {
            b"." if last => segments.push(Vec::new()),
            b"." => {}
            b".." => {
                segments.pop();
                if last {
                    segments.push(Vec::new());
                }
            }
            _ => segments.push(segment),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Some(out)
}

fn canonical_segment(piece: &[u8]) -> Option<Vec<u8>> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(piece.len());
    let mut rest = piece;
    // Where the last `%` stands that begins no escape.
    let mut bare = None;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            if must_encode(byte) {
                out.extend_from_slice(&[
                    b'%',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
            } else {
                out.push(byte);
            }
            continue;
        }
        let decoded = match tail {
            [high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match decoded {
            Some(0) => return None,
            Some(plain) if is_unreserved(plain) => {
                out.push(plain);
                rest = &tail[2..];
                if let Some(bare) = bare {
                    keep_bare(&mut out, bare, rest.first());
                }
            }
            Some(_) => {
                out.extend_from_slice(&[b'%', tail[0], tail[1]]);
                rest = &tail[2..];
            }
            None => {
                bare = Some(out.len());
                out.push(b'%');
            }
        }
    }
    Some(out)
}

/// What was decoded must not make an escape of a `%` that was none: such a one becomes `%25`.
fn keep_bare(out: &mut Vec<u8>, bare: usize, next: Option<&u8>) {
    let digits = match out.get(bare + 1..) {
        Some([high]) => next.map(|low| (*high, *low)),
        Some([high, low]) => Some((*high, *low)),
        _ => None,
    };
    if digits.is_some_and(|(high, low)| high.is_ascii_hexdigit() && low.is_ascii_hexdigit()) {
        out.splice(bare + 1..bare + 1, *b"25");
    }
}

fn must_encode(byte: u8) -> bool {
    !(0x21..=0x7e).contains(&byte) || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: PathNormalization = PathNormalization {
        normalize: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::UnescapeAndForward,
    };

    fn apply(options: PathNormalization, path: &str) -> String {
        match options.apply(path.as_bytes()) {
            Normalized::Unchanged => path.to_owned(),
            Normalized::Changed(path) => String::from_utf8(path).unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn decoding_makes_no_new_escapes() {
        for (path, expected) in [
            ("/a/%%32e%%32e/b", "/a/%252e%252e/b"),
            ("/%%%32e", "/%%252e"),
            ("/%4%31", "/%2541"),
            ("/%%34%31", "/%2541"),
            ("/%2%35%36", "/%25256"),
            ("/%%41", "/%A"),
            ("/%0%30", "/%2500"),
            ("/%2%65%2e", "/%252e."),
            ("/%%25%32%65", "/%%252e"),
            ("/%2%6A", "/%2j"),
        ] {
            assert_eq!(apply(FULL, path), expected, "{path}");
            assert_eq!(apply(FULL, expected), expected);
        }
    }

    #[test]
    fn dot_segments_slashes_and_escapes_are_resolved() {
        for (path, expected) in [
            ("/a/./b/../c", "/a/c"),
            ("/..", "/"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/%61%2e%2E/x", "/a../x"),
            ("/a%2fb?x=%2f//", "/a/b?x=%2f//"),
            ("/a%2F..%2Fb", "/b"),
            ("/a\\b", "/a/b"),
            ("/plain/path?q=..", "/plain/path?q=.."),
            ("/.hidden", "/.hidden"),
        ] {
            assert_eq!(apply(FULL, path), expected, "{path}");
        }
    }

    #[test]
    fn a_nul_is_rejected_and_escaped_slashes_may_be() {
        assert_eq!(FULL.apply(b"/a%00"), Normalized::Reject(b"/a%00".to_vec()));
        let reject = PathNormalization {
            escaped_slashes: EscapedSlashes::Reject,
            ..Default::default()
        };
        assert_eq!(
            reject.apply(b"/a%2fb"),
            Normalized::Reject(b"/a/b".to_vec())
        );
        let redirect = PathNormalization {
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            ..Default::default()
        };
        assert_eq!(
            redirect.apply(b"/a%5Cb?c"),
            Normalized::Redirect(b"/a\\b?c".to_vec())
        );
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(path in "/[a-c./\\\\%2fFeE5]{0,24}") {
            if let Normalized::Changed(once) = FULL.apply(path.as_bytes())
                && let Normalized::Changed(twice) = (PathNormalization { escaped_slashes: EscapedSlashes::Keep, ..FULL }).apply(&once)
            {
                proptest::prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
            }
        }
    }
}
