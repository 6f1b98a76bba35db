//! The query of a request, for filters that read or change single parameters.

use crate::http::RequestHead;

/// The parameters of a query in the order of their keys, each as it is written.
#[derive(Debug)]
pub(super) struct Query {
    /// The key without escapes, and key and value with them.
    parameters: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

impl Query {
    /// The parameters of a path.
    pub(super) fn of_path(path: &[u8]) -> Self {
        let query = path.get(query_start(path) + 1..).unwrap_or_default();
        let mut parameters: Vec<_> = query
            .split(|b| *b == b'&')
            .filter(|_| !query.is_empty())
            .map(|pair| {
                let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
                let value = pair.get(at + 1..).unwrap_or_default();
                (decode(&pair[..at]), pair[..at].to_vec(), value.to_vec())
            })
            .collect();
        // Parameters of one key keep their order.
        parameters.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        Self { parameters }
    }

    /// Whether there is a parameter with this key.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.parameters.iter().any(|(name, ..)| name == key)
    }

    /// The first value of a key, without escapes.
    pub(super) fn first(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.parameters.iter().find(|(name, ..)| name == key);
        found.map(|(_, _, value)| decode(value))
    }

    /// Removes all parameters with this key.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.parameters.retain(|(name, ..)| name != key);
    }

    /// Adds a parameter behind those with the same key.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let at = self
            .parameters
            .partition_point(|(name, ..)| name.as_slice() <= key);
        let parameter = (key.to_vec(), encode(key), encode(value));
        self.parameters.insert(at, parameter);
    }

    /// Puts one parameter, both parts as they are written, in the place of all whose key is written so.
    pub(super) fn set_written(&mut self, key: &[u8], value: &[u8]) {
        self.remove_written(key);
        let plain = decode(key);
        let at = self.parameters.partition_point(|(name, ..)| *name <= plain);
        self.parameters
            .insert(at, (plain, key.to_vec(), value.to_vec()));
    }

    /// Removes all parameters whose key is written so.
    pub(super) fn remove_written(&mut self, key: &[u8]) {
        self.parameters.retain(|(_, written, _)| written != key);
    }

    /// The path with these parameters in place of its own; without a question mark when there are none.
    pub(super) fn in_path(&self, path: &[u8]) -> Vec<u8> {
        let mut out = path[..query_start(path)].to_vec();
        for (index, (_, key, value)) in self.parameters.iter().enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(key);
            out.push(b'=');
            out.extend_from_slice(value);
        }
        out
    }
}

/// Removes a parameter from the path of a request.
pub(super) fn remove_parameter(head: &mut RequestHead, key: &[u8]) {
    let Some(path) = head.path() else {
        return;
    };
    let mut query = Query::of_path(path);
    query.remove(key);
    let path = query.in_path(path);
    head.set_path(&path);
}

fn query_start(path: &[u8]) -> usize {
    path.iter().position(|b| *b == b'?').unwrap_or(path.len())
}

fn decode(text: &[u8]) -> Vec<u8> {
    let hex = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escape = match after {
            [high, low, ..] if byte == b'%' => hex(high).zip(hex(low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &after[2..];
            }
            None => out.push(byte),
        }
    }
    out
}

fn encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_read_without_escapes_and_removed_by_its_plain_name() {
        let query = Query::of_path(b"/p?b=2&a%20b=x%2Fy&b=3");
        assert_eq!(query.first(b"a b").as_deref(), Some(&b"x/y"[..]));
        assert_eq!(query.first(b"b").as_deref(), Some(&b"2"[..]));
        assert_eq!(query.first(b"c"), None);
        let mut query = query;
        query.remove(b"b");
        assert_eq!(query.in_path(b"/p?b=2"), b"/p?a%20b=x%2Fy");
        query.remove(b"a b");
        assert_eq!(query.in_path(b"/p?b=2"), b"/p");
    }
}
