//! The static and the dynamic table.

use std::collections::VecDeque;
use std::sync::OnceLock;

use super::decode::NameClass;
use crate::http::Known;

/// The static table of RFC 7541, appendix A. Its numbers begin with one.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What each entry costs beyond its bytes.
const OVERHEAD: usize = 32;

/// A field of a table.
pub(super) struct Entry {
    text: Box<[u8]>,
    name_len: usize,
    pub(super) class: NameClass,
}

impl Entry {
    pub(super) fn name(&self) -> &[u8] {
        self.text.get(..self.name_len).unwrap_or_default()
    }

    pub(super) fn value(&self) -> &[u8] {
        self.text.get(self.name_len..).unwrap_or_default()
    }
}

/// What the names of the static table are.
pub(super) fn static_classes() -> &'static [NameClass; 61] {
    static CLASSES: OnceLock<[NameClass; 61]> = OnceLock::new();
    CLASSES.get_or_init(|| STATIC.map(|(name, _)| NameClass::of(name.as_bytes())))
}

/// For each name of the static table its first number, by the known name or by its text.
pub(super) fn static_name(known: Option<Known>, name: &[u8]) -> Option<usize> {
    static BY_KNOWN: OnceLock<[u8; Known::COUNT]> = OnceLock::new();
    if let Some(known) = known {
        let table = BY_KNOWN.get_or_init(|| {
            let mut table = [0; Known::COUNT];
            for (place, (name, _)) in STATIC.iter().enumerate().rev() {
                if let Some(known) = Known::find(name.as_bytes()) {
                    table[known as usize] = u8::try_from(place + 1).unwrap_or(0);
                }
            }
            table
        });
        return Some(usize::from(table[known as usize])).filter(|number| *number != 0);
    }
    // Those that are no known names.
    Some(match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        b"accept-charset" => 15,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"age" => 21,
        b"allow" => 22,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-location" => 29,
        b"content-range" => 30,
        b"etag" => 34,
        b"expires" => 36,
        b"from" => 37,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"strict-transport-security" => 56,
        b"vary" => 59,
        b"www-authenticate" => 61,
        _ => return None,
    })
}

/// The dynamic table. Number 0 here is the newest entry, number 62 on the wire.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max,
        }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<&Entry> {
        self.entries.get(number)
    }

    /// Sets the largest size, and evicts what is above it.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// Adds an entry, and evicts the oldest ones for it; one that is too large empties the table. Says whether it is in.
    pub(super) fn insert(&mut self, name: &[u8], class: NameClass, value: &[u8]) -> bool {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(size);
        if size > self.max {
            return false;
        }
        let mut text = Vec::with_capacity(name.len() + value.len());
        text.extend_from_slice(name);
        text.extend_from_slice(value);
        self.size += size;
        self.entries.push_front(Entry {
            text: text.into_boxed_slice(),
            name_len: name.len(),
            class,
        });
        true
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.text.len() + OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_static_table_is_found_at_its_first_place() {
        for (name, _) in STATIC {
            let first = STATIC.iter().position(|(other, _)| *other == name).unwrap() + 1;
            let known = Known::find(name.as_bytes());
            assert_eq!(static_name(known, name.as_bytes()), Some(first), "{name}");
        }
        assert_eq!(static_name(None, b"x-a"), None);
        assert_eq!(static_name(Some(Known::RequestId), b"x-request-id"), None);
    }
}
