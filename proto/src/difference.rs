//! Where two encoded messages of one type differ, without a look into what they have in common.

use crate::fields::{Values, collect, joined};
use crate::json::{JsonError, Style, encoded_to_json};
use crate::schema::{Field, Kind, Message};
use crate::wire::{
    Malformed, WireField, WireReader, WireValue, put_bytes_field, put_fixed32_field,
    put_fixed64_field, put_varint_field,
};

/// A message in two messages that is not the same in both.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path, such as `endpoints[0].lb_endpoints[7]`; empty for the message that was asked about.
    pub path: String,
    /// JSON with those of its fields that differ; none: only the new message has it.
    pub old: Option<String>,
    /// The same of the new message.
    pub new: Option<String>,
}

/// A field that is not the same in two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The number of the field.
    pub number: u32,
    /// How many fields of this number are before it.
    pub place: usize,
    /// What it holds in the old message.
    pub old: &'a [u8],
    /// What it holds in the new message.
    pub new: &'a [u8],
}

/// The fields in which two messages differ, where they have the same fields in the same order, and those that differ hold texts,
/// bytes or messages. None: they differ otherwise, or are no messages.
pub fn in_step<'a>(old: &'a [u8], new: &'a [u8]) -> Option<Vec<Pair<'a>>> {
    let (mut old, mut new) = (WireReader::new(old), WireReader::new(new));
    let mut places: Vec<(u32, usize)> = Vec::new();
    let mut pairs = Vec::new();
    loop {
        let (old, new) = match (old.next(), new.next()) {
            (None, None) => return Some(pairs),
            (Some(Ok(old)), Some(Ok(new))) if old.number == new.number => (old, new),
            _ => return None,
        };
        let number = new.number;
        let known = places.iter().position(|(known, _)| *known == number);
        let known = known.unwrap_or_else(|| {
            places.push((number, 0));
            places.len() - 1
        });
        let place = places[known].1;
        places[known].1 += 1;
        if old.value == new.value {
            continue;
        }
        let (WireValue::Bytes(old), WireValue::Bytes(new)) = (old.value, new.value) else {
            return None;
        };
        pairs.push(Pair {
            number,
            place,
            old,
            new,
        });
    }
}

/// A message without the field `number`, and the whole number that it held: 0 where there is none. None: the field holds something
/// else, or the bytes are no message.
pub fn without_number(message: &[u8], number: u32) -> Option<(Vec<u8>, u64)> {
    let mut reader = WireReader::new(message);
    let (mut others, mut found) = (Vec::with_capacity(message.len()), 0);
    loop {
        let before = reader.rest();
        match reader.next() {
            None => return Some((others, found)),
            Some(Ok(WireField {
                number: this,
                value,
            })) if this == number => match value {
                WireValue::Varint(value) => found = value,
                _ => return None,
            },
            Some(Ok(_)) => {
                others.extend_from_slice(&before[..before.len() - reader.rest().len()]);
            }
            Some(Err(Malformed)) => return None,
        }
    }
}

/// Nothing is nested deeper.
const MAX_DEPTH: u32 = 100;

/// The innermost messages in which two messages of the type `full_name` differ, the first `most` of them. Elements of lists are
/// compared by their place.
///
/// # Errors
/// The type is not known, or the bytes are not of that type.
pub fn differences(
    full_name: &str,
    old: &[u8],
    new: &[u8],
    style: Style,
    most: usize,
) -> Result<Vec<Difference>, JsonError> {
    let message =
        Message::by_name(full_name).ok_or_else(|| JsonError::UnknownType(full_name.to_owned()))?;
    let mut walk = Walk {
        style,
        most,
        depth: 0,
        found: Vec::new(),
    };
    walk.message(message, "", old, new)?;
    Ok(walk.found)
}

struct Walk {
    style: Style,
    most: usize,
    depth: u32,
    found: Vec<Difference>,
}

impl Walk {
    fn message(
        &mut self,
        message: Message,
        path: &str,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), JsonError> {
        let broken = |Malformed| JsonError::Malformed(message.full_name().to_owned());
        if self.depth == MAX_DEPTH {
            return Err(broken(Malformed));
        }
        self.depth += 1;
        let done = self.in_step(message, path, old, new)?;
        if !done {
            self.field_by_field(message, path, old, new)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Long lists of which little has changed are not taken apart. False: nothing was done.
    fn in_step(
        &mut self,
        message: Message,
        path: &str,
        old: &[u8],
        new: &[u8],
    ) -> Result<bool, JsonError> {
        let Some(pairs) = in_step(old, new) else {
            return Ok(false);
        };
        let walked = |pair: &Pair<'_>| {
            let field = message.field_by_number(pair.number)?;
            Some((field, self.is_walked(field)?))
        };
        let fields: Option<Vec<(Field, Message)>> = pairs.iter().map(walked).collect();
        let Some(fields) = fields else {
            return Ok(false);
        };
        for (pair, (field, inner)) in pairs.iter().zip(fields) {
            if self.found.len() >= self.most {
                break;
            }
            let mut path = below(path, field);
            if field.is_repeated() {
                path = format!("{path}[{}]", pair.place);
            }
            self.message(inner, &path, pair.old, pair.new)?;
        }
        Ok(true)
    }

    fn field_by_field(
        &mut self,
        message: Message,
        path: &str,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), JsonError> {
        let broken = |Malformed| JsonError::Malformed(message.full_name().to_owned());
        let (old, new) = (
            collect(message, old).map_err(broken)?,
            collect(message, new).map_err(broken)?,
        );
        let (mut old_rest, mut new_rest) = (Vec::new(), Vec::new());
        for (field, old, new) in pairs(&old, &new) {
            if old == new || self.found.len() >= self.most {
                continue;
            }
            match self.is_walked(field) {
                Some(inner) if field.is_repeated() => {
                    let path = below(path, field);
                    self.list(inner, &path, old, new)
                        .map_err(|error| match error {
                            Stop::Malformed(malformed) => broken(malformed),
                            Stop::Json(error) => error,
                        })?;
                }
                Some(inner) if !old.is_empty() && !new.is_empty() => {
                    let (old, new) = (joined(old).map_err(broken)?, joined(new).map_err(broken)?);
                    self.message(inner, &below(path, field), &old, &new)?;
                }
                _ => {
                    put(&mut old_rest, field, old);
                    put(&mut new_rest, field, new);
                }
            }
        }
        if !(old_rest.is_empty() && new_rest.is_empty()) {
            let (old, new) = (
                self.json(message, &old_rest)?,
                self.json(message, &new_rest)?,
            );
            self.push(path.to_owned(), Some(old), Some(new));
        }
        Ok(())
    }

    fn list(
        &mut self,
        inner: Message,
        path: &str,
        old: &[WireValue<'_>],
        new: &[WireValue<'_>],
    ) -> Result<(), Stop> {
        for place in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(place), new.get(place));
            if old == new {
                continue;
            }
            if self.found.len() >= self.most {
                return Ok(());
            }
            let path = format!("{path}[{place}]");
            match (bytes(old)?, bytes(new)?) {
                (Some(old), Some(new)) => self.message(inner, &path, old, new)?,
                (old, new) => {
                    let json =
                        |side: Option<&[u8]>| side.map(|bytes| self.json(inner, bytes)).transpose();
                    let (old, new) = (json(old)?, json(new)?);
                    self.push(path, old, new);
                }
            }
        }
        Ok(())
    }

    /// The type of a field whose messages are compared field by field. Others are compared as JSON has them, and what is
    /// private does not show there.
    fn is_walked(&self, field: Field) -> Option<Message> {
        match field.kind() {
            Kind::Message(inner)
                if inner.well_known().is_none()
                    && field.map_entry().is_none()
                    && !(self.style.redact && field.is_sensitive()) =>
            {
                Some(inner)
            }
            _ => None,
        }
    }

    fn json(&self, message: Message, bytes: &[u8]) -> Result<String, JsonError> {
        encoded_to_json(message.full_name(), bytes, self.style)
    }

    fn push(&mut self, path: String, old: Option<String>, new: Option<String>) {
        self.found.push(Difference { path, old, new });
    }
}

/// Why a list cannot be compared.
enum Stop {
    Malformed(Malformed),
    Json(JsonError),
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<JsonError> for Stop {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

fn below(path: &str, field: Field) -> String {
    match path.is_empty() {
        true => field.name().to_owned(),
        false => format!("{path}.{}", field.name()),
    }
}

fn bytes<'a>(value: Option<&WireValue<'a>>) -> Result<Option<&'a [u8]>, Malformed> {
    match value {
        None => Ok(None),
        Some(WireValue::Bytes(bytes)) => Ok(Some(bytes)),
        Some(_) => Err(Malformed),
    }
}

/// The values of each field that one of two messages has, by number.
fn pairs<'v, 'a>(
    old: &'v [Values<'a>],
    new: &'v [Values<'a>],
) -> Vec<(Field, &'v [WireValue<'a>], &'v [WireValue<'a>])> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut out = Vec::new();
    loop {
        let number = |side: Option<&&'v Values<'a>>| side.map(|values| values.field.number());
        let first = match (number(old.peek()), number(new.peek())) {
            (None, None) => return out,
            (Some(old), Some(new)) => old.min(new),
            (Some(one), None) | (None, Some(one)) => one,
        };
        let is_first = |values: &&'v Values<'a>| values.field.number() == first;
        let (of_old, of_new) = (old.next_if(is_first), new.next_if(is_first));
        if let Some(either) = of_old.or(of_new) {
            let values = |side: Option<&'v Values<'a>>| side.map_or(&[][..], |side| &side.values);
            out.push((either.field, values(of_old), values(of_new)));
        }
    }
}

fn put(out: &mut Vec<u8>, field: Field, values: &[WireValue<'_>]) {
    let number = field.number();
    for value in values {
        match *value {
            WireValue::Varint(value) => put_varint_field(out, number, value),
            WireValue::Fixed64(value) => put_fixed64_field(out, number, value),
            WireValue::Fixed32(value) => put_fixed32_field(out, number, value),
            WireValue::Bytes(bytes) => put_bytes_field(out, number, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
    };
    use prost::Message as _;

    use super::*;

    const STYLE: Style = Style {
        pretty: false,
        redact: true,
    };

    fn assignment(hostnames: &[&str]) -> Vec<u8> {
        let endpoint = |name: &&str| LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                hostname: (*name).to_owned(),
                ..Endpoint::default()
            })),
            health_status: 1,
            ..LbEndpoint::default()
        };
        let assignment = ClusterLoadAssignment {
            cluster_name: "c".to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: hostnames.iter().map(endpoint).collect(),
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        };
        assignment.encode_to_vec()
    }

    fn found(old: &[u8], new: &[u8], most: usize) -> Vec<Difference> {
        let name = "envoy.config.endpoint.v3.ClusterLoadAssignment";
        differences(name, old, new, STYLE, most).unwrap()
    }

    fn difference(path: &str, old: Option<&str>, new: Option<&str>) -> Difference {
        Difference {
            path: path.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_differs_is_told_with_the_path_to_it() {
        let (old, new) = (assignment(&["a", "b", "c"]), assignment(&["a", "x", "c"]));
        let place = "endpoints[0].lb_endpoints[1].endpoint";
        let (before, after) = (r#"{"hostname":"b"}"#, r#"{"hostname":"x"}"#);
        assert_eq!(
            found(&old, &new, 9),
            [difference(place, Some(before), Some(after))]
        );
        assert_eq!(found(&old, &old, 9), []);
    }

    #[test]
    fn elements_that_only_one_side_has_are_told_whole() {
        let (old, new) = (assignment(&["a"]), assignment(&["a", "b"]));
        let place = "endpoints[0].lb_endpoints[1]";
        let json = r#"{"endpoint":{"hostname":"b"},"health_status":"HEALTHY"}"#;
        assert_eq!(found(&old, &new, 9), [difference(place, None, Some(json))]);
        assert_eq!(found(&new, &old, 9), [difference(place, Some(json), None)]);
    }

    #[test]
    fn a_limit_ends_the_list() {
        let (old, new) = (assignment(&["a", "b", "c"]), assignment(&["x", "y", "z"]));
        assert_eq!(found(&old, &new, 2).len(), 2);
    }

    #[test]
    fn messages_of_the_same_form_are_compared_in_step() {
        let (old, new) = (assignment(&["a", "b"]), assignment(&["a", "x"]));
        let localities = in_step(&old, &new).unwrap();
        assert_eq!((localities.len(), localities[0].number), (1, 2));
        let endpoints = in_step(localities[0].old, localities[0].new).unwrap();
        assert_eq!((endpoints.len(), endpoints[0].place), (1, 1));
        let longer = assignment(&["a", "b", "c"]);
        let localities = in_step(&old, &longer).unwrap();
        assert_eq!(in_step(localities[0].old, localities[0].new), None);
        assert_eq!(in_step(b"\x08\x01", b"\x08\x02"), None);
        assert_eq!(in_step(b"\x0a", b"\x0a"), None);
    }

    #[test]
    fn a_number_is_told_apart_from_the_rest() {
        assert_eq!(
            without_number(b"\x0a\x01a\x10\x03\x20\x05", 2),
            Some((b"\x0a\x01a\x20\x05".to_vec(), 3))
        );
        assert_eq!(
            without_number(b"\x20\x05", 2),
            Some((b"\x20\x05".to_vec(), 0))
        );
        assert_eq!(without_number(b"\x12\x01a", 2), None);
        assert_eq!(without_number(b"\x0a\x05a", 2), None);
    }

    #[test]
    fn fields_of_the_outermost_message_have_no_path() {
        let cluster = |name: &str| Cluster {
            alt_stat_name: name.to_owned(),
            ..Cluster::default()
        };
        let name = "envoy.config.cluster.v3.Cluster";
        let (old, new) = (cluster("x").encode_to_vec(), cluster("").encode_to_vec());
        let json = Some(r#"{"alt_stat_name":"x"}"#);
        assert_eq!(
            differences(name, &old, &new, STYLE, 9).unwrap(),
            [difference("", json, Some("{}"))]
        );
    }
}
