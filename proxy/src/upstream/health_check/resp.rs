//! RESP, what Redis speaks: as much of it as a question and its answer need.
//!
//! Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>
//!
//! Version 3 of it is spoken to those who ask for it, which health checks do not.

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// `+PONG`.
    Simple(&'a [u8]),
    /// `-ERR unknown command`.
    Error(&'a [u8]),
    /// `:1000`.
    Integer(i64),
    /// A string of bytes or an array, which nobody has asked for.
    Other,
}

/// Nobody who speaks RESP sends this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The longest line, and the most elements of arrays in one answer.
const MOST: usize = 64 * 1024;

/// The bytes of a command.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The first answer of `bytes`; none: it has not come whole.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<Reply<'_>>, Malformed> {
    let mut rest = bytes;
    let mut first = None;
    // How many values are still to come.
    let mut left = 1;
    while left > 0 {
        let Some((line, behind)) = line(rest)? else {
            return Ok(None);
        };
        rest = behind;
        left -= 1;
        let (kind, text) = line.split_first().ok_or(Malformed)?;
        let value = match kind {
            b'+' => Reply::Simple(text),
            b'-' => Reply::Error(text),
            b':' => Reply::Integer(integer(text)?),
            b'$' => {
                // -1: there is none.
                if let Ok(length) = usize::try_from(integer(text)?) {
                    let Some(behind) = rest.get(length.saturating_add(2)..) else {
                        return Ok(None);
                    };
                    rest = behind;
                }
                Reply::Other
            }
            b'*' => {
                left += usize::try_from(integer(text)?).unwrap_or(0);
                Reply::Other
            }
            // A command in plain words, which an answer is not.
            kind if first.is_none() && is_of_words(*kind) => Reply::Other,
            _ => return Err(Malformed),
        };
        if left > MOST {
            return Err(Malformed);
        }
        first.get_or_insert(value);
    }
    Ok(first)
}

/// A line, and what is behind it.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>, Malformed> {
    let end = bytes.windows(2).take(MOST).position(|pair| pair == b"\r\n");
    match end.and_then(|end| bytes.split_at_checked(end)) {
        Some((line, behind)) => Ok(Some((line, behind.get(2..).unwrap_or_default()))),
        None if bytes.len() > MOST => Err(Malformed),
        // A wrong beginning is known before the end has come.
        None if bytes.first().is_some_and(|kind| !is_beginning(*kind)) => Err(Malformed),
        None => Ok(None),
    }
}

fn is_beginning(kind: u8) -> bool {
    is_of_words(kind) || b"+-:$*".contains(&kind)
}

fn is_of_words(kind: u8) -> bool {
    kind.is_ascii_alphanumeric() || b" \"'".contains(&kind)
}

fn integer(text: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let ping: &[&[u8]] = &[b"PING"];
        assert_eq!(command(ping), b"*1\r\n$4\r\nPING\r\n");
        let exists: &[&[u8]] = &[b"EXISTS", "ä".as_bytes()];
        assert_eq!(
            command(exists),
            "*2\r\n$6\r\nEXISTS\r\n$2\r\nä\r\n".as_bytes()
        );
    }

    #[test]
    fn answers_are_told_apart_by_their_first_byte() {
        assert_eq!(reply(b"+PONG\r\n"), Ok(Some(Reply::Simple(b"PONG"))));
        assert_eq!(reply(b"-ERR no\r\n"), Ok(Some(Reply::Error(b"ERR no"))));
        assert_eq!(reply(b":-7\r\n"), Ok(Some(Reply::Integer(-7))));
        assert_eq!(reply(b"$4\r\nPONG\r\n"), Ok(Some(Reply::Other)));
        assert_eq!(reply(b"$-1\r\n"), Ok(Some(Reply::Other)));
        assert_eq!(
            reply(b"HTTP/1.1 400 Bad Request\r\n"),
            Ok(Some(Reply::Other))
        );
        let array = b"*2\r\n*1\r\n:0\r\n$1\r\n\r\r\n";
        assert_eq!(reply(array), Ok(Some(Reply::Other)));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_waited_for() {
        let whole = b"*2\r\n*1\r\n+a\r\n$3\r\nabc\r\n";
        for end in 0..whole.len() {
            assert_eq!(reply(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(reply(whole), Ok(Some(Reply::Other)));
    }

    #[test]
    fn rubbish_is_not_waited_for() {
        let rubbish: [&[u8]; 5] = [b"!", b"\r\n", b":one\r\n", b"$x\r\n", b"*99999999\r\n"];
        for bytes in rubbish {
            assert_eq!(reply(bytes), Err(Malformed), "{bytes:?}");
        }
        let endless = [b"+".as_slice(), &[b'x'; MOST]].concat();
        assert_eq!(reply(&endless), Err(Malformed));
    }
}
