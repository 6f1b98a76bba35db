//! The names that one case has inside the bootstrap of its theme, and the way back from them.

use std::path::{Path, PathBuf};

const SHORT: [(&str, &str); 4] = [
    (
        "@http/",
        "type.googleapis.com/envoy.extensions.filters.http.",
    ),
    (
        "@net/",
        "type.googleapis.com/envoy.extensions.filters.network.",
    ),
    (
        "@listen/",
        "type.googleapis.com/envoy.extensions.filters.listener.",
    ),
    ("@up/", "type.googleapis.com/envoy.extensions.upstreams."),
];

/// The names of a case on one side.
#[derive(Clone, Debug)]
pub struct Names {
    /// The listener.
    pub listener: String,
    /// The stat prefix.
    pub stat: String,
    /// Backends: word, cluster, port. Longer words come first.
    backends: Vec<(String, String, u16)>,
}

impl Names {
    /// The names of the case with this number.
    pub fn new(number: usize, backends: impl Iterator<Item = (&'static str, u16)>) -> Self {
        let mut backends: Vec<_> = backends
            .map(|(name, port)| (name.to_owned(), format!("{name}_{number:03}"), port))
            .collect();
        backends.sort_by_key(|(name, ..)| std::cmp::Reverse(name.len()));
        Self {
            listener: format!("listener_{number:03}"),
            stat: format!("stat_{number:03}"),
            backends,
        }
    }

    /// The access log below `folder`.
    pub fn log(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.log", self.listener))
    }

    /// Puts the names in place of their words.
    pub fn fill(&self, text: &str, folder: &Path) -> String {
        let mut text = text.to_owned();
        for (short, long) in SHORT {
            text = text.replace(short, long);
        }
        for (word, _, port) in &self.backends {
            text = text.replace(&format!("@port:{word}"), &port.to_string());
            for (packed, of) in packed_addresses(*port) {
                text = text.replace(&format!("@{of}({word})"), &packed);
            }
        }
        for (word, cluster, _) in &self.backends {
            text = text.replace(&format!("@{word}"), cluster);
        }
        text = fill_say(&text);
        text.replace("@listener", &self.listener)
            .replace("@stat", &self.stat)
            .replace("@log", &self.log(folder).display().to_string())
    }

    /// Puts the words back in place of the names, and placeholders in place of what differs from run to run.
    pub fn strip(&self, text: &str, listener_port: u16) -> String {
        // First of all, for digits in the middle of one may be those of a port.
        let mut text = strip_uuids(text);
        for (word, cluster, port) in &self.backends {
            text = text.replace(cluster.as_str(), &format!("@{word}"));
            for (packed, of) in packed_addresses(*port) {
                text = text.replace(&packed, &format!("@{of}({word})"));
            }
            text = strip_port(&text, *port, &format!("@port:{word}"));
        }
        text = strip_port(&text, listener_port, "@port");
        text = text
            .replace(&self.listener, "@listener")
            .replace(&self.stat, "@stat");
        strip_ports(&text)
    }
}

/// The address of a backend as sessions write it, and the words for it: `@base64(NAME)` in headers, `@session(NAME)` in cookies.
fn packed_addresses(port: u16) -> [(String, &'static str); 2] {
    let address = format!("127.0.0.1:{port}");
    let length = u8::try_from(address.len()).expect("an address is short");
    let message = [&[0x0a, length], address.as_bytes()].concat();
    [
        (base64(&message), "session"),
        (base64(address.as_bytes()), "base64"),
    ]
}

/// Base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | usize::from(piece.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            out.push(if at > piece.len() { '=' } else { digit });
        }
    }
    out
}

/// `@say(WORD)` is a direct response with this body, by which a case tells which route was taken.
fn fill_say(text: &str) -> String {
    let mut parts = text.split("@say(");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (word, rest) = part.split_once(')').unwrap_or((part, ""));
        out.push_str("direct_response: { status: 200, body: { inline_string: \"");
        out.push_str(word);
        out.push_str("\" } }");
        out.push_str(rest);
    }
    out
}

/// Puts a word in place of a port that stands alone.
fn strip_port(text: &str, port: u16, word: &str) -> String {
    let port = port.to_string();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&port) {
        let (before, after) = (&rest[..at], &rest[at + port.len()..]);
        let alone = !digit(before.chars().last()) && !digit(after.chars().next());
        out.push_str(before);
        out.push_str(if alone { word } else { &port });
        rest = after;
    }
    out + rest
}

/// Any other port after the loopback address is an ephemeral one.
fn strip_ports(text: &str) -> String {
    let address = "127.0.0.1:";
    let mut parts = text.split(address);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(address);
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() < part.len() {
            out.push_str("(port)");
        }
        out.push_str(rest);
    }
    out
}

/// Anything that looks like a random UUID is one.
fn strip_uuids(text: &str) -> String {
    let shape = |candidate: &[u8]| {
        candidate
            .iter()
            .enumerate()
            .all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    let mut out = text.to_owned();
    let mut from = 0;
    while let Some(found) = out.as_bytes()[from..].windows(36).position(shape) {
        let start = from + found;
        out.replace_range(start..start + 36, "(uuid)");
        from = start + 6;
    }
    out
}
