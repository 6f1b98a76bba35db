//! `TcpProxy.hash_policy`: the number by which ring hash and Maglev choose the host of a connection.

use outrigger_proto::pb::envoy::r#type::v3 as pb;
use pb::hash_policy::{FilterState, PolicySpecifier, SourceIp};

use crate::config::{ConfigPath, Rejected};
use crate::stream_info::StreamInfo;
use crate::xx_hash::xx_hash64;

/// What of a connection is hashed.
#[derive(Debug)]
pub(super) enum HashPolicy {
    /// The address of the client, without its port.
    SourceIp,
    /// The object of this name.
    FilterState(Box<str>),
}

impl HashPolicy {
    pub(super) fn from_proto(
        protos: Vec<pb::HashPolicy>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let mut policies = path.each("hash_policy", protos, |proto, path| {
            let pb::HashPolicy { policy_specifier } = proto;
            match path.required("policy_specifier", policy_specifier)? {
                PolicySpecifier::SourceIp(SourceIp {}) => Ok(Self::SourceIp),
                PolicySpecifier::FilterState(FilterState { key }) => path
                    .field("filter_state")
                    .non_empty("key", key)
                    .map(|key| Self::FilterState(key.into())),
            }
        })?;
        match policies.len() {
            0 | 1 => Ok(policies.pop()),
            n => Err(path
                .field("hash_policy")
                .reject(format!("has {n} entries; legal is one at most"))),
        }
    }

    pub(super) fn hash(&self, info: &StreamInfo) -> Option<u64> {
        match self {
            Self::SourceIp => {
                let ip = info.remote_address().ip()?;
                Some(xx_hash64(ip.to_string().as_bytes(), 0))
            }
            Self::FilterState(key) => {
                let connection = info.connection.filter_state.borrow();
                let object = info.filter_state.get(key).or_else(|| connection.get(key))?;
                object.hash()
            }
        }
    }
}
