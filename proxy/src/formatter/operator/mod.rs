//! One command operator: what it stands for, and how it prints as text and as a value of JSON.

mod address;
mod count;
mod grpc;
mod header;
mod moment;
mod server_name;
mod state;
mod text;
mod tls;
mod xfcc;

pub(super) use address::{AddressPart, Attempt, End};
pub(super) use count::Count;
pub(crate) use count::{completed, request_size, response_size};
pub(super) use grpc::GrpcStatusForm;
pub(crate) use grpc::grpc_status;
pub(super) use header::{Header, HeaderRef, Message};
pub(super) use moment::{Clock, Point};
pub(super) use server_name::{HostSource, ServerNameFirst};
pub(super) use state::{FilterStateForm, MetadataSource};
pub(super) use text::Text;
pub(crate) use text::stream_id;
pub(super) use tls::{TlsPart, TlsSide};
pub(super) use xfcc::XfccKey;

use grpc::grpc_status_of;
use serde_json::Value;
use server_name::server_name;
use state::{MetadataValue, StateValue, write_metadata, write_state};

use super::subject::{NamedCluster, NamedRoute};
use super::time::TimeFormat;
use super::{FormatData, json, query};
use crate::cel::{Activation, Expression, Value as CelValue};
use crate::net::Address;
use crate::stream_info::{FilterState, UpstreamInfo};

/// A parsed operator, or text between operators.
#[derive(Debug)]
pub(super) enum Operator {
    Literal(Box<[u8]>),
    /// Known, but nothing in this proxy has it yet.
    Unavailable,
    /// Found out when the format was parsed.
    Fixed(Option<Box<[u8]>>),
    Header(Header),
    Count(Count),
    Text(Text),
    Time {
        clock: Clock,
        format: TimeFormat,
    },
    Tls {
        side: TlsSide,
        part: TlsPart,
    },
    Validity {
        side: TlsSide,
        end: bool,
        format: TimeFormat,
    },
    Span {
        from: Point,
        to: Point,
        nanoseconds: u128,
    },
    Address {
        end: End,
        part: AddressPart,
    },
    Attempts {
        part: Attempt,
        with_port: bool,
    },
    Metadata {
        source: MetadataSource,
        namespace: Box<str>,
        path: Box<[Box<str>]>,
        max: Option<usize>,
    },
    FilterState {
        upstream: bool,
        key: Box<str>,
        form: FilterStateForm,
        max: Option<usize>,
    },
    GrpcStatus(GrpcStatusForm),
    QueryParameter {
        name: Box<[u8]>,
        max: Option<usize>,
    },
    Query {
        decoded: bool,
        max: Option<usize>,
    },
    ServerName {
        first: ServerNameFirst,
        host: HostSource,
    },
    Details {
        allow_whitespace: bool,
    },
    Coalesce {
        operators: Box<[Operator]>,
        max: Option<usize>,
    },
    Xfcc(XfccKey),
    Cel {
        expression: Box<Expression>,
        /// As JSON it keeps its type.
        typed: bool,
        max: Option<usize>,
    },
}

impl Operator {
    /// Appends the value as text; says whether there was one. Without one nothing is appended.
    pub(super) fn write(&self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Literal(text) => {
                // Most often a space.
                match &**text {
                    [byte] => out.push(*byte),
                    text => out.extend_from_slice(text),
                }
                true
            }
            Self::Unavailable => false,
            Self::Fixed(text) => append(out, text.as_deref()),
            Self::Header(header) => {
                let value = header.find(data).map(|value| header.cut(value));
                append(out, value)
            }
            Self::Count(count) => append_count(out, count.value(data)),
            Self::Text(text) => text.write(data, out),
            Self::Time { clock, format } => {
                format.write(clock.now(data), out);
                true
            }
            Self::Tls { side, part } => part.write(*side, data, out),
            Self::Validity { side, end, format } => {
                tls::write_validity(*side, *end, format, data, out)
            }
            Self::Span { .. } => append_count(out, self.span(data)),
            Self::Address { end, part } => part.write(end.address(data), out),
            Self::Attempts { part, with_port } => part.write_all(*with_port, data, out),
            Self::Metadata { max, .. } => {
                self.with_metadata(data, |value| write_metadata(&value, *max, out))
            }
            Self::FilterState { max, .. } => {
                self.with_filter_state(data, |value| write_state(&value, *max, out))
            }
            Self::GrpcStatus(form) => form.write(data, out),
            Self::QueryParameter { name, max } => query::parameter(path(data), name)
                .is_some_and(|value| append(out, Some(cut(&value, *max)))),
            Self::Query { decoded, max } => {
                let text = query::text(path(data), *decoded);
                append(out, text.as_deref().map(|text| cut(text, *max)))
            }
            Self::ServerName { first, host } => server_name(*first, *host, data, out),
            Self::Details { allow_whitespace } => details(*allow_whitespace, data, out),
            Self::Coalesce { operators, max } => coalesce(operators, *max, data, out),
            Self::Xfcc(key) => key.write(data, out),
            Self::Cel {
                expression, max, ..
            } => {
                let value = expression.evaluate(&Activation::of_formatter(data));
                let text = value.as_ref().map(CelValue::print);
                append(out, text.as_deref().map(|text| cut(text, *max)))
            }
        }
    }

    /// Appends the value as JSON: a string, or what else it is. Without one nothing is appended.
    pub(super) fn write_json(&self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Count(count) => append_json_count(out, count.value(data)),
            Self::Span { .. } => append_json_count(out, self.span(data)),
            Self::GrpcStatus(GrpcStatusForm::Number) => {
                append_json_count(out, grpc_status_of(data).map(u64::from))
            }
            Self::Address {
                end,
                part: AddressPart::Port,
            } => {
                let port = end.address(data).and_then(Address::port);
                append_json_count(out, port.map(u64::from))
            }
            Self::Metadata { max, .. } => self.with_metadata(data, |value| match value {
                MetadataValue::Value(Value::String(text)) => {
                    json::write_string(cut(text.as_bytes(), *max), out);
                    true
                }
                MetadataValue::Value(Value::Null) => false,
                MetadataValue::Value(value) => {
                    json::write_value(value, out);
                    true
                }
                MetadataValue::All(map) => {
                    json::write_map(map, out);
                    true
                }
            }),
            Self::FilterState { max, .. } => self.with_filter_state(data, |value| {
                match value {
                    StateValue::Text(text) => {
                        json::write_string(cut(text.as_bytes(), *max), out);
                    }
                    StateValue::Json(value) => json::write_value(&value, out),
                }
                true
            }),
            Self::Cel {
                expression,
                typed: true,
                max,
            } => {
                let value = expression.evaluate(&Activation::of_formatter(data));
                match value.as_ref().and_then(CelValue::to_json) {
                    None | Some(Value::Null) => return false,
                    Some(Value::String(text)) => {
                        json::write_string(cut(text.as_bytes(), *max), out);
                    }
                    Some(value) => json::write_value(&value, out),
                }
                true
            }
            Self::Coalesce { operators, max } => {
                let start = out.len();
                operators.iter().any(|operator| {
                    let found = operator.write_json(data, out);
                    if found && &out[start..] != b"\"\"" {
                        return true;
                    }
                    out.truncate(start);
                    false
                }) && cut_json(start, *max, data, operators, out)
            }
            _ => {
                let start = out.len();
                out.push(b'"');
                if !self.write(data, out) {
                    out.truncate(start);
                    return false;
                }
                json::escape_from(start + 1, out);
                out.push(b'"');
                true
            }
        }
    }

    fn span(&self, data: &FormatData<'_>) -> Option<u64> {
        let Self::Span {
            from,
            to,
            nanoseconds,
        } = self
        else {
            return None;
        };
        let span = to
            .instant(data)?
            .checked_duration_since(from.instant(data)?)?;
        u64::try_from(span.as_nanos() / nanoseconds).ok()
    }

    fn with_metadata(
        &self,
        data: &FormatData<'_>,
        write: impl FnOnce(MetadataValue<'_>) -> bool,
    ) -> bool {
        let Self::Metadata {
            source,
            namespace,
            path,
            ..
        } = self
        else {
            return false;
        };
        source.with(data, |metadata| {
            if path.is_empty() {
                return metadata
                    .get(namespace)
                    .is_some_and(|map| write(MetadataValue::All(map)));
            }
            metadata
                .value(namespace, path.iter().map(|key| &**key))
                .is_some_and(|value| write(MetadataValue::Value(value)))
        })
    }

    fn with_filter_state(
        &self,
        data: &FormatData<'_>,
        write: impl FnOnce(StateValue<'_>) -> bool,
    ) -> bool {
        let Self::FilterState {
            upstream,
            key,
            form,
            ..
        } = self
        else {
            return false;
        };
        let read = |state: &FilterState| {
            let object = state.get(key)?;
            match form {
                FilterStateForm::Plain => object
                    .serialize_as_string()
                    .map(|text| StateValue::Text(text.into())),
                FilterStateForm::Typed => object.serialize_as_json().map(StateValue::Json),
                FilterStateForm::Field(name) => {
                    object.field(name).map(|text| StateValue::Text(text.into()))
                }
            }
        };
        let value = if *upstream {
            upstream_of(data).and_then(|upstream| read(&upstream.filter_state))
        } else {
            read(&data.info.filter_state)
                .or_else(|| read(&data.info.connection.filter_state.borrow()))
        };
        value.is_some_and(write)
    }
}

fn details(allow_whitespace: bool, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let found = append_str(out, data.info.response_code_details.as_deref());
    if !allow_whitespace {
        replace_whitespace(&mut out[start..]);
    }
    found
}

fn coalesce(
    operators: &[Operator],
    max: Option<usize>,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    for operator in operators {
        if operator.write(data, out) && out.len() > start {
            limit(start, max, out);
            return true;
        }
        out.truncate(start);
    }
    false
}

/// Cuts the text of a string that was written as JSON; other values keep their length.
fn cut_json(
    start: usize,
    max: Option<usize>,
    data: &FormatData<'_>,
    operators: &[Operator],
    out: &mut Vec<u8>,
) -> bool {
    if max.is_some() && out[start] == b'"' {
        out.truncate(start);
        out.push(b'"');
        coalesce(operators, max, data, out);
        json::escape_from(start + 1, out);
        out.push(b'"');
    }
    true
}

fn path<'a>(data: &FormatData<'a>) -> Option<&'a [u8]> {
    data.request.map(|head| head.path().unwrap_or_default())
}

fn upstream_of<'a>(data: &FormatData<'a>) -> Option<&'a UpstreamInfo> {
    data.info.upstream.as_deref()
}

fn replace_whitespace(text: &mut [u8]) {
    text.iter_mut()
        .filter(|byte| byte.is_ascii_whitespace() || **byte == 0x0b)
        .for_each(|byte| *byte = b'_');
}

fn append(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| {
        out.extend_from_slice(value);
        true
    })
}

fn append_str(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    append(out, value.map(str::as_bytes))
}

fn append_count(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    value.is_some_and(|value| {
        json::write_digits(value, out);
        true
    })
}

fn append_json_count(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    value.is_some_and(|value| {
        json::write_count(value, out);
        true
    })
}

fn cut(value: &[u8], max: Option<usize>) -> &[u8] {
    &value[..max.unwrap_or(usize::MAX).min(value.len())]
}

fn limit(start: usize, max: Option<usize>, out: &mut Vec<u8>) {
    if let Some(max) = max {
        out.truncate(start.saturating_add(max));
    }
}
