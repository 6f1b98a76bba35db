//! What an answer of the service means for a request and its response.

use std::fmt::Write;

use outrigger_proto::pb::envoy::config::core::v3::HeaderValue;
use outrigger_proto::pb::envoy::service::ratelimit::v3 as pb;
use outrigger_proto::rate_limit::{DescriptorStatus, RateLimit};
use pb::rate_limit_response::Code;
use pb::rate_limit_response::rate_limit::Unit;

use crate::http::inline::{merges_in_request, merges_in_response};
use crate::http::syntax::is_name;
use crate::http::{RequestHead, ResponseHead};

/// Fields that the response is given, in addition to those of the same name; of a name that Envoy keeps once, the values are joined.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ToAdd(Vec<(Box<[u8]>, Box<[u8]>)>);

impl ToAdd {
    pub(super) fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = name.to_ascii_lowercase().into_bytes().into();
        self.0.push((name, value.as_ref().into()));
    }

    pub(super) fn has(&self, wanted: &str) -> bool {
        self.0.iter().any(|(name, _)| **name == *wanted.as_bytes())
    }

    pub(super) fn remove(&mut self, unwanted: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, _)| **name != *unwanted.as_bytes());
        self.0.len() < before
    }

    /// Takes the fields that the service wants; such as cannot stand in a head are left out.
    pub(super) fn extend(&mut self, fields: Vec<HeaderValue>) {
        for (name, value) in fields.into_iter().filter_map(sendable) {
            self.add(&name, value);
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn apply(&self, head: &mut ResponseHead) {
        for (name, value) in &self.0 {
            head.fields
                .append_wire_merging(name, value, merges_in_response);
        }
    }
}

/// Adds the fields that the service wants to a request.
pub(super) fn add_to_request(fields: Vec<HeaderValue>, request: &mut RequestHead) {
    for (name, value) in fields.into_iter().filter_map(sendable) {
        if name.eq_ignore_ascii_case("host") {
            let hosts = [request.authority().unwrap_or_default(), &value].join(&b',');
            request.set_authority(&hosts);
        } else {
            let fields = &mut request.fields;
            fields.append_wire_merging(name.as_bytes(), &value, merges_in_request);
        }
    }
}

/// A field as name and value; none if it would break a head.
fn sendable(field: HeaderValue) -> Option<(String, Vec<u8>)> {
    let HeaderValue {
        key,
        value,
        // As in Envoy, which does not look at it here.
        raw_value: _,
    } = field;
    let value = value.into_bytes();
    let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    (is_name(key.as_bytes()) && !value.iter().any(breaks)).then_some((key, value))
}

/// The draft-03 fields: the quota that is nearest to its end, and the policies of all. `shown` says of each descriptor whether
/// clients are told of it. As in Envoy nothing is told when they are not to know the nearest.
pub(super) fn x_ratelimit(statuses: &[DescriptorStatus], shown: impl Fn(usize) -> bool) -> ToAdd {
    let mut fields = ToAdd::default();
    let limited = || {
        let statuses = statuses.iter().enumerate();
        statuses.filter_map(|(at, status)| Some((at, status, status.current_limit.as_ref()?)))
    };
    // The first of several.
    let nearest = limited().min_by_key(|(_, status, _)| status.limit_remaining);
    let Some((_, status, limit)) = nearest.filter(|(at, ..)| shown(*at)) else {
        return fields;
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, _, limit) in limited().filter(|(at, ..)| shown(*at)) {
        let window = window(limit);
        if window > 0 {
            let _ = write!(text, ", {};w={window}", limit.requests_per_unit);
            if !limit.name.is_empty() {
                let _ = write!(text, ";name=\"{}\"", limit.name);
            }
        }
    }
    let reset = status.duration_until_reset.map_or(0, |reset| reset.seconds);
    fields.add("x-ratelimit-limit", text);
    fields.add("x-ratelimit-remaining", status.limit_remaining.to_string());
    fields.add("x-ratelimit-reset", reset.to_string());
    fields
}

/// Seconds until the last of the descriptors that are over their limit is not any more, at least 1; none if none is.
pub(super) fn retry_after(statuses: &[DescriptorStatus]) -> Option<i64> {
    let over = statuses
        .iter()
        .filter(|status| status.code() == Code::OverLimit);
    over.map(|status| {
        status
            .duration_until_reset
            .map_or(0, |reset| reset.seconds)
            .max(1)
    })
    .max()
}

/// The seconds of a limit; 0 for a unit that nobody knows.
fn window(limit: &RateLimit) -> u64 {
    const DAY: u64 = 24 * 60 * 60;
    let unit = match limit.unit() {
        Unit::Unknown => 0,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 60 * 60,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
    };
    let units = limit.unit_multiplier.map_or(1, |units| units.value);
    unit * u64::from(units.max(1))
}
