//! A `RouteMatch` on its own, for filters that choose by the request what they do.

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use super::criteria::Criteria;
use super::path::PathCriterion;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Method, RequestHead};
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// A converted `RouteMatch`: its condition on the path and all others.
#[derive(Debug)]
pub struct RequestMatch {
    path: PathCriterion,
    rest: Option<Box<Criteria>>,
}

impl RequestMatch {
    /// Converts a `RouteMatch`.
    pub fn from_proto(
        proto: pb::RouteMatch,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let (path, rest) = Criteria::from_proto(proto, cx, path)?;
        Ok(Self { path, rest })
    }

    /// Whether a request meets it. `random` decides on runtime fractions.
    pub fn matches(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> bool {
        let of_path = if self.path.is_connect() {
            head.method() == Method::Connect
        } else {
            self.path.matches(head.path_without_query())
        };
        of_path
            && self
                .rest
                .as_ref()
                .is_none_or(|rest| rest.matches(head, info, random))
    }
}
