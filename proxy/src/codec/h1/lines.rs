//! The lines of a head: where it ends, its first line, its fields. Pure functions over bytes, lenient as Envoy's parser is.

use super::reject::Reject;

/// How far the search for the end of a head has come, so that a head in many pieces is looked at once.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct HeadSearch {
    scanned: usize,
    line: usize,
    first_line: usize,
}

impl HeadSearch {
    /// Looks on; gives the length of the head, the empty line included, once it is all there.
    pub(crate) fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(at) = memchr::memchr(b'\n', bytes.get(self.scanned..)?) {
            let newline = self.scanned + at;
            let line = bytes.get(self.line..newline)?;
            self.scanned = newline + 1;
            self.line = newline + 1;
            if self.first_line == 0 {
                self.first_line = newline + 1;
            } else if matches!(line, b"" | b"\r") {
                return Some(newline + 1);
            }
        }
        self.scanned = bytes.len();
        None
    }

    /// A search over lines that have no first line before them: trailers.
    pub(crate) fn without_first_line() -> Self {
        Self {
            scanned: 0,
            line: 0,
            first_line: usize::MAX,
        }
    }

    /// Whether nothing was looked at yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.scanned == 0
    }

    /// The length of the first line with its end, once it is there.
    pub(crate) fn first_line(&self) -> Option<usize> {
        (self.first_line > 0).then_some(self.first_line)
    }
}

/// Refuses control characters, but not tab, CR and LF.
pub(crate) fn check_characters(head: &[u8]) -> Result<(), Reject> {
    let bad = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\r' | b'\n')) || *b == 0x7f;
    if head.iter().any(bad) {
        Err(Reject::InvalidCharacters)
    } else {
        Ok(())
    }
}

/// The three parts of a first line; what separates them is any run of bytes up to the space.
pub(crate) fn first_line_parts(line: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let island = |rest: &'_ [u8]| rest.iter().position(|b| *b <= b' ').unwrap_or(rest.len());
    let line = line.trim_ascii_end_controls();
    let (first, rest) = line.split_at(island(line));
    let rest = rest.trim_start_controls();
    let (second, rest) = rest.split_at(island(rest));
    (first, second, rest.trim_start_controls())
}

/// Calls `each` with name and value of every field in `lines` (the head after its first line, or trailers), values trimmed.
/// A value that is folded over several lines, or has CR within, loses these characters, as in Envoy.
pub(crate) fn fields(
    lines: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Reject>,
) -> Result<(), Reject> {
    let mut rest = lines;
    let mut joined = Vec::new();
    while let Some(mut end) = memchr::memchr(b'\n', rest) {
        if matches!(rest.get(..end), Some(b"" | b"\r")) {
            return Ok(());
        }
        // Lines that begin with white space belong to the value of this one.
        while let Some(next @ 0..=b' ') = rest.get(end + 1) {
            let following = rest.get(end + 1..).unwrap_or_default();
            let Some(length) = memchr::memchr(b'\n', following) else {
                return Err(Reject::CodecError);
            };
            if matches!(following.get(..length), Some(b"" | b"\r")) {
                break;
            }
            if !matches!(next, b' ' | b'\t') {
                return Err(Reject::CodecError);
            }
            end += 1 + length;
        }
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let colon = memchr::memchr(b':', line).ok_or(Reject::CodecError)?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(Reject::CodecError);
        }
        let value = value
            .get(1..)
            .unwrap_or_default()
            .trim_start_controls()
            .trim_ascii_end_controls();
        if memchr::memchr2(b'\r', b'\n', value).is_none() {
            each(name, value)?;
        } else {
            // Envoy differs: it reads such a coding with the CR and passes it on without.
            if name.eq_ignore_ascii_case(b"transfer-encoding") && has_bare_cr(value) {
                return Err(Reject::InvalidTransferEncoding);
            }
            joined.clear();
            joined.extend(value.iter().filter(|b| !matches!(b, b'\r' | b'\n')));
            each(name, joined.trim_start_controls().trim_ascii_end_controls())?;
        }
    }
    Ok(())
}

/// Whether a CR stands in a value that does not belong to the end of a folded line.
fn has_bare_cr(value: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', value).any(|at| value.get(at + 1) != Some(&b'\n'))
}

/// Whether a byte may stand in a method or a header name.
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether a byte may stand in the host of a URL or in an authority.
pub(crate) fn is_authority_byte(byte: u8) -> bool {
    AUTHORITY[usize::from(byte)]
}

trait Controls {
    fn trim_start_controls(&self) -> &Self;
    fn trim_ascii_end_controls(&self) -> &Self;
}

impl Controls for [u8] {
    fn trim_start_controls(&self) -> &Self {
        let start = self.iter().position(|b| *b > b' ').unwrap_or(self.len());
        self.get(start..).unwrap_or_default()
    }

    fn trim_ascii_end_controls(&self) -> &Self {
        let end = self.iter().rposition(|b| *b > b' ').map_or(0, |at| at + 1);
        self.get(..end).unwrap_or_default()
    }
}

const TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");
const AUTHORITY: [bool; 256] = table(b"!$%&'()*+,-.:;=@[]_~");

const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &[u8]) -> Result<Vec<(String, String)>, Reject> {
        let mut out = Vec::new();
        fields(lines, |name, value| {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            out.push((text(name), text(value)));
            Ok(())
        })
        .map(|()| out)
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        for head in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut bytes = head.to_vec();
            bytes.extend_from_slice(b"\r\n\r\nmore");
            let mut search = HeadSearch::default();
            let found = (0..=bytes.len()).find_map(|n| search.find_end(&bytes[..n]));
            assert_eq!(found, Some(head.len()), "{head:?}");
            assert_eq!(HeadSearch::default().find_end(&bytes), Some(head.len()));
        }
    }

    #[test]
    fn first_lines_are_split_at_any_white_space() {
        let parts = |l: &'static [u8]| first_line_parts(l);
        let want = (&b"GET"[..], &b"/x"[..], &b"HTTP/1.1"[..]);
        assert_eq!(parts(b"GET /x HTTP/1.1\r\n"), want);
        assert_eq!(parts(b"GET  /x\t HTTP/1.1 \r\n"), want);
        assert_eq!(parts(b"GET /x\r HTTP/1.1\n"), want);
        assert_eq!(parts(b"GET /x\n"), (&b"GET"[..], &b"/x"[..], &b""[..]));
        assert_eq!(parts(b"GET\r\n"), (&b"GET"[..], &b""[..], &b""[..]));
    }

    #[test]
    fn values_are_trimmed_and_unfolded() {
        for (line, value) in [
            (&b"foo: \t v\tw \t \r\n\r\n"[..], "v\tw"),
            (b"foo:v\r\n\r\n", "v"),
            (b"foo:\r\n\r\n", ""),
            (b"foo: a\r\n b\r\n\r\n", "a b"),
            (b"foo: a\r\n  \r\n\r\n", "a"),
            (b"foo: a\r\n  b  \r\n c: d\r\n\r\n", "a  b   c: d"),
            (b"foo:\r\n  b\r\n\r\n", "b"),
            (b"foo: v\rw\r\n\r\n", "vw"),
            (b"foo: v\r\r\n\r\n", "v"),
            (b"foo: v\n\n", "v"),
        ] {
            assert_eq!(
                all(line),
                Ok(vec![("foo".to_owned(), value.to_owned())]),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_transfer_coding_with_a_bare_cr_is_refused() {
        let bare = all(b"transfer-encoding: chun\rked\r\n\r\n");
        assert_eq!(bare, Err(Reject::InvalidTransferEncoding));
        assert!(all(b"transfer-encoding:\r\n chunked\r\n\r\n").is_ok());
    }

    #[test]
    fn lines_that_are_no_fields_are_refused() {
        for line in [
            &b"foo\r\n\r\n"[..],
            b": v\r\n\r\n",
            b":path: v\r\n\r\n",
            b"foo : v\r\n\r\n",
            b"f\"o: v\r\n\r\n",
            b"f(o: v\r\n\r\n",
            b"f\xc3o: v\r\n\r\n",
            b" foo: v\r\n\r\n",
            b"foo: v\r\n\rbar: x\r\n\r\n",
            b"foo: v\r\n\r\r\n\r\n",
        ] {
            assert_eq!(all(line), Err(Reject::CodecError), "{line:?}");
        }
    }
}
