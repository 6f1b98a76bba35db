//! The chunked transfer coding: a state machine over bytes, without a buffer of its own.

use super::lines::{HeadSearch, check_characters, fields};
use super::reject::Reject;
use crate::http::Fields;

/// The longest size line and the longest stray end of a chunk, in bytes. Envoy differs: it has no such limit.
const LONGEST_LINE: usize = 64 * 1024;

/// Where in a chunked body the reader stands.
#[derive(Debug, Clone, Copy)]
pub struct ChunkDecoder {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Within the digits of a size.
    Size { size: u64, digits: bool },
    /// Behind the digits; `cr`: the byte before was CR.
    Extension { size: u64, cr: bool, length: usize },
    /// Within data.
    Data { remaining: u64 },
    /// Behind data, up to the end of its line.
    DataEnd { length: usize },
    /// Behind the last chunk.
    Trailers(HeadSearch),
    /// At the end of the body.
    Done,
}

/// What stands at the reader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkStep {
    /// More bytes are needed.
    More,
    /// This many bytes of data come next; `last`: the body ends with them, and `then` bytes of framing follow.
    Data {
        /// Bytes of data.
        len: usize,
        /// Whether the body ends here.
        last: bool,
        /// Bytes to drop after the data.
        then: usize,
    },
    /// The body has ended.
    End,
    /// The trailers come next, this many bytes; the body ends with them.
    Trailers(usize),
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self {
            state: State::Size {
                size: 0,
                digits: false,
            },
        }
    }
}

impl ChunkDecoder {
    /// Reads on. Gives how many bytes of framing to drop, and what stands behind them. Data and trailers that are announced
    /// count as taken. `max_trailers`: bytes that trailers may have.
    pub fn next(
        &mut self,
        bytes: &[u8],
        max_trailers: usize,
    ) -> Result<(usize, ChunkStep), Reject> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match self.state {
                State::Data { remaining } => {
                    let (step, state) = take_data(rest, remaining);
                    self.state = state;
                    return Ok((at, step));
                }
                State::Trailers(mut search) => {
                    let end = search.find_end(rest);
                    self.state = State::Trailers(search);
                    let too_long = end.unwrap_or(rest.len()) > max_trailers;
                    return match end {
                        _ if too_long => Err(Reject::HeadersTooLarge),
                        None => Ok((at, ChunkStep::More)),
                        Some(end) => {
                            self.state = State::Done;
                            if end <= 2 && matches!(rest.first(), Some(b'\r' | b'\n')) {
                                Ok((at + end, ChunkStep::End))
                            } else {
                                Ok((at, ChunkStep::Trailers(end)))
                            }
                        }
                    };
                }
                State::Done => return Ok((at, ChunkStep::End)),
                State::Size { .. } | State::Extension { .. } | State::DataEnd { .. } => {
                    let Some(byte) = rest.first() else {
                        return Ok((at, ChunkStep::More));
                    };
                    at += usize::from(self.take_framing(*byte)?);
                }
            }
        }
    }

    /// One byte of framing; gives whether it was taken.
    fn take_framing(&mut self, byte: u8) -> Result<bool, Reject> {
        match &mut self.state {
            State::Size { size, digits } => {
                if let Some(digit) = char::from(byte).to_digit(16) {
                    *size = size.checked_mul(16).ok_or(Reject::CodecError)? + u64::from(digit);
                    *digits = true;
                    return Ok(true);
                }
                if !*digits || !matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b';') {
                    return Err(Reject::CodecError);
                }
                self.state = State::Extension {
                    size: *size,
                    cr: false,
                    length: 0,
                };
                Ok(false)
            }
            State::Extension { size, cr, length } => {
                if *cr != (byte == b'\n') || *length > LONGEST_LINE {
                    return Err(Reject::CodecError);
                }
                *cr = byte == b'\r';
                *length += 1;
                if byte == b'\n' {
                    self.state = match *size {
                        0 => State::Trailers(HeadSearch::without_first_line()),
                        remaining => State::Data { remaining },
                    };
                }
                Ok(true)
            }
            State::DataEnd { length } => {
                *length += 1;
                if *length > LONGEST_LINE {
                    return Err(Reject::CodecError);
                }
                if byte == b'\n' {
                    *self = Self::default();
                }
                Ok(true)
            }
            State::Data { .. } | State::Trailers(_) | State::Done => Ok(false),
        }
    }
}

fn take_data(rest: &[u8], remaining: u64) -> (ChunkStep, State) {
    const END: &[u8] = b"\r\n0\r\n\r\n";
    if rest.is_empty() {
        return (ChunkStep::More, State::Data { remaining });
    }
    let len = usize::try_from(remaining).map_or(rest.len(), |all| all.min(rest.len()));
    let data = |last: bool| ChunkStep::Data {
        len,
        last,
        then: if last { END.len() } else { 0 },
    };
    match remaining - len as u64 {
        0 if rest.get(len..).is_some_and(|after| after.starts_with(END)) => {
            (data(true), State::Done)
        }
        0 => (data(false), State::DataEnd { length: 0 }),
        remaining => (data(false), State::Data { remaining }),
    }
}

/// Reads trailers that [`ChunkStep::Trailers`] announced. Gives them with their size as Envoy counts it.
pub fn parse_trailers(lines: &[u8], max_count: usize) -> Result<(Fields, u64), Reject> {
    check_characters(lines)?;
    let mut trailers = Fields::new();
    let mut bytes = 0;
    fields(lines, |name, value| {
        bytes += name.len() as u64 + value.len() as u64 + 3;
        trailers.append_wire(name, value);
        if trailers.len() > max_count {
            return Err(Reject::TooManyHeaders);
        }
        Ok(())
    })?;
    Ok((trailers, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `wire` in pieces cut at `cuts`; gives the body, the trailers and what is left behind them.
    #[allow(clippy::type_complexity, reason = "a test's own result")]
    fn decode(
        wire: &[u8],
        cuts: &[usize],
    ) -> Result<Option<(Vec<u8>, Vec<(String, String)>, usize)>, Reject> {
        let mut decoder = ChunkDecoder::default();
        let (mut start, mut body) = (0, Vec::new());
        let ends = cuts.iter().copied().chain([wire.len()]);
        for end in ends {
            loop {
                let (skip, step) = decoder.next(&wire[start..end], 1000)?;
                start += skip;
                match step {
                    ChunkStep::More => break,
                    ChunkStep::Data { len, last, then } => {
                        body.extend_from_slice(&wire[start..start + len]);
                        start += len + then;
                        if last {
                            return Ok(Some((body, vec![], wire.len() - start)));
                        }
                    }
                    ChunkStep::End => return Ok(Some((body, vec![], wire.len() - start))),
                    ChunkStep::Trailers(len) => {
                        let (trailers, _) = parse_trailers(&wire[start..start + len], 100)?;
                        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                        let trailers = trailers.iter().map(|(n, v)| (text(n), text(v)));
                        let trailers = trailers.collect();
                        return Ok(Some((body, trailers, wire.len() - start - len)));
                    }
                }
            }
        }
        Ok(None)
    }

    const ACCEPTED: &[(&[u8], &[u8])] = &[
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3;a=b\r\nabc\r\n0;x\r\n\r\n", b"abc"),
        (b"3 junk\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\tjunk\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3;\xff\x01\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\n0\r\n\n", b"abc"),
        (b"3\r\nabcX\r\n0\r\n\r\n", b"abc"),
        (b"0000000000000000000003\r\nabc\r\n000\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", b"0123456789x"),
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\nFoo: bar\r\nb:  x \r\n\r\n", b"abc"),
    ];

    const REFUSED: &[&[u8]] = &[
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabc\r\n0\n\r\n",
        b"3\rabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b";a\r\nabc\r\n0\r\n\r\n",
        b"10000000000000000\r\nabc\r\n0\r\n\r\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"0\r\nFoo\r\n\r\n",
        b"0\r\nF o: x\r\n\r\n",
    ];

    #[test]
    fn chunks_are_taken_and_refused_as_envoy_does() {
        for (wire, body) in ACCEPTED {
            let (got, _, left) = decode(wire, &[]).unwrap().unwrap();
            assert_eq!((got.as_slice(), left), (*body, 0), "{wire:?}");
        }
        for wire in REFUSED {
            assert_eq!(decode(wire, &[]), Err(Reject::CodecError), "{wire:?}");
        }
    }

    #[test]
    fn trailers_come_in_lower_case_and_trimmed() {
        let (_, trailers, _) = decode(b"0\r\nFoo: bar\r\nb:  x \r\n\r\n", &[])
            .unwrap()
            .unwrap();
        let want = [("foo", "bar"), ("b", "x")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(trailers, want);
    }

    #[test]
    fn trailers_have_a_limit_while_they_come_in() {
        let mut wire = b"0\r\nFoo: ".to_vec();
        wire.resize(1100, b'x');
        assert_eq!(decode(&wire, &[]), Err(Reject::HeadersTooLarge));
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_answer(
            which in 0..ACCEPTED.len() + REFUSED.len(),
            mut cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let wire = ACCEPTED.get(which).map_or_else(|| REFUSED[which - ACCEPTED.len()], |a| a.0);
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(wire.len()));
            cuts.sort_unstable();
            prop_assert_eq!(decode(wire, &cuts), decode(wire, &[]));
        }

        #[test]
        fn no_input_makes_it_panic(wire in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let whole = decode(&wire, &[]);
            prop_assert_eq!(decode(&wire, &[cut.min(wire.len())]), whole);
        }
    }
}
