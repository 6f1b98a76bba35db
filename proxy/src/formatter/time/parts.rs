//! From the text of a format of points in time to its parts.

use super::civil::Civil;
use super::digits::{fraction, number, offset, significant};

#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Literal(Box<[u8]>),
    /// `%f` and `%1f` to `%9f`.
    Fraction(usize),
    /// `%E3S` or `%E*S`, and the same with `f`, which leaves the seconds out.
    ExactSeconds {
        digits: Option<usize>,
        seconds: bool,
    },
    /// `%Ez`: an offset with colons.
    ColonOffset,
    Field {
        pad: Pad,
        upper: bool,
        width: usize,
        conversion: u8,
    },
}

/// What stands in front of a short number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pad {
    Default,
    None,
    Space,
    Zero,
}

/// Whether some specifier stands for a line break, which a header value must not contain.
pub(super) fn prints_newline(format: &[u8]) -> bool {
    format.iter().enumerate().any(|(at, byte)| {
        let mut rest = &format[at..];
        let mut skip = |set: &[u8], most: usize| {
            let n = rest
                .iter()
                .take(most)
                .take_while(|b| set.contains(b))
                .count();
            rest = &rest[n..];
        };
        if *byte != b'%' {
            return false;
        }
        skip(b"%", 1);
        skip(b"-_0^#", usize::MAX);
        skip(b"123456789", usize::MAX);
        skip(b"EO", 1);
        rest.first() == Some(&b'n')
    })
}

pub(super) fn compile(format: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte == b'%').then(|| specifier(after)).flatten() {
            Some((part, used)) => {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(part);
                rest = &after[used..];
            }
            None => {
                literal.push(byte);
                rest = after;
            }
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    parts
}

/// Reads what follows a `%`: the part, and how many bytes it took. What is no specifier prints as it stands.
fn specifier(text: &[u8]) -> Option<(Part, usize)> {
    match text {
        [b'f', ..] => return Some((Part::Fraction(9), 1)),
        [digit @ b'1'..=b'9', b'f', ..] => {
            return Some((Part::Fraction(usize::from(digit - b'0')), 2));
        }
        [b'E', b'T', ..] => return Some((Part::Literal((*b"T").into()), 2)),
        [b'E', b'z', ..] => return Some((Part::ColonOffset, 2)),
        [b'E', b'*', kind @ (b'S' | b'f'), ..] => {
            let seconds = *kind == b'S';
            return Some((
                Part::ExactSeconds {
                    digits: None,
                    seconds,
                },
                3,
            ));
        }
        [b'E', digit @ b'0'..=b'9', kind @ (b'S' | b'f'), ..] => {
            let digits = Some(usize::from(digit - b'0'));
            let seconds = *kind == b'S';
            return Some((Part::ExactSeconds { digits, seconds }, 3));
        }
        [b'E', b'4', b'Y', ..] => {
            return Some((
                Part::Field {
                    pad: Pad::Zero,
                    upper: false,
                    width: 4,
                    conversion: b'Y',
                },
                3,
            ));
        }
        _ => {}
    }
    let (mut pad, mut upper, mut width, mut at) = (Pad::Default, false, 0usize, 0);
    while let Some(flag) = text.get(at) {
        match flag {
            b'-' => pad = Pad::None,
            b'_' => pad = Pad::Space,
            b'0' => pad = Pad::Zero,
            b'^' | b'#' => upper = true,
            _ => break,
        }
        at += 1;
    }
    while let Some(digit @ b'0'..=b'9') = text.get(at) {
        width = width * 10 + usize::from(digit - b'0');
        if width > 99 {
            return None;
        }
        at += 1;
    }
    if matches!(text.get(at), Some(b'E' | b'O')) {
        at += 1;
    }
    let conversion = *text.get(at)?;
    b"%aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ"
        .contains(&conversion)
        .then_some((
            Part::Field {
                pad,
                upper,
                width,
                conversion,
            },
            at + 1,
        ))
}

impl Part {
    pub(super) fn write(&self, civil: &Civil, out: &mut Vec<u8>) {
        match self {
            Self::Literal(bytes) => out.extend_from_slice(bytes),
            Self::Fraction(digits) => fraction(civil.nanosecond, *digits, out),
            Self::ExactSeconds { digits, seconds } => {
                if *seconds {
                    number(civil.second.into(), 2, b'0', out);
                }
                let digits = digits.unwrap_or_else(|| significant(civil.nanosecond));
                if digits > 0 {
                    if *seconds {
                        out.push(b'.');
                    }
                    fraction(civil.nanosecond, digits, out);
                }
            }
            Self::ColonOffset => offset(civil.offset, true, out),
            Self::Field {
                pad,
                upper,
                width,
                conversion,
            } => {
                let start = out.len();
                civil.write(*conversion, *pad, *width, out);
                if *upper {
                    out[start..].make_ascii_uppercase();
                }
            }
        }
    }
}
