//! `request_headers_to_add`, `response_headers_to_remove` and their kin: how a route changes heads.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#custom-request-response-headers>
//!
//! Deviations: `raw_value` is refused, where Envoy reads nothing.

#![allow(
    deprecated,
    reason = "control planes still send append in place of append_action"
)]

use std::cell::RefCell;
use std::ops::Range;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use pb::header_value_option::HeaderAppendAction;
use smallvec::SmallVec;

use crate::config::{ConfigPath, Rejected};
use crate::formatter::{FormatData, Formatter};
use crate::http::{Fields, HeaderName, Name, RequestHead, ResponseHead};
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// Headers to remove, and then headers to add.
#[derive(Debug)]
pub struct HeaderParser {
    remove: Box<[HeaderName]>,
    add: Box<[HeaderToAdd]>,
}

/// How one level of a route configuration changes requests and responses.
#[derive(Debug, Default)]
pub struct HeaderMutations {
    /// What happens to the request.
    pub request: Option<HeaderParser>,
    /// What happens to the response.
    pub response: Option<HeaderParser>,
}

/// The four lists of a level, as they stand in its message.
#[derive(Debug, Default)]
pub(super) struct HeaderLists {
    pub(super) request_add: Vec<pb::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<pb::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

#[derive(Debug)]
struct HeaderToAdd {
    name: HeaderName,
    value: Text,
    action: HeaderAppendAction,
    /// Adds the header also when its value is empty.
    keep_empty: bool,
}

#[derive(Debug)]
enum Text {
    Plain(Box<[u8]>),
    Formatted(Box<Formatter>),
}

/// A header that the evaluation found must be written.
struct Write<'a> {
    header: &'a HeaderToAdd,
    /// Where in the scratch buffer a formatted value stands.
    formatted: Range<usize>,
    overwrite: bool,
}

type Writes<'a> = SmallVec<[Write<'a>; 8]>;

thread_local! {
    /// Formatted values of the evaluation that runs.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl HeaderMutations {
    pub(super) fn from_proto(
        lists: HeaderLists,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Box<Self>>, Rejected> {
        let request = HeaderParser::from_proto(
            ("request_headers_to_add", lists.request_add),
            ("request_headers_to_remove", lists.request_remove),
            cx,
            path,
        );
        let response = HeaderParser::from_proto(
            ("response_headers_to_add", lists.response_add),
            ("response_headers_to_remove", lists.response_remove),
            cx,
            path,
        );
        let (request, response) = (request?, response?);
        Ok((request.is_some() || response.is_some()).then(|| Box::new(Self { request, response })))
    }
}

impl HeaderParser {
    /// Converts two lists, given with the names of their fields. None if both are empty.
    pub fn from_proto(
        (add_field, add): (&str, Vec<pb::HeaderValueOption>),
        (remove_field, remove): (&str, Vec<String>),
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        if add.is_empty() && remove.is_empty() {
            return Ok(None);
        }
        let add = path.each(add_field, add, |proto, path| {
            HeaderToAdd::from_proto(proto, cx, path)
        });
        let remove = path.each(remove_field, remove, |name, path| changeable(&name, path));
        Ok(Some(Self {
            add: add?.into(),
            remove: remove?.into(),
        }))
    }

    /// Changes a request head.
    pub fn evaluate_request(&self, head: &mut RequestHead, info: &StreamInfo) {
        for name in &self.remove {
            head.fields.remove(name);
        }
        if self.add.is_empty() {
            return;
        }
        with_scratch(|scratch| {
            let data = FormatData::of_request(info, Some(head));
            let mut writes = Writes::new();
            self.find_writes(&head.fields, &data, scratch, &mut writes);
            apply(&writes, scratch, &mut head.fields);
        });
    }

    /// Changes a response head.
    pub fn evaluate_response(
        &self,
        head: &mut ResponseHead,
        request: Option<&RequestHead>,
        info: &StreamInfo,
    ) {
        for name in &self.remove {
            head.fields.remove(name);
        }
        if self.add.is_empty() {
            return;
        }
        with_scratch(|scratch| {
            let data = FormatData {
                response: Some(head),
                ..FormatData::of_request(info, request)
            };
            let mut writes = Writes::new();
            self.find_writes(&head.fields, &data, scratch, &mut writes);
            apply(&writes, scratch, &mut head.fields);
        });
    }

    /// All values are found before the first header is written, so that no addition sees another.
    fn find_writes<'a>(
        &'a self,
        fields: &Fields,
        data: &FormatData<'_>,
        scratch: &mut Vec<u8>,
        writes: &mut Writes<'a>,
    ) {
        for header in &self.add {
            let start = scratch.len();
            let empty = match &header.value {
                Text::Plain(value) => value.is_empty(),
                Text::Formatted(formatter) => {
                    formatter.render(data, scratch);
                    scratch.len() == start
                }
            };
            if empty && !header.keep_empty {
                continue;
            }
            let (wanted, overwrite) = match header.action {
                HeaderAppendAction::AppendIfExistsOrAdd => (true, false),
                HeaderAppendAction::AddIfAbsent => (!fields.contains(&header.name), false),
                HeaderAppendAction::OverwriteIfExistsOrAdd => (true, true),
                HeaderAppendAction::OverwriteIfExists => (fields.contains(&header.name), true),
            };
            if wanted {
                writes.push(Write {
                    header,
                    formatted: start..scratch.len(),
                    overwrite,
                });
            }
        }
    }
}

/// Overwrites come before additions.
fn apply(writes: &[Write<'_>], scratch: &[u8], fields: &mut Fields) {
    for write in writes.iter().filter(|write| write.overwrite) {
        let name = &write.header.name;
        if name.known().is_none() {
            // Envoy keeps only the headers that it knows in their places.
            fields.remove(name);
        }
        fields.set(name, write.value(scratch));
    }
    for write in writes.iter().filter(|write| !write.overwrite) {
        fields.append(&write.header.name, write.value(scratch));
    }
}

fn with_scratch(run: impl FnOnce(&mut Vec<u8>)) {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    run(&mut scratch);
    SCRATCH.set(scratch);
}

impl Write<'_> {
    fn value<'s>(&'s self, scratch: &'s [u8]) -> &'s [u8] {
        match &self.header.value {
            Text::Plain(value) => value,
            Text::Formatted(_) => &scratch[self.formatted.clone()],
        }
    }
}

impl HeaderToAdd {
    fn from_proto(
        proto: pb::HeaderValueOption,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = proto;
        let action = append_action_of(append, append_action, path)?;
        let pb::HeaderValue {
            key,
            value,
            raw_value,
        } = path.required("header", header)?;
        let header = path.field("header");
        header.unsupported_if_set("raw_value", raw_value)?;
        let name = changeable(&key, &header.field("key"));
        let value = if value.contains('%') {
            Formatter::parse_omitting_empty(&value, cx, &header.field("value"))
                .map(|formatter| Text::Formatted(Box::new(formatter)))
        } else {
            Ok(Text::Plain(value.into_bytes().into()))
        };
        Ok(Self {
            name: name?,
            value: value?,
            action,
            keep_empty: keep_empty_value,
        })
    }
}

/// What `append_action`, or `append` that came before it, says of a header that is there already.
pub(crate) fn append_action_of(
    append: Option<wkt::BoolValue>,
    append_action: i32,
    path: &ConfigPath<'_>,
) -> Result<HeaderAppendAction, Rejected> {
    match (append, path.enumeration("append_action", append_action)?) {
        (None, action) => Ok(action),
        (Some(append), HeaderAppendAction::AppendIfExistsOrAdd) => Ok(if append.value {
            HeaderAppendAction::AppendIfExistsOrAdd
        } else {
            HeaderAppendAction::OverwriteIfExistsOrAdd
        }),
        (Some(_), _) => Err(path
            .field("append")
            .reject("must not be set together with append_action")),
    }
}

/// A header that mutations may touch: neither a pseudo header nor `host`.
fn changeable(name: &str, path: &ConfigPath<'_>) -> Result<HeaderName, Rejected> {
    if name.is_empty() {
        Err(path.reject("must not be empty"))
    } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        Err(path.reject(format!(
            "\"{name}\" may not be changed: use the rewrites of the route for host and path"
        )))
    } else {
        Ok(HeaderName::new(name))
    }
}
