//! Tags: the variable parts of a stat's name, as Prometheus shows them.
//!
//! Deviations: a look-ahead in the regex of a custom tag is checked where the leftmost match puts it, without trying another
//! match when it fails there; look-behind and negative look-ahead are refused.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::matchers::Regex;

use super::default_tags::{DEFAULTS, Default as DefaultTag, Pattern};

/// Takes the tags out of names.
#[derive(Debug, Clone)]
pub(super) struct TagProducer {
    /// Tags that every stat has.
    fixed: Vec<(Arc<str>, Arc<str>)>,
    /// In the order of their use: first those that any name may match, then those that need the first part of a name.
    extractors: Vec<TagExtractor>,
}

/// A name without its tags, and the tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extracted {
    pub(super) name: String,
    pub(super) tags: Vec<(Arc<str>, Arc<str>)>,
}

/// Finds one tag in a name.
#[derive(Debug, Clone)]
pub(super) struct TagExtractor {
    name: Arc<str>,
    /// The first part that the name must have; empty for any.
    first: Cow<'static, str>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Default(&'static CompiledDefault),
    Custom(Arc<CustomRegex>),
}

#[derive(Debug)]
struct CompiledDefault {
    tag: &'static DefaultTag,
    /// Compiled when first needed.
    regex: OnceLock<Option<Regex>>,
}

/// A regex of the bootstrap; its look-aheads are matched on their own, where the empty groups that stand for them lie.
#[derive(Debug)]
struct CustomRegex {
    regex: Regex,
    look_ahead: Vec<(usize, Regex)>,
    /// The groups that the configuration counts as first and second.
    remove: usize,
    value: Option<usize>,
}

/// What is cut out of a name, and the part of it that becomes the value.
struct Found {
    remove: (usize, usize),
    value: (usize, usize),
}

static COMPILED: LazyLock<Vec<CompiledDefault>> = LazyLock::new(|| {
    let tags = DEFAULTS.iter();
    tags.map(|tag| CompiledDefault {
        tag,
        regex: OnceLock::new(),
    })
    .collect()
});

impl TagProducer {
    pub(super) fn new(fixed: Vec<(Arc<str>, Arc<str>)>, extractors: Vec<TagExtractor>) -> Self {
        let (any, with_first): (Vec<_>, Vec<_>) = extractors
            .into_iter()
            .partition(|extractor| extractor.first.is_empty());
        Self {
            fixed,
            extractors: any.into_iter().chain(with_first).collect(),
        }
    }

    /// Takes the tags out of `name`. Each tag is found once: what comes later under its name is left where it is.
    pub(super) fn extract(&self, name: &str) -> Extracted {
        let mut tags = self.fixed.clone();
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        let first = name.split('.').next().unwrap_or_default();
        for extractor in &self.extractors {
            if !extractor.first.is_empty() && extractor.first != first {
                continue;
            }
            if tags.iter().any(|(tag, _)| *tag == extractor.name) {
                continue;
            }
            if let Some(found) = extractor.find(name) {
                let value = name[found.value.0..found.value.1].into();
                tags.push((extractor.name.clone(), value));
                cuts.push(found.remove);
            }
        }
        cuts.sort_unstable();
        let mut rest = String::with_capacity(name.len());
        let mut kept_to = 0;
        for (start, end) in cuts {
            rest.push_str(name.get(kept_to..start).unwrap_or_default());
            kept_to = kept_to.max(end);
        }
        rest.push_str(&name[kept_to..]);
        Extracted { name: rest, tags }
    }
}

impl Default for TagProducer {
    fn default() -> Self {
        Self::new(Vec::new(), TagExtractor::defaults().collect())
    }
}

impl TagExtractor {
    /// Envoy's default tags, in its order.
    pub(super) fn defaults() -> impl Iterator<Item = Self> {
        COMPILED.iter().map(|compiled| Self {
            name: compiled.tag.name.into(),
            first: compiled.tag.first.into(),
            kind: Kind::Default(compiled),
        })
    }

    /// A tag with a regex of its own, whose first group is cut out; its second group, if it has one, is the value.
    pub(super) fn custom(name: &str, regex: &str) -> Result<Self, String> {
        Ok(Self {
            name: name.into(),
            first: first_part(regex).to_owned().into(),
            kind: Kind::Custom(Arc::new(CustomRegex::new(regex)?)),
        })
    }

    pub(super) fn tag_name(&self) -> &str {
        &self.name
    }

    fn find(&self, name: &str) -> Option<Found> {
        match &self.kind {
            Kind::Custom(regex) => regex.find(name),
            Kind::Default(compiled) => compiled.find(name),
        }
    }
}

impl CompiledDefault {
    fn find(&self, name: &str) -> Option<Found> {
        match self.tag.pattern {
            Pattern::Tokens(pattern) => find_token(pattern, name),
            Pattern::Regex { within, regex } => {
                if !name.contains(within) {
                    return None;
                }
                // A test compiles all of them.
                let regex = self.regex.get_or_init(|| Regex::new(regex).ok());
                let regex = regex.as_ref()?;
                let groups = regex.captures(name.as_bytes())?;
                let remove = groups.get(1)?;
                let value = groups.get(2).unwrap_or(remove);
                if self.tag.never == Some(&name[value.start()..value.end()]) {
                    return None;
                }
                Some(Found {
                    remove: (remove.start(), remove.end()),
                    value: (value.start(), value.end()),
                })
            }
        }
    }
}

impl CustomRegex {
    fn new(pattern: &str) -> Result<Self, String> {
        let (pattern, asserted) = split_look_ahead(pattern)?;
        let regex = Regex::new(&pattern)?;
        let look_ahead = asserted
            .iter()
            .map(|(group, inner)| Ok((*group, Regex::new(&format!("^(?:{inner})"))?)))
            .collect::<Result<Vec<_>, String>>()?;
        let mut counted =
            (1..=regex.group_count()).filter(|g| !asserted.iter().any(|(of, _)| of == g));
        Ok(Self {
            remove: counted
                .next()
                .ok_or("it has no group, and the first group is what is cut out")?,
            value: counted.next(),
            look_ahead,
            regex,
        })
    }

    fn find(&self, name: &str) -> Option<Found> {
        let groups = self.regex.captures(name.as_bytes())?;
        let holds = |(group, regex): &(usize, Regex)| {
            groups
                .get(*group)
                .is_none_or(|at| regex.is_partial_match(&name.as_bytes()[at.start()..]))
        };
        let remove = groups.get(self.remove)?;
        let value = self.value.map_or(Some(remove), |v| groups.get(v));
        if !self.look_ahead.iter().all(holds) {
            return None;
        }
        let value = value.map_or((remove.end(), remove.end()), |v| (v.start(), v.end()));
        // A name is UTF-8, and what lies between two characters of it may be cut.
        let whole = |at: (usize, usize)| name.is_char_boundary(at.0) && name.is_char_boundary(at.1);
        let remove = (remove.start(), remove.end());
        (whole(remove) && whole(value)).then_some(Found { remove, value })
    }
}

/// The part of a name, before its first dot, that a regex asks for; empty if it asks for none.
fn first_part(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix('^') else {
        return "";
    };
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(0);
    let (word, after) = rest.split_at(end);
    if after.starts_with("\\.") || after.starts_with("(?=\\.)") || after == "$" {
        word
    } else {
        ""
    }
}

/// Puts an empty group in the place of each `(?=…)`, and gives the number of that group and what it asserts.
fn split_look_ahead(pattern: &str) -> Result<(String, Vec<(usize, String)>), String> {
    let mut out = String::with_capacity(pattern.len());
    let mut found = Vec::new();
    let mut groups = 0;
    let mut in_class = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            '\\' => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if in_class => {}
            '(' if rest.starts_with("(?=") => {
                let end = closing(rest).ok_or("missing )")?;
                groups += 1;
                found.push((groups, rest[3..end].to_owned()));
                out.push_str("()");
                rest = &rest[end + 1..];
                continue;
            }
            '(' if !rest.starts_with("(?") => groups += 1,
            _ => {}
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Ok((out, found))
}

/// Where the group closes that opens with the first character.
fn closing(pattern: &str) -> Option<usize> {
    let mut depth = 0;
    let mut escaped = false;
    for (at, c) in pattern.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Matches a name part by part: `$` is the value, `*` any part, `**` any number of parts,
/// but at the end one at least.
fn find_token(pattern: &[&str], name: &str) -> Option<Found> {
    let start = match_tokens(pattern, name, 0)?;
    let end = name[start..].find('.').map_or(name.len(), |at| start + at);
    // With the dot behind it; no pattern ends in its value.
    let remove = (start, (end + 1).min(name.len()));
    Some(Found {
        remove,
        value: (start, end),
    })
}

/// Where the value begins, if the parts of `name` from `at` on match. `name.len() + 1` stands behind the last part.
fn match_tokens(pattern: &[&str], name: &str, at: usize) -> Option<usize> {
    let Some((first, others)) = pattern.split_first() else {
        // Nothing captured here: the caller that saw `$` puts its own place in.
        return (at > name.len()).then_some(usize::MAX);
    };
    let next = |at: usize| {
        name[at..]
            .find('.')
            .map_or(name.len() + 1, |dot| at + dot + 1)
    };
    if *first == "**" {
        if others.is_empty() && at > name.len() {
            return None;
        }
        let mut at = at;
        loop {
            if let Some(found) = match_tokens(others, name, at) {
                return Some(found);
            }
            if at > name.len() {
                return None;
            }
            at = next(at);
        }
    }
    if at > name.len() {
        return None;
    }
    let after = next(at);
    match *first {
        "$" => match_tokens(others, name, after).map(|_| at),
        "*" => match_tokens(others, name, after),
        word if name[at..after - 1] == *word => match_tokens(others, name, after),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(name: &str) -> (String, Vec<(String, String)>) {
        let Extracted { name, tags } = TagProducer::default().extract(name);
        let tags = tags.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        (name, tags.collect())
    }

    #[test]
    fn every_default_tag_compiles() {
        for tag in &DEFAULTS {
            if let Pattern::Regex { regex, .. } = tag.pattern {
                Regex::new(regex).unwrap_or_else(|error| panic!("{}: {error}", tag.name));
            }
        }
    }

    /// Name, name without tags, tags without `envoy.`: as Envoy shows the same stats.
    const SHOWN_BY_ENVOY: &[(&str, &str, &str)] = &[
        (
            "cluster_manager.active_clusters",
            "cluster_manager.active_clusters",
            "",
        ),
        (
            "cluster.a.upstream_rq_200",
            "cluster.upstream_rq",
            "response_code=200 cluster_name=a",
        ),
        (
            "cluster.a.upstream_rq_2xx",
            "cluster.upstream_rq_xx",
            "response_code_class=2 cluster_name=a",
        ),
        ("cluster.b.c.x", "cluster.c.x", "cluster_name=b"),
        (
            "http.ing.rbac.rsp.policy.p1.allowed",
            "http.rbac.policy.allowed",
            "rbac_policy_name=p1 rbac_http_prefix=rsp http_conn_manager_prefix=ing",
        ),
        (
            "http.ing.rds.my.route.config_reload",
            "http.rds.config_reload",
            "rds_route_config=my.route http_conn_manager_prefix=ing",
        ),
        (
            "hlr.http_local_rate_limit.enabled",
            "http_local_rate_limit.enabled",
            "local_http_ratelimit_prefix=hlr",
        ),
        (
            "listener.admin.downstream_cx_total",
            "listener.admin.downstream_cx_total",
            "",
        ),
        (
            "listener.admin.http.admin.downstream_rq_2xx",
            "listener.admin.http.downstream_rq_xx",
            "response_code_class=2 http_conn_manager_prefix=admin",
        ),
        (
            "listener.[__1]_29913.http.ing.downstream_rq_1xx",
            "listener.http.downstream_rq_xx",
            "response_code_class=1 http_conn_manager_prefix=ing listener_address=[__1]_29913",
        ),
        (
            "listener.0.0.0.0_80.downstream_cx_total",
            "listener.downstream_cx_total",
            "listener_address=0.0.0.0_80",
        ),
        (
            "listener.0.0.0.0_80.worker_0.downstream_cx_total",
            "listener.worker_downstream_cx_total",
            "worker_id=0 listener_address=0.0.0.0_80",
        ),
        (
            "listener.[__1]_1.ssl.ciphers.TLS_AES_256_GCM_SHA384",
            "listener.ssl.ciphers",
            "ssl_cipher=TLS_AES_256_GCM_SHA384 listener_address=[__1]_1",
        ),
        (
            "listener.[__1]_1.ssl.versions.TLSv1.3",
            "listener.ssl.versions",
            "ssl_version=TLSv1.3 listener_address=[__1]_1",
        ),
        (
            "listener.[__1]_1.ssl.curves.X25519",
            "listener.ssl.curves",
            "ssl_curve=X25519 listener_address=[__1]_1",
        ),
        (
            "listener.[__1]_1.ssl.certificate.cert.expiration_unix_time_seconds",
            "listener.ssl.certificate.expiration_unix_time_seconds",
            "tls_certificate=cert listener_address=[__1]_1",
        ),
        (
            "listener_local_ratelimit.llr.rate_limited",
            "listener_local_ratelimit.rate_limited",
            "local_listener_ratelimit_prefix=llr",
        ),
        (
            "local_rate_limit.nlr.rate_limited",
            "local_rate_limit.rate_limited",
            "local_network_ratelimit_prefix=nlr",
        ),
        (
            "proxy_proto.pp.versions.v1.disallowed",
            "proxy_proto.disallowed",
            "proxy_protocol_prefix=pp proxy_protocol_version=1",
        ),
        (
            "proxy_proto.pp.not_found_allowed",
            "proxy_proto.not_found_allowed",
            "proxy_protocol_prefix=pp",
        ),
        ("nrb.rbac.allowed", "rbac.allowed", "rbac_prefix=nrb"),
        (
            "server.worker_0.watchdog_miss",
            "server.worker_watchdog_miss",
            "worker_id=0",
        ),
        ("server.uptime", "server.uptime", ""),
        (
            "tcp.tp.downstream_cx_drain_close",
            "tcp.downstream_cx_drain_close",
            "tcp_prefix=tp",
        ),
        (
            "vhost.v.route.rt.upstream_rq_200",
            "vhost.route.upstream_rq",
            "response_code=200 virtual_host=v route=rt",
        ),
        (
            "vhost.v.vcluster.vc.upstream_rq_2xx",
            "vhost.vcluster.upstream_rq_xx",
            "response_code_class=2 virtual_cluster=vc virtual_host=v",
        ),
        (
            "connection_limit.cl.limited_connections",
            "connection_limit.limited_connections",
            "connection_limit_prefix=cl",
        ),
        (
            "mongo.m.collection.c.callsite.s.query.total",
            "mongo.collection.callsite.query.total",
            "mongo_callsite=s mongo_collection=c mongo_prefix=m",
        ),
        (
            "cluster.a.grpc.Svc.Method.success",
            "cluster.grpc.success",
            "grpc_bridge_method=Method grpc_bridge_service=Svc cluster_name=a",
        ),
    ];

    #[test]
    fn names_fall_apart_as_in_envoy() {
        for (name, rest, tags) in SHOWN_BY_ENVOY {
            let (found, found_tags) = extract(name);
            let found_tags: Vec<_> = found_tags
                .iter()
                .map(|(n, v)| format!("{}={v}", n.strip_prefix("envoy.").unwrap()))
                .collect();
            assert_eq!(
                (found.as_str(), found_tags.join(" ").as_str()),
                (*rest, *tags),
                "{name}"
            );
        }
    }

    #[test]
    fn a_look_ahead_that_does_not_hold_is_no_match() {
        let tag = TagExtractor::custom("t", r"^a(?=\.b).*?\.((\w+)\.)").unwrap();
        assert!(tag.find("a.b.c.d").is_some());
        assert!(tag.find("a.x.c.d").is_none());
    }

    #[test]
    fn a_name_that_ends_in_a_value_has_no_tag() {
        let producer = TagProducer::default();
        for name in ["cluster.a", "http.ing", "cluster", "", "."] {
            assert_eq!(producer.extract(name).tags, [], "{name}");
        }
        assert_eq!(
            producer.extract("http.ing.fault.active_faults").name,
            "http.fault.active_faults"
        );
    }
}
