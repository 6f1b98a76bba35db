//! What a service has said.

use core::header_value_option::HeaderAppendAction;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;
use outrigger_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use serde_json::{Map, Value};

use crate::config::json_object;
use crate::http::Fields;
use crate::http::syntax::{is_name, is_value};
use crate::stream_info::HeaderLimits;

/// With what the service says, a head is larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// An answer, in the form that both kinds of services share.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) metadata: Map<String, Value>,
    /// It asks for changes of a kind that does not exist.
    pub(super) is_unclear: bool,
}

pub(super) enum Verdict {
    Ok(Box<Changes>),
    Denied(Refusal),
    /// What to answer, if the service says so itself.
    Error(Option<Refusal>),
}

/// Names and values, as they were sent.
pub(super) type Pairs = Vec<(String, Vec<u8>)>;

/// What becomes of a request that may pass.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) set: Pairs,
    pub(super) add: Pairs,
    /// To what is there already, behind a comma.
    pub(super) append: Pairs,
    pub(super) remove: Vec<String>,
    pub(super) query_set: Pairs,
    pub(super) query_remove: Vec<String>,
    pub(super) response: ResponseChanges,
}

/// What becomes of its response.
#[derive(Default)]
pub(super) struct ResponseChanges {
    pub(super) add: Pairs,
    pub(super) set: Pairs,
    pub(super) add_if_absent: Pairs,
    pub(super) overwrite_if_exists: Pairs,
}

/// How a request is answered that may not pass.
pub(super) struct Refusal {
    /// 200..=599; none: it is not said.
    pub(super) status: Option<u16>,
    pub(super) fields: Pairs,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Nothing was said, or nothing that can be understood.
    pub(super) fn error() -> Self {
        Self {
            verdict: Verdict::Error(None),
            metadata: Map::new(),
            is_unclear: false,
        }
    }

    /// Reads what came by gRPC.
    pub(super) fn from_check_response(response: auth::CheckResponse) -> Self {
        let auth::CheckResponse {
            status,
            dynamic_metadata,
            http_response,
        } = response;
        let ok = status.is_none_or(|status| status.code == 0);
        let mut metadata = dynamic_metadata.map(json_object).unwrap_or_default();
        let mut is_unclear = false;
        let verdict = match (ok, http_response) {
            (true, Some(HttpResponse::OkResponse(response))) => {
                #[allow(deprecated, reason = "services still send dynamic_metadata here")]
                let auth::OkHttpResponse {
                    headers,
                    headers_to_remove,
                    dynamic_metadata,
                    response_headers_to_add,
                    query_parameters_to_set,
                    query_parameters_to_remove,
                } = response;
                if metadata.is_empty() {
                    metadata = dynamic_metadata.map(json_object).unwrap_or_default();
                }
                let mut changes = Changes {
                    remove: headers_to_remove,
                    query_remove: query_parameters_to_remove,
                    ..Changes::default()
                };
                for option in headers {
                    // What is not there is not appended to.
                    let append = is_append(&option) == Some(true);
                    let list = if append {
                        &mut changes.append
                    } else {
                        &mut changes.set
                    };
                    list.extend(pair(option));
                }
                for core::QueryParameter { key, value } in query_parameters_to_set {
                    changes.query_set.push((key, value.into_bytes()));
                }
                is_unclear = changes.response.read(response_headers_to_add);
                Verdict::Ok(Box::new(changes))
            }
            // What does not fit the status is not looked at.
            (true, _) => Verdict::Ok(Box::default()),
            (false, Some(HttpResponse::DeniedResponse(response))) => {
                Verdict::Denied(Refusal::from_proto(response))
            }
            (false, Some(HttpResponse::ErrorResponse(response))) => {
                Verdict::Error(Some(Refusal::from_proto(response)))
            }
            (false, _) => Verdict::Denied(Refusal {
                status: None,
                fields: Vec::new(),
                body: Vec::new(),
            }),
        };
        Self {
            verdict,
            metadata,
            is_unclear,
        }
    }
}

impl Refusal {
    fn from_proto(proto: auth::DeniedHttpResponse) -> Self {
        let auth::DeniedHttpResponse {
            status,
            headers,
            body,
        } = proto;
        let status = status.and_then(|status| u16::try_from(status.code).ok());
        // What is to be appended is left out, as in Envoy: there is nothing to append to.
        let fields = headers.into_iter().filter(|h| is_append(h) != Some(true));
        Self {
            status: status.filter(|status| (200..=599).contains(status)),
            fields: fields.filter_map(pair).collect(),
            body: body.into_bytes(),
        }
    }
}

impl Changes {
    /// Whether the request is not what it was: what is only added does not count.
    pub(super) fn changes_request(&self) -> bool {
        !(self.set.is_empty()
            && self.append.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }
}

impl ResponseChanges {
    /// Whether there is anything to change.
    pub(super) fn is_empty(&self) -> bool {
        self.all().all(Vec::is_empty)
    }

    /// All that is to be written.
    pub(super) fn all(&self) -> impl Iterator<Item = &Pairs> {
        let Self {
            add,
            set,
            add_if_absent,
            overwrite_if_exists,
        } = self;
        [add, set, add_if_absent, overwrite_if_exists].into_iter()
    }

    /// Reads `response_headers_to_add`. True: there are actions that do not exist, which are left out.
    fn read(&mut self, options: Vec<core::HeaderValueOption>) -> bool {
        let mut is_unclear = false;
        for option in options {
            let action = HeaderAppendAction::try_from(option.append_action);
            let list = match (is_append(&option), action) {
                (Some(true), _) | (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => {
                    &mut self.add
                }
                (Some(false), _) | (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => {
                    &mut self.set
                }
                (None, Ok(HeaderAppendAction::AddIfAbsent)) => &mut self.add_if_absent,
                (None, Ok(HeaderAppendAction::OverwriteIfExists)) => &mut self.overwrite_if_exists,
                (None, Err(_)) => {
                    is_unclear = true;
                    continue;
                }
            };
            list.extend(pair(option));
        }
        is_unclear
    }

    /// Changes the fields of a response; what was changed before an error stays so.
    pub(super) fn apply(
        &self,
        fields: &mut Fields,
        limits: Option<HeaderLimits>,
    ) -> Result<(), TooLarge> {
        // The status counts like a field.
        let check = |fields: &Fields| match limits {
            Some(limits) if !limits.allow(fields.len() + 1, fields.byte_size() + STATUS_BYTES) => {
                Err(TooLarge)
            }
            _ => Ok(()),
        };
        let legal = |pairs: &'_ Pairs| -> Vec<(String, Vec<u8>)> {
            let pairs = pairs.iter();
            pairs
                .filter(|(name, value)| is_name(name.as_bytes()) && is_value(value))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect()
        };
        for (name, value) in legal(&self.add) {
            fields.append(name.as_str(), value);
            check(fields)?;
        }
        for (name, value) in legal(&self.set) {
            fields.set(name.as_str(), value);
            check(fields)?;
        }
        for (name, value) in legal(&self.add_if_absent) {
            if !fields.contains(name.as_str()) {
                fields.append(name.as_str(), value);
                check(fields)?;
            }
        }
        for (name, value) in legal(&self.overwrite_if_exists) {
            if fields.contains(name.as_str()) {
                fields.set(name.as_str(), value);
                check(fields)?;
            }
        }
        Ok(())
    }
}

/// What the status of a response is long, with its name.
const STATUS_BYTES: usize = ":status".len() + 3;

/// The older field, which goes before the action where it is set.
fn is_append(option: &core::HeaderValueOption) -> Option<bool> {
    #[allow(deprecated, reason = "services still send append")]
    option.append.map(|append| append.value)
}

/// `raw_value` is not looked at, as in Envoy.
fn pair(option: core::HeaderValueOption) -> Option<(String, Vec<u8>)> {
    let core::HeaderValue { key, value, .. } = option.header?;
    Some((key, value.into_bytes()))
}
