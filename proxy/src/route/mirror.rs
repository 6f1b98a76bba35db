//! `request_mirror_policies`: copies of requests for other clusters, whose responses nobody sees.

use outrigger_proto::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation, header_mutation::Action,
};
use outrigger_proto::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;

use super::cluster::{ClusterChoice, ClusterTarget};
use super::header_parser::HeaderParser;
use crate::config::{ConfigPath, Rejected};
use crate::http::RequestHead;
use crate::matchers::HeaderKey;
use crate::runtime::RuntimeFraction;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;
use crate::upstream::{ClusterId, NamedClusters};

/// Which requests are mirrored, where to, and how they are told from those of clients.
#[derive(Debug)]
pub struct MirrorPolicy {
    target: ClusterTarget,
    /// None: all requests.
    fraction: Option<RuntimeFraction>,
    host: MirroredHost,
    mutations: Box<[HeaderParser]>,
}

/// The authority of a mirrored request.
#[derive(Debug)]
enum MirroredHost {
    /// That of the request, with `-shadow` before the port.
    Suffix,
    Same,
    Literal(Box<str>),
}

impl MirrorPolicy {
    pub(crate) fn from_proto(
        proto: RequestMirrorPolicy,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            // Without a tracer there is nothing to sample.
            trace_sampled: _,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = proto;
        let target = match (cluster.is_empty(), cluster_header.is_empty()) {
            (false, true) => Ok(ClusterTarget::Id(cx.server.cluster_names.id(&cluster))),
            (true, false) => Ok(ClusterTarget::Header(HeaderKey::new(&cluster_header))),
            _ => Err(path.reject("needs either cluster or cluster_header")),
        };
        let fraction = path.optional("runtime_fraction", runtime_fraction, |fraction, path| {
            RuntimeFraction::from_proto(fraction, &cx.server.runtime, path)
        });
        let mutations = path.each(
            "request_headers_mutations",
            request_headers_mutations,
            |mutation, path| mutation_from_proto(mutation, cx, path),
        );
        let host = match (
            host_rewrite_literal.as_str(),
            disable_shadow_host_suffix_append,
        ) {
            ("", false) => MirroredHost::Suffix,
            ("", true) => MirroredHost::Same,
            (literal, _) => MirroredHost::Literal(literal.into()),
        };
        Ok(Self {
            target: target?,
            fraction: fraction?,
            host,
            mutations: mutations?.into_iter().flatten().collect(),
        })
    }

    /// Whether a request is mirrored.
    pub fn applies(&self, random: u64) -> bool {
        self.fraction
            .as_ref()
            .is_none_or(|fraction| fraction.contains(random))
    }

    /// Where a request is mirrored to; none if it does not say so.
    pub fn cluster(&self, head: &RequestHead, clusters: &impl NamedClusters) -> Option<ClusterId> {
        match self.target.choose(head, clusters) {
            ClusterChoice::Id(id) => Some(id),
            ClusterChoice::NotFound => None,
        }
    }

    /// Makes the copy of a head what the other cluster is to see.
    pub fn rewrite(&self, head: &mut RequestHead, info: &StreamInfo) {
        for mutation in &self.mutations {
            mutation.evaluate_request(head, info);
        }
        match &self.host {
            MirroredHost::Same => {}
            MirroredHost::Literal(host) => head.set_authority(host.as_bytes()),
            MirroredHost::Suffix => {
                let host = head.authority().unwrap_or_default();
                let mut parts = host.split(|b| *b == b':').filter(|part| !part.is_empty());
                let shadow = match (parts.next(), parts.next(), parts.next()) {
                    (Some(name), Some(port), None) => [name, b"-shadow:", port].concat(),
                    _ => [host, b"-shadow"].concat(),
                };
                head.set_authority(&shadow);
            }
        }
    }
}

fn mutation_from_proto(
    proto: HeaderMutation,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Option<HeaderParser>, Rejected> {
    let HeaderMutation { action } = proto;
    let (add, remove) = match path.required("action", action)? {
        Action::Append(add) => (vec![add], Vec::new()),
        Action::Remove(name) => (Vec::new(), vec![name]),
        Action::RemoveOnMatch(_) => {
            return Err(path.field("remove_on_match").reject("is not supported"));
        }
    };
    HeaderParser::from_proto(("append", add), ("remove", remove), cx, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;
    use crate::http::Protocol;
    use crate::net::Address;
    use crate::server::InitManager;
    use crate::server::{LocalInfo, ServerContext};
    use crate::stream_info::ConnectionInfo;
    use outrigger_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
    use std::sync::Arc;

    fn convert(proto: RequestMirrorPolicy) -> Result<MirrorPolicy, String> {
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "policy");
        let cx = FactoryContext {
            server: &server,
            scope: &server.stats.scope(""),
            init: &InitManager::new("test"),
        };
        MirrorPolicy::from_proto(proto, &cx, &path).map_err(|_| report.take()[0].to_string())
    }

    fn rewritten(authority: &str, proto: RequestMirrorPolicy) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        head.set_authority(authority.as_bytes());
        head.fields.append("x-gone", "1");
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let info = StreamInfo::new(
            ConnectionInfo::between(address(), address()).into(),
            1,
            None,
        );
        convert(RequestMirrorPolicy {
            cluster: "b".into(),
            ..proto
        })
        .unwrap()
        .rewrite(&mut head, &info);
        head
    }

    #[test]
    fn the_host_of_a_mirrored_request_says_so() {
        let authority = |host: &str, proto| {
            String::from_utf8(rewritten(host, proto).authority().unwrap().to_vec()).unwrap()
        };
        assert_eq!(
            authority("a.com", RequestMirrorPolicy::default()),
            "a.com-shadow"
        );
        assert_eq!(
            authority("a.com:80", RequestMirrorPolicy::default()),
            "a.com-shadow:80"
        );
        assert_eq!(
            authority("[::1]:80", RequestMirrorPolicy::default()),
            "[::1]:80-shadow"
        );
        let disabled = RequestMirrorPolicy {
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        };
        assert_eq!(authority("a.com", disabled), "a.com");
        let literal = RequestMirrorPolicy {
            host_rewrite_literal: "lit".into(),
            ..Default::default()
        };
        assert_eq!(authority("a.com", literal), "lit");
    }

    #[test]
    fn mutations_are_made_in_their_order() {
        let append = HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-m".into(),
                value: "m".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mutation = |action| HeaderMutation {
            action: Some(action),
        };
        let head = rewritten(
            "a",
            RequestMirrorPolicy {
                request_headers_mutations: vec![
                    mutation(Action::Append(append)),
                    mutation(Action::Remove("x-gone".into())),
                ],
                ..Default::default()
            },
        );
        assert_eq!(head.fields.get("x-m"), Some(&b"m"[..]));
        assert!(!head.fields.contains("x-gone"));
    }

    #[test]
    fn a_policy_has_exactly_one_target() {
        assert!(
            convert(RequestMirrorPolicy::default())
                .unwrap_err()
                .contains("needs either cluster or cluster_header")
        );
        let both = RequestMirrorPolicy {
            cluster: "a".into(),
            cluster_header: "b".into(),
            ..Default::default()
        };
        assert!(convert(both).is_err());
    }
}
