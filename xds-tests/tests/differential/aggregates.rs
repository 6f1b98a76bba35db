//! `envoy.clusters.aggregate`: the priorities of several clusters as those of one.

use crate::case::{Case, With, case, get, http1, ok, reply, status};

pub fn cases() -> Vec<Case> {
    [members(), health(), retries(), stats()]
        .into_iter()
        .flatten()
        .collect()
}

/// The cluster `agg_@stat` of these members.
fn aggregate(members: &str, fields: &str) -> String {
    format!(
        "- name: agg_@stat\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n  cluster_type:\n    name: envoy.clusters.aggregate\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig\n      clusters: [{members}]\n{}",
        crate::case::indent(fields, 2)
    )
}

/// An endpoint at this backend, with more fields.
fn host(backend: &str, fields: &str) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{backend} }} }} }}{fields} }}"
    )
}

const SICK: &str = ", health_status: UNHEALTHY";
const DEGRADED: &str = ", health_status: DEGRADED";

/// A cluster `NAME_@stat` with priorities of these hosts.
fn cluster(name: &str, priorities: &[&[String]], fields: &str) -> String {
    let localities: Vec<_> = (0..)
        .zip(priorities)
        .map(|(priority, hosts)| {
            format!(
                "{{ priority: {priority}, lb_endpoints: [{}] }}",
                hosts.join(", ")
            )
        })
        .collect();
    format!(
        "- name: {name}_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{}] }}\n{}",
        localities.join(", "),
        crate::case::indent(fields, 2)
    )
}

/// All requests go to the aggregate, whose backends say `first`, `second` and `third`.
fn to(title: &'static str, clusters: &[String]) -> Case {
    clusters
        .iter()
        .fold(case(title), |case, yaml| case.clusters(yaml))
        .routes("- match: { prefix: / }\n  route: { cluster: agg_@stat }")
        .reply(reply(ok("first")))
        .and_backend("other", http1(reply(ok("second"))))
        .and_backend("third", http1(reply(ok("third"))))
}

fn times(case: Case, count: usize) -> Case {
    (0..count).fold(case, |case, _| case.get("/"))
}

fn members() -> Vec<Case> {
    let two = |title: &'static str, agg: &str, a: &str, b: &str| {
        to(
            title,
            &[
                aggregate(agg, ""),
                cluster("a", &[&[host("backend", a)]], ""),
                cluster("b", &[&[host("other", b)]], ""),
            ],
        )
    };
    vec![
        times(two("the first member of an aggregate serves while it is healthy", "a_@stat, b_@stat", "", ""), 4)
            .both()
            .shows(["< body first", "log cluster=agg_@stat"])
            .lacks(["< body second"]),
        times(two("the next member of an aggregate takes over from one that is not healthy", "a_@stat, b_@stat", SICK, ""), 4)
            .shows(["< body second"])
            .lacks(["< body first"]),
        two("a member of an aggregate that is not there is passed over", "nobody, b_@stat", "", "")
            .get("/")
            .shows(["< body second"]),
        two("an aggregate whose members are not there has no host", "nobody, noone", "", "")
            .get("/")
            .shows(["< 503", "log flags=UH", "< body no healthy upstream", "log cluster=agg_@stat"]),
        two("an aggregate that is its own member passes itself over", "agg_@stat, b_@stat", "", "")
            .get("/")
            .shows(["< body second"]),
        to(
            "an aggregate in an aggregate has no hosts",
            &[
                aggregate("inner_@stat", ""),
                aggregate("a_@stat", "").replace("name: agg_@stat", "name: inner_@stat"),
                cluster("a", &[&[host("backend", "")]], ""),
            ],
        )
        .get("/")
        .shows(["< 503", "log flags=UH"]),
        two("a member of an aggregate may be there twice", "a_@stat, a_@stat", "", "")
            .get("/")
            .shows(["< body first"]),
        to(
            "members of an aggregate without hosts are passed over",
            &[
                aggregate("a_@stat, b_@stat", ""),
                cluster("a", &[], ""),
                cluster("b", &[&[host("other", "")]], ""),
            ],
        )
        .get("/")
        .shows(["< body second"]),
        to(
            "an aggregate takes the typed policy of clusters that choose themselves",
            &[
                aggregate("a_@stat", "load_balancing_policy: { policies: [{ typed_extension_config: { name: p, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided } } }] }")
                    .replace("  lb_policy: CLUSTER_PROVIDED\n", ""),
                cluster("a", &[&[host("backend", "")]], ""),
            ],
        )
        .get("/")
        .shows(["< body first"]),
        to(
            "a member of an aggregate whose hosts are resolved by name serves",
            &[
                aggregate("dns_@stat", ""),
                "- name: dns_@stat\n  type: STRICT_DNS\n  dns_lookup_family: V4_ONLY\n  load_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: localhost, port_value: @port:other } } } }] }] }\n".to_owned(),
            ],
        )
        .get("/")
        .shows(["< body second"]),
        times(
            to(
                "the member of an aggregate balances its hosts by its own policy",
                &[
                    aggregate("a_@stat", ""),
                    cluster(
                        "a",
                        &[&[
                            host("backend", ", metadata: { filter_metadata: { envoy.lb: { hash_key: one } } }"),
                            host("other", ", metadata: { filter_metadata: { envoy.lb: { hash_key: two } } }"),
                        ]],
                        "lb_policy: RING_HASH",
                    ),
                ],
            )
            .routes("- match: { prefix: / }\n  route: { cluster: agg_@stat, hash_policy: [{ header: { header_name: key } }] }"),
            0,
        )
        .send(get("/").field("key", "a"))
        .send(get("/").field("key", "b"))
        .send(get("/").field("key", "c"))
        .send(get("/").field("key", "d"))
        .send(get("/").field("key", "e"))
        .shows(["< body first", "< body second"]),
        to(
            "the member of an aggregate takes the subset that the route asks for",
            &[
                aggregate("a_@stat", ""),
                cluster(
                    "a",
                    &[&[
                        host("backend", ", metadata: { filter_metadata: { envoy.lb: { v: 1 } } }"),
                        host("other", ", metadata: { filter_metadata: { envoy.lb: { v: 2 } } }"),
                    ]],
                    "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
                ),
            ],
        )
        .routes("- match: { prefix: / }\n  route: { cluster: agg_@stat, metadata_match: { filter_metadata: { envoy.lb: { v: 2 } } } }")
        .get("/")
        .get("/")
        .shows(["< body second"])
        .lacks(["< body first"]),
        to(
            "a stream of HTTP/2 goes to the member of an aggregate that speaks it",
            &[
                aggregate("@backend", ""),
            ],
        )
        .upstream_http2()
        .get("/")
        .shows(["< body first"]),
        case("a TCP proxy reaches the member of an aggregate")
            .clusters(&aggregate("@backend", ""))
            .network("- name: t\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n    cluster: agg_@stat")
            .get("/")
            .stats(["cluster.@backend.upstream_cx_total"])
            .shows(["< body hello", "stat cluster.@backend.upstream_cx_total: 1"]),
    ]
}

fn health() -> Vec<Case> {
    vec![
        times(
            to(
                "priorities of the members of an aggregate stand one after another",
                &[
                    aggregate("a_@stat, b_@stat", ""),
                    cluster("a", &[&[host("backend", SICK)], &[host("other", "")]], ""),
                    cluster("b", &[&[host("third", "")]], ""),
                ],
            ),
            4,
        )
        .shows(["< body second"])
        .lacks(["< body first", "< body third"]),
        times(
            to(
                "degraded hosts of an aggregate serve when no member has healthy ones",
                &[
                    aggregate("a_@stat, b_@stat", ""),
                    cluster("a", &[&[host("backend", SICK)]], ""),
                    cluster("b", &[&[host("other", DEGRADED)]], ""),
                ],
            ),
            4,
        )
        .shows(["< body second"])
        .lacks(["< body first"]),
        times(
            to(
                "healthy hosts of a later member of an aggregate go before degraded ones of an earlier",
                &[
                    aggregate("a_@stat, b_@stat", ""),
                    cluster("a", &[&[host("backend", DEGRADED)]], ""),
                    cluster("b", &[&[host("other", "")]], ""),
                ],
            ),
            4,
        )
        .shows(["< body second"])
        .lacks(["< body first"]),
        to(
            "an aggregate without healthy hosts is in panic, and so is its member",
            &[
                aggregate("a_@stat", ""),
                cluster("a", &[&[host("backend", SICK)]], ""),
            ],
        )
        .get("/")
        .stats(["cluster.a_@stat.lb_healthy_panic"])
        .shows(["< body first", "stat cluster.a_@stat.lb_healthy_panic: 1"]),
        to(
            "the panic threshold of the member counts when an aggregate has chosen it",
            &[
                aggregate("a_@stat", ""),
                cluster("a", &[&[host("backend", SICK)]], "common_lb_config: { healthy_panic_threshold: { value: 0 } }"),
            ],
        )
        .get("/")
        .shows(["< 503", "log flags=UH"]),
        times(
            to(
                "the panic threshold of an aggregate says whether a member in panic gets anything",
                &[
                    aggregate("a_@stat, b_@stat", "common_lb_config: { healthy_panic_threshold: { value: 0 } }"),
                    cluster("a", &[&[host("backend", SICK)]], ""),
                    cluster("b", &[&[host("other", SICK)]], ""),
                ],
            ),
            3,
        )
        .shows(["< body first"])
        .lacks(["< body second"]),
        times(
            to(
                "health checks of a member are felt by its aggregate",
                &[
                    aggregate("a_@stat, b_@stat", ""),
                    cluster(
                        "a",
                        &[&[host("backend", "")]],
                        "health_checks: [{ timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /hc } }]",
                    ),
                    cluster("b", &[&[host("other", "")]], ""),
                ],
            )
            .reply(reply(status(503, "no"))),
            2,
        )
        .shows(["< body second"])
        .lacks(["< 503"]),
        times(
            to(
                "a host that a member ejects gets no requests of the aggregate",
                &[
                    aggregate("a_@stat, b_@stat", ""),
                    cluster(
                        "a",
                        &[&[host("backend", "")]],
                        "outlier_detection: { consecutive_5xx: 1, enforcing_consecutive_5xx: 100, max_ejection_percent: 100, base_ejection_time: 60s }",
                    ),
                    cluster("b", &[&[host("other", "")]], ""),
                ],
            )
            .reply(reply(status(500, "broken")))
            .get("/")
            .wait(300),
            2,
        )
        .stats(["cluster.a_@stat.outlier_detection.ejections_active"])
        .shows([
            "< 500",
            "< body second",
            "stat cluster.a_@stat.outlier_detection.ejections_active: 1",
        ]),
    ]
}

const PREVIOUS: &str = "retry_priority: { name: p, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1 } }";

fn retries() -> Vec<Case> {
    let failing = |title: &'static str, agg: &str, a: &str, policy: &str| {
        to(
            title,
            &[
                aggregate("a_@stat, b_@stat", agg),
                cluster("a", &[&[host("backend", "")]], a),
                cluster("b", &[&[host("other", "")]], ""),
            ],
        )
        .routes(&format!(
            "- match: {{ prefix: / }}\n  route: {{ cluster: agg_@stat, retry_policy: {{ retry_on: 5xx{policy} }} }}"
        ))
        .reply(reply(status(503, "no")))
    };
    vec![
        failing(
            "previous_priorities takes a retry to the next member of an aggregate",
            "",
            "",
            &format!(", {PREVIOUS}"),
        )
        .get("/")
        .get("/")
        .stats([
            "cluster.agg_@stat.upstream_rq_retry",
            "cluster.agg_@stat.upstream_rq_retry_success",
        ])
        .shows([
            "< body second",
            "log attempts=2",
            "stat cluster.agg_@stat.upstream_rq_retry: 2",
        ])
        .lacks(["< 503"]),
        failing(
            "without previous_priorities a retry stays with the first member of an aggregate",
            "",
            "",
            "",
        )
        .get("/")
        .shows(["< 503", "log attempts=2"]),
        failing(
            "max_retries is that of the aggregate",
            "circuit_breakers: { thresholds: [{ max_retries: 0 }] }",
            "",
            "",
        )
        .get("/")
        .stats([
            "cluster.agg_@stat.upstream_rq_retry_overflow",
            "cluster.a_@stat.upstream_rq_total",
        ])
        .shows([
            "< 503",
            "log attempts=1",
            "stat cluster.agg_@stat.upstream_rq_retry_overflow: 1",
        ]),
        failing(
            "max_requests is that of the member of an aggregate",
            "circuit_breakers: { thresholds: [{ max_requests: 0 }] }",
            "",
            "",
        )
        .reply(reply(ok("first")))
        .get("/")
        .shows(["< body first"]),
        failing(
            "max_requests of the member overflows for its aggregate",
            "",
            "circuit_breakers: { thresholds: [{ max_requests: 0 }] }",
            "",
        )
        .get("/")
        .stats([
            "cluster.a_@stat.upstream_rq_active_overflow",
            "cluster.agg_@stat.upstream_rq_active_overflow",
        ])
        .shows([
            "< 503",
            "log flags=UO",
            "stat cluster.a_@stat.upstream_rq_active_overflow: 1",
            "stat cluster.agg_@stat.upstream_rq_active_overflow: 0",
        ]),
    ]
}

fn stats() -> Vec<Case> {
    vec![
        times(
            to(
                "requests count for the aggregate, and connections for its member",
                &[
                    aggregate("a_@stat", ""),
                    cluster("a", &[&[host("backend", "")]], ""),
                ],
            ),
            2,
        )
        .stats([
            "cluster.agg_@stat.upstream_rq_200",
            "cluster.agg_@stat.upstream_rq_completed",
            "cluster.agg_@stat.upstream_rq_total",
            "cluster.agg_@stat.upstream_cx_total",
            "cluster.agg_@stat.membership_total",
            "cluster.a_@stat.upstream_rq_200",
            "cluster.a_@stat.upstream_rq_completed",
            "cluster.a_@stat.upstream_rq_total",
            "cluster.a_@stat.upstream_cx_total",
            "cluster.a_@stat.membership_total",
        ])
        .shows([
            "stat cluster.agg_@stat.upstream_rq_200: 2",
            "stat cluster.agg_@stat.upstream_rq_total: 0",
            "stat cluster.agg_@stat.upstream_cx_total: 0",
            "stat cluster.a_@stat.upstream_rq_total: 2",
            "stat cluster.a_@stat.upstream_cx_total: 1",
            "stat cluster.a_@stat.membership_total: 1",
        ]),
        to(
            "the page of clusters shows an aggregate without hosts",
            &[
                aggregate("a_@stat", ""),
                cluster("a", &[&[host("backend", "")]], ""),
            ],
        )
        .get("/")
        .page("/clusters", "agg_@stat::")
        .shows(["page agg_@stat::default_priority::max_connections::1024"])
        .lacks(["page agg_@stat::127.0.0.1"]),
        to(
            "a connection of the member of an aggregate is used by requests to it",
            &[
                aggregate("a_@stat", ""),
                cluster("a", &[&[host("backend", "")]], ""),
            ],
        )
        .routes("- match: { path: /member }\n  route: { cluster: a_@stat }\n- match: { prefix: / }\n  route: { cluster: agg_@stat }")
        .get("/")
        .get("/member")
        .shows(["> connection 1: GET / HTTP/1.1", "> connection 1: GET /member HTTP/1.1"]),
    ]
}
