//! What one peer received: a request or a response, as it was on the wire.

use std::fmt::Write;

/// A header or trailer field, name and value as received.
pub type Field = (String, String);

/// How a message ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Its framing says that all of it came.
    Complete,
    /// The peer sent nothing more, but kept the connection.
    #[default]
    Open,
    /// The connection ended first, cleanly (`closed`) or not (`reset`); for HTTP/2 also the code of the reset.
    Broken(String),
}

/// A request or a response, as received.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line of HTTP/1, or `HTTP/2`.
    pub line: String,
    /// Status of a response; 0 for a request.
    pub status: u16,
    /// Fields in order of arrival; in HTTP/2 the pseudo headers come first.
    pub fields: Vec<Field>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailers in order of arrival.
    pub trailers: Vec<Field>,
    /// How the message ended.
    pub end: End,
}

impl Message {
    /// Every value of the field `name` (lower case), joined with a comma.
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

/// Bytes as text for people: printable ASCII and line ends as they are, the rest escaped.
pub fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' => out.push(char::from(byte)),
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            _ => write!(out, "\\x{byte:02x}").expect("a String takes all"),
        }
    }
    out
}

/// A body for people: text when it is short, else its length and a sum over its bytes.
pub fn body_text(bytes: &[u8]) -> String {
    if bytes.len() <= 300 {
        return text(bytes);
    }
    let sum = bytes.iter().fold(0xcbf2_9ce4_u32, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("({} bytes, sum {sum:08x})", bytes.len())
}
