//! The verdict of a connection manager, with the configuration behind it.

use std::time::Duration;

use outrigger_proto::any;
use outrigger_proto::json::{Style, to_json};
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy,
};
use outrigger_proto::pb::envoy::config::route::v3 as route;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use pb::http_connection_manager::RouteSpecifier;
use pb::http_filter::ConfigType;
use prost::Name;
use route::route_action::ClusterSpecifier;
use serde::Serialize;
use serde_json::Value;

use super::verdict::{HttpVerdict, Limits, Verdict};
use super::{Configuration, Outcome};
use crate::http::RequestHead;
use crate::route::{Action, SelectedRoute, Selection, Unmet, routes_in};

/// What becomes of an HTTP request.
#[derive(Debug, Serialize)]
pub struct HttpExplained {
    /// `HttpConnectionManager.stat_prefix`.
    pub stat_prefix: String,
    /// The name of the route configuration; empty if it has none.
    pub route_config: String,
    /// The request as the route look-up sees it.
    pub request: RequestShown,
    /// The connection manager refuses it before it is routed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The virtual host; none: no domain matches.
    pub virtual_host: Option<VirtualHostTaken>,
    /// What keeps the request from a virtual host that it may be meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The routes before the one that is taken (or all of them), with the reason why each is not.
    pub lost: Vec<LostRoute>,
    /// The route that is taken; none: the answer is 404, with the flag `NR`.
    pub route: Option<RouteTaken>,
    /// The HTTP filters in order.
    pub filters: Vec<FilterShown>,
}

/// A request as the proxy sees it.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the parts of a request")]
pub struct RequestShown {
    pub method: String,
    pub authority: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// An answer of the connection manager.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Its status.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: String,
}

/// The virtual host that a request belongs to.
#[derive(Debug, Serialize)]
pub struct VirtualHostTaken {
    /// Its place in `virtual_hosts`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its domains, of which one matches.
    pub domains: Vec<String>,
}

/// A route that is not taken.
#[derive(Debug, Serialize)]
pub struct LostRoute {
    /// Its place in `routes`.
    pub index: usize,
    /// Its name; empty if it has none.
    pub name: String,
    /// The field of its `match` that the request does not meet, such as `headers[0]`.
    pub unmet: String,
    /// What that field holds.
    pub wants: Value,
}

/// The route that is taken.
#[derive(Debug, Serialize)]
pub struct RouteTaken {
    /// Its place in `routes`.
    pub index: usize,
    /// Its name; empty if it has none.
    pub name: String,
    /// What it matches.
    #[serde(rename = "match")]
    pub criteria: Value,
    /// The share of the requests like this one that it takes, in percent, where chance decides (`runtime_fraction`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_fraction: Option<Value>,
    /// What it answers by itself: a redirect or a direct response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answer>,
    /// The clusters it may send the request to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ClusterTaken>,
    /// The request as the cluster gets it, filters aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_request: Option<RequestShown>,
    /// The limits in force, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<LimitsShown>,
    /// The retry policy in force: the route's, or else that of its virtual host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<Value>,
}

/// An answer of a route.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Its status.
    pub status: u32,
    /// Where the client is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// Timeouts in seconds; none: no limit.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields of Limits")]
pub struct LimitsShown {
    pub timeout: Option<f64>,
    pub per_try_timeout: Option<f64>,
    pub per_try_idle_timeout: Option<f64>,
}

/// A cluster and its share.
#[derive(Debug, Serialize)]
pub struct Share {
    /// Its name.
    pub cluster: String,
    /// How often it is chosen, in percent.
    pub percent: f64,
}

/// A cluster that a request may go to.
#[derive(Debug, Serialize)]
pub struct ClusterTaken {
    /// Its name.
    pub name: String,
    /// How often it is chosen, in percent.
    pub percent: f64,
    /// How its hosts are found; none: there is no such cluster, and the answer is `cluster_not_found_response_code`.
    #[serde(rename = "type")]
    pub discovery: Option<String>,
    /// How a host is chosen.
    pub lb_policy: Option<String>,
    /// The endpoints in its configuration.
    pub endpoints: Option<usize>,
}

/// An HTTP filter.
#[derive(Debug, Serialize)]
pub struct FilterShown {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub runs: bool,
    /// Who has decided that, if it was not the list of filters itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Its configuration.
    pub config: Value,
    /// Configurations of its own at levels nearer to the route, which it merges or takes instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_route: Vec<(String, Value)>,
}

pub(super) fn outcome(
    verdict: Verdict,
    filter: Option<&Any>,
    configuration: &Configuration,
) -> Outcome {
    match verdict {
        Verdict::Http(verdict) => {
            let manager = filter.and_then(|f| any::decode(f).ok()).unwrap_or_default();
            let explained = Manager::new(manager, configuration).explain(&verdict);
            Outcome::Http(Box::new(explained))
        }
        Verdict::Tcp(clusters) => Outcome::Tcp(shares(clusters)),
        Verdict::Other => {
            let name = filter.map(|f| any::type_name(&f.type_url).to_owned());
            Outcome::Other(name.unwrap_or_default())
        }
    }
}

/// A message in canonical JSON.
pub(super) fn json_of<M: Name>(message: &M) -> Value {
    let json = to_json(message, Style::default()).unwrap_or_default();
    serde_json::from_str(&json).unwrap_or_default()
}

/// The configuration of a connection manager.
struct Manager<'a> {
    proto: pb::HttpConnectionManager,
    routes: route::RouteConfiguration,
    configuration: &'a Configuration,
}

impl<'a> Manager<'a> {
    fn new(mut proto: pb::HttpConnectionManager, configuration: &'a Configuration) -> Self {
        let mut routes = match proto.route_specifier.take() {
            Some(RouteSpecifier::RouteConfig(routes)) => routes,
            Some(RouteSpecifier::Rds(rds)) => {
                let name = &rds.route_config_name;
                let found = configuration.routes.iter().find(|r| r.name == *name);
                found.cloned().unwrap_or_default()
            }
            Some(RouteSpecifier::ScopedRoutes(_)) | None => route::RouteConfiguration::default(),
        };
        for host in &mut routes.virtual_hosts {
            host.routes.extend(host.matcher.iter().flat_map(routes_in));
        }
        Self {
            proto,
            routes,
            configuration,
        }
    }

    fn explain(&self, verdict: &HttpVerdict) -> HttpExplained {
        let lookup = verdict.lookup.as_ref();
        let host = lookup.and_then(|l| l.virtual_host);
        let host = host.and_then(|at| Some((at, self.routes.virtual_hosts.get(at as usize)?)));
        let lost = lookup.map(|l| l.lost.as_slice()).unwrap_or_default();
        let lost = lost.iter().filter_map(|(at, unmet)| {
            let route = host?.1.routes.get(*at as usize)?;
            Some(lost_route(*at as usize, route, unmet))
        });
        HttpExplained {
            stat_prefix: self.proto.stat_prefix.clone(),
            route_config: self.routes.name.clone(),
            request: RequestShown::of(&verdict.head),
            refused: refused(verdict),
            lost: lost.collect(),
            hint: self.hint(verdict),
            virtual_host: host.map(|(at, host)| VirtualHostTaken {
                index: at as usize,
                name: host.name.clone(),
                domains: host.domains.clone(),
            }),
            route: verdict
                .selected
                .as_ref()
                .and_then(|selected| self.route_taken(selected, verdict)),
            filters: self.filters(verdict),
        }
    }

    /// Domains hold the port as well, which few people expect.
    fn hint(&self, verdict: &HttpVerdict) -> Option<String> {
        let host = verdict.lookup.as_ref()?.virtual_host_without_port?;
        let name = &self.routes.virtual_hosts.get(host as usize)?.name;
        Some(format!(
            "without its port the authority would belong to \"{name}\": strip_any_host_port or ignore_port_in_host_matching does that"
        ))
    }

    fn route_proto(
        &self,
        selected: &SelectedRoute,
    ) -> Option<(&route::VirtualHost, &route::Route)> {
        let host = &self
            .routes
            .virtual_hosts
            .get(selected.index.virtual_host as usize)?;
        Some((host, host.routes.get(selected.index.route as usize)?))
    }

    fn route_taken(&self, selected: &SelectedRoute, verdict: &HttpVerdict) -> Option<RouteTaken> {
        let (host, proto) = self.route_proto(selected)?;
        let criteria = proto.r#match.as_ref();
        let action = match &proto.action {
            Some(route::route::Action::Route(action)) => Some(action),
            _ => None,
        };
        let retry = action.and_then(|a| a.retry_policy.as_ref());
        let retry = retry.or_else(|| action.and(host.retry_policy.as_ref()));
        Some(RouteTaken {
            index: selected.index.route as usize,
            name: proto.name.clone(),
            criteria: criteria.map(json_of).unwrap_or_default(),
            runtime_fraction: criteria
                .and_then(|m| m.runtime_fraction.as_ref())
                .map(json_of),
            answers: self.answer(selected, verdict, proto),
            clusters: action
                .map_or_else(Vec::new, |action| self.clusters(action, selected, verdict)),
            upstream_request: action.map(|_| {
                let mut head = verdict.head.clone();
                selected.finalize_request_headers(&mut head, &verdict.info, true);
                RequestShown::of(&head)
            }),
            timeouts: verdict.limits.map(LimitsShown::of),
            retry_policy: retry.map(json_of),
        })
    }

    fn answer(
        &self,
        selected: &SelectedRoute,
        verdict: &HttpVerdict,
        proto: &route::Route,
    ) -> Option<Answer> {
        let location = selected
            .redirect_location(&verdict.head, &verdict.info)
            .map(|location| String::from_utf8_lossy(&location).into_owned());
        match (&selected.route().action, &proto.action) {
            (Action::Redirect(redirect), _) => Some(Answer {
                status: redirect.status.into(),
                location,
            }),
            (_, Some(route::route::Action::DirectResponse(direct))) => Some(Answer {
                status: direct.status,
                location,
            }),
            _ => None,
        }
    }

    fn clusters(
        &self,
        action: &route::RouteAction,
        selected: &SelectedRoute,
        verdict: &HttpVerdict,
    ) -> Vec<ClusterTaken> {
        let named_by = |header: &str| {
            let value = verdict.head.fields.get(header).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let weighted = match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1)],
            Some(ClusterSpecifier::ClusterHeader(header)) => vec![(named_by(header), 1)],
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                let weights = selected.weights();
                let entries = weighted.clusters.iter().zip(weights);
                let named = entries.map(|(entry, weight)| {
                    let name = match entry.name.is_empty() {
                        true => named_by(&entry.cluster_header),
                        false => entry.name.clone(),
                    };
                    (name, weight)
                });
                named.collect()
            }
            _ => Vec::new(),
        };
        shares(weighted)
            .into_iter()
            .map(|share| self.cluster(share))
            .collect()
    }

    fn cluster(&self, share: Share) -> ClusterTaken {
        let clusters = &self.configuration.clusters;
        let proto = clusters.iter().find(|c| c.name == share.cluster);
        ClusterTaken {
            percent: share.percent,
            discovery: proto.map(discovery),
            lb_policy: proto.map(lb_policy),
            endpoints: proto.map(|cluster| {
                let localities = cluster.load_assignment.iter().flat_map(|a| &a.endpoints);
                localities.map(|l| l.lb_endpoints.len()).sum()
            }),
            name: share.cluster,
        }
    }

    fn filters(&self, verdict: &HttpVerdict) -> Vec<FilterShown> {
        let shown = self.proto.http_filters.iter().map(|filter| {
            let verdict_of = verdict.filters.iter().find(|v| *v.name == *filter.name);
            // The router is at the end of every list, and always runs.
            let (on, by_route) = verdict_of.map_or((true, false), |v| (v.on, v.by_route));
            let because = match (on, by_route) {
                (_, true) => Some("typed_per_filter_config of the route".to_owned()),
                (false, false) => Some("disabled in http_filters".to_owned()),
                (true, false) => None,
            };
            FilterShown {
                name: filter.name.clone(),
                runs: on,
                because,
                config: match &filter.config_type {
                    Some(ConfigType::TypedConfig(any)) => json_of(any),
                    Some(ConfigType::ConfigDiscovery(source)) => json_of(source),
                    None => Value::Null,
                },
                per_route: self.per_route(&filter.name, verdict),
            }
        });
        shown.collect()
    }

    /// What table, virtual host, route and weighted cluster say of a filter, the most specific last.
    fn per_route(&self, filter: &str, verdict: &HttpVerdict) -> Vec<(String, Value)> {
        let Some(selected) = &verdict.selected else {
            return Vec::new();
        };
        let Some((host, proto)) = self.route_proto(selected) else {
            return Vec::new();
        };
        let weighted = match &proto.action {
            Some(route::route::Action::Route(action)) => match &action.cluster_specifier {
                Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                    let at = selected.index.weighted_cluster;
                    at.and_then(|at| weighted.clusters.get(at as usize))
                }
                _ => None,
            },
            _ => None,
        };
        let levels = [
            ("route_config", Some(&self.routes.typed_per_filter_config)),
            ("virtual_host", Some(&host.typed_per_filter_config)),
            ("route", Some(&proto.typed_per_filter_config)),
            (
                "weighted_cluster",
                weighted.map(|w| &w.typed_per_filter_config),
            ),
        ];
        let configs = levels
            .into_iter()
            .filter_map(|(level, map)| Some((level.to_owned(), json_of(map?.get(filter)?))));
        configs.collect()
    }
}

fn refused(verdict: &HttpVerdict) -> Option<Refused> {
    let tls = verdict.lookup.as_ref().map(|l| l.selection) == Some(Selection::RequireTls);
    let by_tls = || Refused {
        status: 301,
        details: "the virtual host requires TLS".to_owned(),
    };
    let by_manager = |(status, details): &(u16, String)| Refused {
        status: *status,
        details: details.clone(),
    };
    let refused = verdict.refused.as_ref().map(by_manager);
    refused.or_else(|| tls.then(by_tls))
}

fn lost_route(index: usize, proto: &route::Route, unmet: &Unmet) -> LostRoute {
    let criteria = proto.r#match.as_ref().map(json_of).unwrap_or_default();
    let (unmet, wants) = match unmet {
        Unmet::Path => {
            let kinds = criteria.as_object().into_iter().flatten();
            let mut path = kinds
                .filter(|(name, _)| !NOT_PATH.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()));
            path.next_back().unwrap_or_default()
        }
        Unmet::Criterion { field, index: None } => ((*field).to_owned(), criteria[*field].clone()),
        Unmet::Criterion {
            field,
            index: Some(at),
        } => (format!("{field}[{at}]"), criteria[*field][*at].clone()),
    };
    LostRoute {
        index,
        name: proto.name.clone(),
        unmet,
        wants,
    }
}

/// The fields of a `RouteMatch` that are not about the path.
const NOT_PATH: [&str; 9] = [
    "case_sensitive",
    "runtime_fraction",
    "headers",
    "query_parameters",
    "cookies",
    "grpc",
    "tls_context",
    "dynamic_metadata",
    "filter_state",
];

#[allow(
    clippy::cast_precision_loss,
    reason = "weights are far below the numbers that a float cannot hold"
)]
fn shares(weighted: Vec<(String, u64)>) -> Vec<Share> {
    let total: u64 = weighted.iter().map(|(_, weight)| weight).sum();
    let shares = weighted.into_iter().map(|(cluster, weight)| Share {
        cluster,
        percent: 100.0 * weight as f64 / total.max(1) as f64,
    });
    shares.collect()
}

fn discovery(cluster: &Cluster) -> String {
    match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_or("?", |k| k.as_str_name())
            .to_owned(),
        Some(ClusterDiscoveryType::ClusterType(custom)) => custom.name.clone(),
        None => DiscoveryType::Static.as_str_name().to_owned(),
    }
}

fn lb_policy(cluster: &Cluster) -> String {
    let typed = cluster
        .load_balancing_policy
        .iter()
        .flat_map(|p| &p.policies);
    let typed = typed
        .filter_map(|p| p.typed_extension_config.as_ref())
        .next();
    typed.map_or_else(
        || {
            LbPolicy::try_from(cluster.lb_policy)
                .map_or("?", |p| p.as_str_name())
                .to_owned()
        },
        |policy| policy.name.clone(),
    )
}

impl RequestShown {
    fn of(head: &RequestHead) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = head.fields.iter();
        Self {
            method: text(head.method_bytes()),
            authority: text(head.authority().unwrap_or_default()),
            path: text(head.path().unwrap_or_default()),
            headers: fields
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
        }
    }
}

impl LimitsShown {
    fn of(limits: Limits) -> Self {
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        Self {
            timeout: seconds(limits.timeout),
            per_try_timeout: seconds(limits.per_try_timeout),
            per_try_idle_timeout: seconds(limits.per_try_idle_timeout),
        }
    }
}
