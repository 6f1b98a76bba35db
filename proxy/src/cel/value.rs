//! What expressions come to, and how that prints.

use std::borrow::Cow;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::attributes::{NodeInfo, Root};
use super::eval::pseudo;
use super::{number, time};
use crate::http::{Fields, RequestHead, ResponseHead};
use crate::stream_info::{DynamicMetadata, StreamInfo};
use crate::upstream::Locality;

/// A value. What was there already is borrowed.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the types of the language")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// Mostly UTF-8; headers may be anything.
    String(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    /// In nanoseconds.
    Duration(i128),
    /// In nanoseconds since 1970.
    Timestamp(i128),
    /// By its name.
    Type(&'static str),
    List(List<'a>),
    Map(Map<'a>),
    Message(Message<'a>),
}

/// A list.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "where its values stand")]
pub enum List<'a> {
    Values(Rc<[Value<'a>]>),
    Json(&'a [Json]),
}

/// A map, or what can be asked like one.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "where its values stand")]
pub enum Map<'a> {
    Empty,
    Values(Rc<[(Value<'a>, Value<'a>)]>),
    Json(&'a serde_json::Map<String, Json>),
    /// `request` and its kin.
    Attributes(Root),
    RequestHeaders(&'a RequestHead),
    ResponseHeaders(&'a ResponseHead),
    Trailers(&'a Fields),
    /// `metadata.filter_metadata`.
    Namespaces(&'a DynamicMetadata),
    FilterState {
        info: &'a StreamInfo,
        upstream: bool,
    },
}

/// A message, whose fields are known.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names of the messages")]
pub enum Message<'a> {
    Metadata(&'a DynamicMetadata),
    Node(&'a NodeInfo),
    Locality(&'a Locality),
}

impl<'a> Value<'a> {
    /// A text.
    pub(super) fn text(text: &'a str) -> Self {
        Self::String(Cow::Borrowed(text.as_bytes()))
    }

    /// A text that was made for this.
    pub(super) fn owned(text: String) -> Self {
        Self::String(Cow::Owned(text.into_bytes()))
    }

    pub(super) fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::Double(number.as_f64().unwrap_or_default()),
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::List(List::Json(items)),
            Json::Object(map) => Self::Map(Map::Json(map)),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Message(Message::Metadata(_)) => "envoy.config.core.v3.Metadata",
            Self::Message(Message::Node(_)) => "envoy.config.core.v3.Node",
            Self::Message(Message::Locality(_)) => "envoy.config.core.v3.Locality",
        }
    }

    /// As descriptors and `%CEL(…)%` show it.
    pub fn print(&self) -> Cow<'_, [u8]> {
        let text = match self {
            Self::String(bytes) | Self::Bytes(bytes) => return Cow::Borrowed(bytes),
            Self::Null => "NULL".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Uint(value) => value.to_string(),
            Self::Double(value) => number::short(*value),
            Self::Duration(nanos) => time::print_duration(*nanos),
            Self::Timestamp(nanos) => time::print_timestamp(*nanos),
            Self::Type(_) => "CelType value".to_owned(),
            Self::List(_) => "CelList value".to_owned(),
            Self::Map(_) => "CelMap value".to_owned(),
            Self::Message(message) => message.print(),
        };
        Cow::Owned(text.into_bytes())
    }

    /// As `%TYPED_CEL(…)%` shows it; none for what has no form in JSON.
    pub fn to_json(&self) -> Option<Json> {
        let text = |bytes: &[u8]| Json::from(String::from_utf8_lossy(bytes));
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Uint(value) => (*value).into(),
            Self::Double(value) => serde_json::Number::from_f64(*value).map(Json::Number)?,
            Self::String(bytes) => text(bytes),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::Duration(nanos) => time::json_duration(*nanos).into(),
            Self::Timestamp(nanos) => time::json_timestamp(*nanos).into(),
            Self::Type(_) => return None,
            Self::List(List::Json(items)) => Json::from(items.to_vec()),
            Self::List(List::Values(items)) => {
                let items = items.iter().map(Self::to_json);
                Json::Array(items.collect::<Option<_>>()?)
            }
            Self::Map(map) => map.to_json()?,
            Self::Message(message) => message.to_json(),
        })
    }
}

impl Map<'_> {
    pub(super) fn to_json(&self) -> Option<Json> {
        let mut out = serde_json::Map::new();
        match self {
            Self::Attributes(_) | Self::FilterState { .. } => return None,
            Self::Empty => {}
            Self::Json(map) => return Some(Json::Object((*map).clone())),
            Self::Values(entries) => {
                for (key, value) in entries.iter() {
                    let key = String::from_utf8_lossy(&key.print()).into_owned();
                    out.insert(key, value.to_json()?);
                }
            }
            Self::Namespaces(metadata) => {
                for (name, values) in metadata.iter() {
                    out.insert(name.to_owned(), Json::Object(values.clone()));
                }
            }
            Self::RequestHeaders(head) => {
                for (name, value) in pseudo(head) {
                    add(&mut out, name.as_bytes(), value);
                }
                add_fields(&mut out, &head.fields);
            }
            Self::ResponseHeaders(head) => {
                add(&mut out, b":status", head.status.to_string().as_bytes());
                add_fields(&mut out, &head.fields);
            }
            Self::Trailers(fields) => add_fields(&mut out, fields),
        }
        Some(Json::Object(out))
    }
}

fn add_fields(out: &mut serde_json::Map<String, Json>, fields: &Fields) {
    for (name, value) in fields.iter() {
        add(out, &name.to_ascii_lowercase(), value);
    }
}

/// Adds a header, behind one of the same name.
fn add(out: &mut serde_json::Map<String, Json>, name: &[u8], value: &[u8]) {
    let value = String::from_utf8_lossy(value);
    let name = String::from_utf8_lossy(name).into_owned();
    match out.get_mut(&name) {
        Some(Json::String(known)) => {
            known.push(',');
            known.push_str(&value);
        }
        _ => drop(out.insert(name, value.into())),
    }
}

impl<'a> Message<'a> {
    /// The field called `name`: none if the message has no such field, else its value and whether it is set.
    pub(super) fn field(&self, name: &str) -> Option<(Value<'a>, bool)> {
        let text = |text: &'a str| (Value::text(text), !text.is_empty());
        Some(match (self, name) {
            (Self::Metadata(metadata), "filter_metadata") => (
                Value::Map(Map::Namespaces(metadata)),
                metadata.iter().next().is_some(),
            ),
            (Self::Metadata(_), "typed_filter_metadata") => (Value::Map(Map::Empty), false),
            (Self::Locality(locality), "region") => text(&locality.region),
            (Self::Locality(locality), "zone") => text(&locality.zone),
            (Self::Locality(locality), "sub_zone") => text(&locality.sub_zone),
            (Self::Node(node), "id") => text(&node.id),
            (Self::Node(node), "cluster") => text(&node.cluster),
            (Self::Node(node), "metadata") => (
                Value::Map(Map::Json(&node.metadata)),
                !node.metadata.is_empty(),
            ),
            (Self::Node(node), "locality") => {
                let Locality {
                    region,
                    zone,
                    sub_zone,
                } = &node.locality;
                let is_set = [region, zone, sub_zone].iter().any(|part| !part.is_empty());
                (Value::Message(Message::Locality(&node.locality)), is_set)
            }
            _ => return None,
        })
    }

    /// One line of protobuf's text form.
    fn print(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Locality(locality) => print_locality(locality, &mut out),
            Self::Metadata(metadata) => {
                for (name, values) in metadata.iter() {
                    out.push_str(&format!("filter_metadata {{ key: {name:?} value {{ "));
                    print_struct(values, &mut out);
                    out.push_str("} } ");
                }
            }
            Self::Node(node) => {
                for (name, value) in [("id", &node.id), ("cluster", &node.cluster)] {
                    if !value.is_empty() {
                        out.push_str(&format!("{name}: {value:?} "));
                    }
                }
                if !node.metadata.is_empty() {
                    out.push_str("metadata { ");
                    print_struct(&node.metadata, &mut out);
                    out.push_str("} ");
                }
                let mut locality = String::new();
                print_locality(&node.locality, &mut locality);
                if !locality.is_empty() {
                    out.push_str(&format!("locality {{ {locality}}} "));
                }
            }
        }
        out
    }

    fn to_json(&self) -> Json {
        let mut out = serde_json::Map::new();
        let mut add = |name: &str, value: Json| {
            let empty = value.as_str().is_some_and(str::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !empty {
                out.insert(name.to_owned(), value);
            }
        };
        match self {
            Self::Metadata(metadata) => {
                let map = Map::Namespaces(metadata).to_json();
                add("filter_metadata", map.unwrap_or_default());
            }
            Self::Locality(locality) => {
                add("region", (&*locality.region).into());
                add("zone", (&*locality.zone).into());
                add("sub_zone", (&*locality.sub_zone).into());
            }
            Self::Node(node) => {
                add("id", (&*node.id).into());
                add("cluster", (&*node.cluster).into());
                add("metadata", Json::Object(node.metadata.clone()));
                add("locality", Message::Locality(&node.locality).to_json());
            }
        }
        Json::Object(out)
    }
}

fn print_locality(locality: &Locality, out: &mut String) {
    let Locality {
        region,
        zone,
        sub_zone,
    } = locality;
    for (name, value) in [("region", region), ("zone", zone), ("sub_zone", sub_zone)] {
        if !value.is_empty() {
            out.push_str(&format!("{name}: {value:?} "));
        }
    }
}

fn print_struct(map: &serde_json::Map<String, Json>, out: &mut String) {
    let mut fields: Vec<_> = map.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    for (name, value) in fields {
        out.push_str(&format!("fields {{ key: {name:?} value {{ "));
        print_json(value, out);
        out.push_str("} } ");
    }
}

fn print_json(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("null_value: NULL_VALUE "),
        Json::Bool(value) => out.push_str(&format!("bool_value: {value} ")),
        Json::Number(number) => out.push_str(&format!("number_value: {number} ")),
        Json::String(text) => out.push_str(&format!("string_value: {text:?} ")),
        Json::Array(items) => {
            out.push_str("list_value { ");
            for item in items {
                out.push_str("values { ");
                print_json(item, out);
                out.push_str("} ");
            }
            out.push_str("} ");
        }
        Json::Object(map) => {
            out.push_str("struct_value { ");
            print_struct(map, out);
            out.push_str("} ");
        }
    }
}
