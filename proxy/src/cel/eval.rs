//! What an expression comes to.

use std::borrow::Cow;
use std::rc::Rc;

use super::ast::Node;
use super::attributes::{Activation, Attribute};
use super::operators::{self, contains, equal};
use super::value::{List, Map, Message, Value};
use crate::http::RequestHead;
use crate::matchers::{HeaderKey, HeaderSource};

/// The value cannot be said: something is missing, or of the wrong type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault;

impl Node {
    pub(super) fn evaluate<'a>(&'a self, cx: &Activation<'a>) -> Result<Value<'a>, Fault> {
        match self {
            Self::Constant(value) => Ok(value.value()),
            Self::Root(root) => root.value(cx).ok_or(Fault),
            Self::Attribute(attribute) => attribute.value(cx).ok_or(Fault),
            Self::Header(key) => {
                let value = cx.request.and_then(|head| header(head, key));
                value.map(Value::String).ok_or(Fault)
            }
            Self::Unknown => Err(Fault),
            Self::Select(operand, field) => {
                let (value, _) = select(&operand.evaluate(cx)?, field, cx)?;
                value.ok_or(Fault)
            }
            Self::Has(operand, field) => {
                let (_, is_set) = select(&operand.evaluate(cx)?, field, cx)?;
                Ok(Value::Bool(is_set))
            }
            Self::Index(nodes) => {
                let (operand, key) = both(nodes, cx)?;
                element(&operand, &key, cx).ok_or(Fault)
            }
            Self::And(nodes) => decide(nodes, false, cx),
            Self::Or(nodes) => decide(nodes, true, cx),
            Self::Not(operand) => match operand.evaluate(cx)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                _ => Err(Fault),
            },
            Self::Negate(operand) => operators::negate(&operand.evaluate(cx)?).ok_or(Fault),
            Self::Conditional(nodes) => {
                let [condition, yes, no] = &**nodes;
                match condition.evaluate(cx)? {
                    Value::Bool(true) => yes.evaluate(cx),
                    Value::Bool(false) => no.evaluate(cx),
                    _ => Err(Fault),
                }
            }
            Self::Equal(nodes, wanted) => {
                let (left, right) = both(nodes, cx)?;
                Ok(Value::Bool(equal(&left, &right) == *wanted))
            }
            Self::Compare(comparison, nodes) => {
                let (left, right) = both(nodes, cx)?;
                let holds = comparison.holds(&left, &right);
                holds.map(Value::Bool).ok_or(Fault)
            }
            Self::Arithmetic {
                operator,
                operands,
                joins_strings,
            } => {
                let (left, right) = both(operands, cx)?;
                operator.apply(left, right, *joins_strings).ok_or(Fault)
            }
            Self::In(nodes) => {
                let (item, container) = both(nodes, cx)?;
                let found = match container {
                    Value::List(list) => contains(&list, &item),
                    Value::Map(map) => map.get(&item, cx).is_some(),
                    _ => return Err(Fault),
                };
                Ok(Value::Bool(found))
            }
            Self::Matches(operand, regex) => match operand.evaluate(cx)? {
                Value::String(text) => Ok(Value::Bool(regex.is_partial_match(&text))),
                _ => Err(Fault),
            },
            Self::Call(function, args) => {
                let library = usize::from(function.library().is_some());
                let args = args.iter().skip(library).map(|arg| arg.evaluate(cx));
                let args = args.collect::<Result<Vec<_>, _>>()?;
                match library {
                    0 => function.call(&args),
                    _ => function.call_of_library(&args),
                }
                .ok_or(Fault)
            }
            Self::List(nodes) => {
                let items = nodes.iter().map(|node| node.evaluate(cx));
                let items: Rc<[_]> = items.collect::<Result<_, _>>()?;
                Ok(Value::List(List::Values(items)))
            }
            Self::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| Ok((key.evaluate(cx)?, value.evaluate(cx)?)));
                let entries: Rc<[_]> = entries.collect::<Result<_, _>>()?;
                Ok(Value::Map(Map::Values(entries)))
            }
            Self::Message(message, fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| Ok((*name, value.evaluate(cx)?)));
                let fields: Vec<_> = fields.collect::<Result<_, _>>()?;
                message.make(&fields).ok_or(Fault)
            }
        }
    }
}

/// What a map or a list has for this key.
fn element<'a>(operand: &Value<'a>, key: &Value<'a>, cx: &Activation<'a>) -> Option<Value<'a>> {
    match operand {
        Value::Map(map) => map.get(key, cx),
        Value::List(list) => list.get(key),
        _ => None,
    }
}

/// A field, and whether it is set. What has no fields at all has none that could be missing.
fn select<'a>(
    operand: &Value<'a>,
    field: &'a str,
    cx: &Activation<'a>,
) -> Result<(Option<Value<'a>>, bool), Fault> {
    match operand {
        Value::Map(map) => {
            let value = map.get(&Value::text(field), cx);
            let is_set = value.is_some();
            Ok((value, is_set))
        }
        Value::Message(message) => {
            let (value, is_set) = message.field(field).ok_or(Fault)?;
            Ok((Some(value), is_set))
        }
        _ => Err(Fault),
    }
}

fn both<'a>(nodes: &'a [Node; 2], cx: &Activation<'a>) -> Result<(Value<'a>, Value<'a>), Fault> {
    Ok((nodes[0].evaluate(cx)?, nodes[1].evaluate(cx)?))
}

/// `&&` or `||`: one side that decides is enough, whatever the other one comes to.
fn decide<'a>(
    nodes: &'a [Node; 2],
    decisive: bool,
    cx: &Activation<'a>,
) -> Result<Value<'a>, Fault> {
    let side = |node: &'a Node| match node.evaluate(cx) {
        Ok(Value::Bool(value)) => Some(value),
        _ => None,
    };
    let left = side(&nodes[0]);
    if left == Some(decisive) {
        return Ok(Value::Bool(decisive));
    }
    match side(&nodes[1]) {
        Some(right) if right == decisive || left.is_some() => Ok(Value::Bool(right)),
        _ => Err(Fault),
    }
}

impl<'a> Map<'a> {
    pub(super) fn get(&self, key: &Value<'_>, cx: &Activation<'a>) -> Option<Value<'a>> {
        if let Self::Values(entries) = self {
            let found = entries.iter().find(|(known, _)| equal(known, key));
            return found.map(|(_, value)| value.clone());
        }
        let Value::String(key) = key else { return None };
        let key = std::str::from_utf8(key).ok()?;
        match self {
            Self::Empty | Self::Values(_) => None,
            Self::Json(map) => map.get(key).map(Value::json),
            Self::Attributes(root) => Attribute::parse(*root, key)?.value(cx),
            Self::RequestHeaders(head) => header(*head, &HeaderKey::new(key)).map(Value::String),
            Self::ResponseHeaders(head) => header(*head, &HeaderKey::new(key)).map(Value::String),
            Self::Trailers(fields) => header(*fields, &HeaderKey::new(key)).map(Value::String),
            Self::Namespaces(metadata) => {
                let values = metadata.get(key)?;
                Some(Value::Map(Map::Json(values)))
            }
            Self::FilterState { info, upstream } => {
                let of_connection = info.connection.filter_state.borrow();
                let object = if *upstream {
                    info.upstream.as_ref()?.filter_state.get(key)
                } else {
                    let of_stream = info.filter_state.get(key);
                    of_stream.or_else(|| of_connection.get(key))
                };
                let text = object?.serialize_as_string()?;
                Some(Value::Bytes(Cow::Owned(text.into_bytes())))
            }
        }
    }

    /// All keys with their values; none of what can only be asked.
    pub(super) fn entries(&self) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        Some(match self {
            Self::Attributes(_) | Self::FilterState { .. } => return None,
            Self::Empty => Vec::new(),
            Self::Values(entries) => entries.to_vec(),
            Self::Json(map) => {
                let entries = map
                    .iter()
                    .map(|(key, value)| (Value::text(key), Value::json(value)));
                entries.collect()
            }
            Self::Namespaces(metadata) => {
                let entries = metadata.iter();
                let entries =
                    entries.map(|(key, map)| (Value::text(key), Value::Map(Map::Json(map))));
                entries.collect()
            }
            Self::RequestHeaders(_) | Self::ResponseHeaders(_) | Self::Trailers(_) => {
                let serde_json::Value::Object(fields) = self.to_json()? else {
                    return None;
                };
                let text = |value: serde_json::Value| match value {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                let entries = fields.into_iter();
                entries
                    .map(|(key, value)| (Value::owned(key), Value::owned(text(value))))
                    .collect()
            }
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty | Self::Attributes(_) | Self::FilterState { .. } => 0,
            Self::Values(entries) => entries.len(),
            Self::Json(map) => map.len(),
            Self::RequestHeaders(head) => head.fields.len() + pseudo(head).count(),
            Self::ResponseHeaders(head) => head.fields.len() + 1,
            Self::Trailers(fields) => fields.len(),
            Self::Namespaces(metadata) => metadata.iter().count(),
        }
    }
}

impl<'a> List<'a> {
    fn get(&self, index: &Value<'_>) -> Option<Value<'a>> {
        let index = match index {
            Value::Int(index) => usize::try_from(*index).ok()?,
            Value::Uint(index) => usize::try_from(*index).ok()?,
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is whole, and what is out of range finds nothing"
            )]
            Value::Double(index) if index.fract() == 0.0 && *index >= 0.0 => *index as usize,
            _ => return None,
        };
        match self {
            Self::Values(items) => items.get(index).cloned(),
            Self::Json(items) => items.get(index).map(Value::json),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Values(items) => items.len(),
            Self::Json(items) => items.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|index| self.get(&Value::Uint(index as u64)))
    }
}

impl PartialEq for Message<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Metadata(a), Self::Metadata(b)) => a == b,
            (Self::Locality(a), Self::Locality(b)) => a == b,
            (Self::Node(a), Self::Node(b)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }
}

/// The pseudo headers that a request has.
pub(super) fn pseudo(head: &RequestHead) -> impl Iterator<Item = (&'static str, &[u8])> {
    let all = [
        (":authority", head.authority()),
        (":method", Some(head.method_bytes())),
        (":path", head.path()),
        (":protocol", head.protocol()),
        (":scheme", head.scheme()),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}

/// All values of a header, joined by commas.
pub(super) fn header<'a>(head: &'a impl HeaderSource, key: &HeaderKey) -> Option<Cow<'a, [u8]>> {
    let first = head.first(key)?;
    let HeaderKey::Field(name) = key else {
        return Some(first);
    };
    let fields = head.fields();
    if fields.get_all(name).nth(1).is_none() {
        return Some(first);
    }
    let all: Vec<_> = fields.get_all(name).collect();
    Some(Cow::Owned(all.join(&b","[..])))
}
