//! Which endpoint of a service gets a request.

use std::time::Duration;

use serde::Deserialize;

use super::check::Report;
use super::check_sections::check_header;
use super::kinds::duration;

/// Which endpoint gets a request, as gateways and sidecars choose. Clients of gRPC that read xDS themselves take turns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LoadBalancing {
    /// How it is chosen where nothing is hashed. Default: in turn.
    pub algorithm: Option<Algorithm>,
    /// Requests with the same value go to the same endpoint: the first of these that a request has. Without any, they go
    /// anywhere.
    pub hash_by: Vec<HashedBy>,
    /// The time in which a new endpoint comes to its full share. Default: at once.
    #[serde(deserialize_with = "duration")]
    pub slow_start: Option<Duration>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Algorithm {
    /// In turn.
    RoundRobin,
    /// Of two, that with fewer requests.
    LeastRequest,
    /// Any.
    Random,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashedBy {
    /// A header.
    Header(String),
    /// A cookie; a client without it gets one.
    Cookie(String),
    /// The client's address.
    Address,
}

pub(super) fn check(spec: &LoadBalancing, report: &mut Report<'_>) {
    const PATH: &str = "spec.loadBalancing";
    let is_hashed = !spec.hash_by.is_empty();
    if *spec == LoadBalancing::default() {
        report(
            PATH.to_owned(),
            "needs one of `algorithm`, `hashBy` and `slowStart`".to_owned(),
        );
    }
    if is_hashed && spec.algorithm.is_some() {
        report(
            format!("{PATH}.algorithm"),
            "cannot be together with `hashBy`".to_owned(),
        );
    }
    if let Some(time) = spec.slow_start {
        if time.is_zero() {
            report(
                format!("{PATH}.slowStart"),
                "has to be more than 0s".to_owned(),
            );
        }
        if is_hashed || spec.algorithm == Some(Algorithm::Random) {
            report(
                format!("{PATH}.slowStart"),
                "needs `RoundRobin` or `LeastRequest`".to_owned(),
            );
        }
    }
    for (index, by) in spec.hash_by.iter().enumerate() {
        let path = format!("{PATH}.hashBy[{index}]");
        match by {
            HashedBy::Header(header) => check_header(path, header, report),
            HashedBy::Cookie(name) => {
                let is_token =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_token) {
                    report(path, format!("{name:?} is no name of a cookie"));
                }
            }
            HashedBy::Address => {}
        }
    }
}
