//! Words, numbers, strings and symbols.

use std::fmt;

/// A word of the language.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// Also `in`, which is an operator.
    Symbol(&'static str),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "'{name}'"),
            Self::Int(_) | Self::Uint(_) | Self::Double(_) => f.write_str("a number"),
            Self::String(_) | Self::Bytes(_) => f.write_str("a string"),
            Self::Symbol(symbol) => write!(f, "'{symbol}'"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Longer ones first.
const SYMBOLS: &[&str] = &[
    "<=", ">=", "==", "!=", "&&", "||", "<", ">", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{",
    "}", "+", "-", "*", "/", "%",
];

/// Reads one token after the other.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    start: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            start: 0,
        }
    }

    /// Where the token that was read last begins.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn next(&mut self) -> Result<Token, String> {
        self.skip();
        self.start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if let Some(string) = self.string()? {
            return Ok(string);
        }
        let mut following = rest.bytes().skip(1);
        if first.is_ascii_digit()
            || first == '.' && following.next().is_some_and(|b| b.is_ascii_digit())
        {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            self.at += name.len();
            return Ok(match name {
                "in" => Token::Symbol("in"),
                name => Token::Name(name.to_owned()),
            });
        }
        let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
        match symbol {
            Some(symbol) => {
                self.at += symbol.len();
                Ok(Token::Symbol(symbol))
            }
            None => Err(format!("column {}: '{first}' is not known", self.start + 1)),
        }
    }

    /// White space and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn number(&mut self) -> Result<Token, String> {
        let rest = self.rest();
        let wrong = |text: &str| format!("{text} is not a number");
        let digits = |text: &str, more: fn(char) -> bool| {
            text.find(|c: char| !more(c)).unwrap_or(text.len())
        };
        let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
        let (len, value) = if let Some(hex) = hex {
            let len = digits(hex, |c| c.is_ascii_hexdigit());
            let text = hex.get(..len).unwrap_or_default();
            (2 + len, u64::from_str_radix(text, 16).ok())
        } else {
            let mut len = digits(rest, |c| c.is_ascii_digit());
            let mut is_double = false;
            let after = rest.get(len..).unwrap_or_default();
            if let Some(fraction) = after.strip_prefix('.') {
                let places = digits(fraction, |c| c.is_ascii_digit());
                if places > 0 {
                    is_double = true;
                    len += 1 + places;
                }
            }
            let after = rest.get(len..).unwrap_or_default();
            if let Some(exponent) = after.strip_prefix(['e', 'E']) {
                let sign = usize::from(exponent.starts_with(['+', '-']));
                let unsigned = exponent.get(sign..).unwrap_or_default();
                let places = digits(unsigned, |c| c.is_ascii_digit());
                if places > 0 {
                    is_double = true;
                    len += 1 + sign + places;
                }
            }
            let text = rest.get(..len).unwrap_or_default();
            if is_double {
                self.at += len;
                return text.parse().map(Token::Double).map_err(|_| wrong(text));
            }
            (len, text.parse().ok())
        };
        let text = rest.get(..len).unwrap_or_default();
        self.at += len;
        let value = value.ok_or_else(|| wrong(text))?;
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return Ok(Token::Uint(value));
        }
        Ok(Token::Int(value))
    }

    /// A string, if one begins here: with `r` and `b` before its quotes, and one or three of them.
    fn string(&mut self) -> Result<Option<Token>, String> {
        let rest = self.rest();
        let prefix = rest
            .find(|c: char| !matches!(c, 'r' | 'R' | 'b' | 'B'))
            .unwrap_or(rest.len());
        let (prefix, quoted) = rest.split_at(prefix);
        let raw = prefix.contains(['r', 'R']);
        let bytes = prefix.contains(['b', 'B']);
        if prefix.len() != usize::from(raw) + usize::from(bytes) || !quoted.starts_with(['"', '\''])
        {
            return Ok(None);
        }
        let one = quoted.get(..1).unwrap_or_default();
        let three = one.repeat(3);
        let quote = if quoted.starts_with(&three) {
            &three
        } else {
            one
        };
        let inner = quoted.get(quote.len()..).unwrap_or_default();
        let mut value = Vec::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            if inner.get(at..).is_some_and(|rest| rest.starts_with(quote)) {
                self.at += prefix.len() + 2 * quote.len() + at;
                return Ok(Some(if bytes {
                    Token::Bytes(value)
                } else {
                    let text = String::from_utf8(value);
                    Token::String(text.map_err(|_| "a string is not UTF-8".to_owned())?)
                }));
            }
            match c {
                '\n' | '\r' if quote.len() == 1 => break,
                '\\' if !raw => escape(&mut chars, bytes, &mut value)?,
                c => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(format!("column {}: a string has no end", self.start + 1))
    }
}

/// What stands after a backslash.
fn escape(
    chars: &mut std::str::CharIndices<'_>,
    bytes: bool,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let wrong = || "a string has an escape that nobody knows".to_owned();
    let (_, c) = chars.next().ok_or_else(wrong)?;
    let mut digits = |first: Option<char>, count: usize, radix: u32| {
        let rest = (0..count - usize::from(first.is_some())).map(|_| chars.next().map(|(_, c)| c));
        first.map(Some).into_iter().chain(rest).try_fold(0, |n, c| {
            let digit = c.and_then(|c| c.to_digit(radix)).ok_or_else(wrong)?;
            Ok::<u32, String>(n * radix + digit)
        })
    };
    let (code, is_byte) = match c {
        'a' => (7, false),
        'b' => (8, false),
        'f' => (12, false),
        'n' => (10, false),
        'r' => (13, false),
        't' => (9, false),
        'v' => (11, false),
        '\\' | '?' | '"' | '\'' | '`' => (u32::from(c), false),
        'x' | 'X' => (digits(None, 2, 16)?, true),
        'u' if !bytes => (digits(None, 4, 16)?, false),
        'U' if !bytes => (digits(None, 8, 16)?, false),
        '0'..='3' => (digits(Some(c), 3, 8)?, true),
        _ => return Err(wrong()),
    };
    if is_byte && bytes {
        out.push(u8::try_from(code).map_err(|_| wrong())?);
        return Ok(());
    }
    let c = char::from_u32(code).ok_or_else(wrong)?;
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(())
}
