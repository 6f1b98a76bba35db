//! `override_host`: the request names the hosts that it wants, in a header or in its metadata; another policy chooses where it
//! names none that there is.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use outrigger_proto::pb::envoy::extensions::load_balancing_policies::override_host::v3 as pb;

use crate::config::{ConfigPath, Rejected};
use crate::http::RequestHead;
use crate::matchers::{HeaderKey, HeaderSource, MetadataPath};
use crate::stream_info::DynamicMetadata;
use crate::upstream::host::{Host, WorkerHost};

/// Where requests name hosts, and where the chosen one is noted.
#[derive(Debug, Clone, PartialEq)]
pub struct OverrideHostSettings {
    sources: Box<[Source]>,
    selected_host_key: Option<MetadataPath>,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Header(HeaderKey),
    Metadata(MetadataPath),
}

/// Hosts by their addresses.
pub(super) type HostsByAddress = HashMap<Box<str>, Rc<WorkerHost>>;

impl OverrideHostSettings {
    /// All but `fallback_policy`, which is the caller's.
    pub(super) fn from_proto(
        proto: pb::OverrideHost,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::OverrideHost {
            override_host_sources,
            selected_host_key,
            fallback_policy: _,
        } = proto;
        if override_host_sources.is_empty() {
            return Err(path
                .field("override_host_sources")
                .reject("must not be empty"));
        }
        let sources = path.each(
            "override_host_sources",
            override_host_sources,
            |source, path| {
                let pb::override_host::OverrideHostSource { header, metadata } = source;
                match (header.as_str(), metadata) {
                    ("", Some(metadata)) => {
                        MetadataPath::from_proto(metadata, &path.field("metadata"))
                            .map(Source::Metadata)
                    }
                    (header, None) if !header.is_empty() => {
                        Ok(Source::Header(HeaderKey::new(header)))
                    }
                    _ => Err(path.reject("needs either header or metadata")),
                }
            },
        );
        let selected = path.optional(
            "selected_host_key",
            selected_host_key,
            MetadataPath::from_proto,
        );
        Ok(Self {
            sources: sources?.into(),
            selected_host_key: selected?,
        })
    }

    /// The addresses that a request names, the most wanted first.
    pub fn wanted(&self, head: &RequestHead, metadata: &DynamicMetadata) -> VecDeque<Box<str>> {
        let mut wanted = VecDeque::new();
        for source in &self.sources {
            let mut add = |list: &str| {
                let hosts = list.split(',').map(str::trim);
                wanted.extend(hosts.filter(|host| !host.is_empty()).map(Box::from));
            };
            match source {
                Source::Header(key) => {
                    if let Some(Ok(list)) = head.first(key).as_deref().map(std::str::from_utf8) {
                        add(list);
                    }
                }
                Source::Metadata(path) => {
                    if let Some(list) = path.find(metadata).and_then(serde_json::Value::as_str) {
                        add(list);
                    }
                }
            }
        }
        wanted
    }

    /// Notes which host was chosen, whoever chose it, if that is asked for.
    pub fn note(&self, host: &Host, metadata: &mut DynamicMetadata) {
        if let Some(path) = &self.selected_host_key {
            path.set(metadata, host.address.to_string().into());
        }
    }
}
