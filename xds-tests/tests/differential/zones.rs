//! Zone-aware routing: the proxy is in a zone, and so are the members of its own cluster.

use crate::case::{Case, case, http1, ok, reply};

/// The proxy is in `here`. Of its cluster one member is there too, and one is in `near`.
const FLEET: &str = "- name: fleet\n  load_assignment: { cluster_name: fleet, endpoints: [{ locality: { zone: here }, lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }, { locality: { zone: near }, lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 2 } } } }] }] }";

const NODE: &str = "node: { id: differential, cluster: stories, locality: { zone: here } }\ncluster_manager: { local_cluster_name: fleet }";

/// A locality of these hosts: backends, with more fields.
fn zone(zone: &str, fields: &str, hosts: &[(&str, &str)]) -> String {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|(backend, fields)| {
            format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{backend} }} }} }}{fields} }}")
        })
        .collect();
    format!(
        "{{ locality: {{ zone: {zone} }}{fields}, lb_endpoints: [{}] }}",
        hosts.join(", ")
    )
}

/// A cluster with hosts in these zones, whose backends say `first`, `second` and `third`.
fn zoned(title: &'static str, zones: &[String], fields: &str) -> Case {
    let yaml = format!(
        "- name: c_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{}] }}\n{}",
        zones.join(", "),
        crate::case::indent(fields, 2)
    );
    let case = case(title)
        .bootstrap(NODE)
        .shared_clusters(FLEET)
        .clusters(&yaml)
        .routes("- match: { prefix: / }\n  route: { cluster: c_@stat }")
        .reply(reply(ok("first")))
        .and_backend("other", http1(reply(ok("second"))))
        .and_backend("third", http1(reply(ok("third"))));
    (0..4).fold(case, |case, _| case.get("/")).stats([
        "cluster.c_@stat.lb_zone_routing_all_directly",
        "cluster.c_@stat.lb_zone_routing_sampled",
        "cluster.c_@stat.lb_zone_routing_cross_zone",
        "cluster.c_@stat.lb_zone_no_capacity_left",
        "cluster.c_@stat.lb_local_cluster_not_ok",
    ])
}

fn without_stat(mut case: Case, name: &str) -> Case {
    case.stats.retain(|stat| !stat.ends_with(name));
    case
}

const SMALL: &str = "common_lb_config: { zone_aware_lb_config: { min_cluster_size: 1 } }";
const SICK: &str = ", health_status: UNHEALTHY";

/// A typed policy with these fields of `zone_aware_lb_config`.
fn typed(fields: &str) -> String {
    format!(
        "load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: p, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin, locality_lb_config: {{ zone_aware_lb_config: {{ {fields} }} }} }} }} }}] }}"
    )
}

pub fn cases() -> Vec<Case> {
    let both = || {
        [
            zone("here", "", &[("backend", "")]),
            zone("near", "", &[("other", "")]),
        ]
    };
    let elsewhere = [
        zone("near", "", &[("backend", "")]),
        zone("far", "", &[("other", "")]),
    ];
    let few = || {
        [
            zone("here", "", &[("backend", "")]),
            zone("near", "", &[("other", ""), ("third", "")]),
        ]
    };
    vec![
        zoned("requests stay in a zone that has its share of hosts", &both(), SMALL)
            .shows(["< body first", "stat cluster.c_@stat.lb_zone_routing_all_directly: 4"])
            .lacks(["< body second"]),
        zoned("a cluster of fewer hosts than min_cluster_size has no zones", &both(), "")
            .any_order()
            .shows([
                "< body first",
                "< body second",
                "stat cluster.c_@stat.lb_zone_routing_all_directly: 0",
            ]),
        zoned(
            "requests for which routing is not enabled have no zones",
            &both(),
            "common_lb_config: { zone_aware_lb_config: { min_cluster_size: 1, routing_enabled: { value: 0 } } }",
        )
        .any_order()
        .shows(["< body first", "< body second", "stat cluster.c_@stat.lb_zone_routing_all_directly: 0"]),
        zoned("requests go where others leave room if there is no host in the zone", &elsewhere, SMALL)
            .shows(["< body second", "stat cluster.c_@stat.lb_zone_routing_cross_zone: 4"])
            .lacks(["< body first"]),
        zoned(
            "a zone whose hosts are not healthy is left",
            &[
                zone("here", "", &[("third", SICK)]),
                zone("near", "", &[("backend", "")]),
                zone("far", "", &[("other", "")]),
            ],
            SMALL,
        )
        .shows(["< body second", "stat cluster.c_@stat.lb_zone_routing_cross_zone: 4"])
        .lacks(["< body first", "< body third"]),
        zoned(
            "hosts in one zone alone have no zones",
            &[zone("here", "", &[("backend", ""), ("other", "")])],
            SMALL,
        )
        .any_order()
        .shows(["< body first", "< body second", "stat cluster.c_@stat.lb_zone_routing_all_directly: 0"]),
        zoned(
            "zones matter in the first priority alone",
            &[
                zone("here", "", &[("third", SICK)]),
                zone("here", ", priority: 1", &[("backend", "")]),
                zone("near", ", priority: 1", &[("other", "")]),
            ],
            SMALL,
        )
        .any_order()
        .shows(["< body first", "< body second", "stat cluster.c_@stat.lb_zone_routing_all_directly: 0"]),
        zoned("a typed policy knows zones", &both(), &typed("min_cluster_size: 1"))
            .shows(["< body first", "stat cluster.c_@stat.lb_zone_routing_all_directly: 4"])
            .lacks(["< body second"]),
        // Envoy counts there when it begins.
        without_stat(
            zoned(
                "force_local_zone keeps requests in a zone that has too few hosts",
                &few(),
                &typed("min_cluster_size: 1, force_local_zone: { min_size: 1 }"),
            ),
            "lb_local_cluster_not_ok",
        )
        .shows(["< body first", "stat cluster.c_@stat.lb_zone_routing_all_directly: 4"])
        .lacks(["< body second", "< body third"]),
        zoned(
            "zones are compared by the weights of hosts if they are to be",
            &[
                zone("here", "", &[("backend", ", load_balancing_weight: 4")]),
                zone("near", "", &[("other", ""), ("third", "")]),
            ],
            &typed("min_cluster_size: 1, locality_basis: HEALTHY_HOSTS_WEIGHT"),
        )
        .shows(["< body first", "stat cluster.c_@stat.lb_zone_routing_all_directly: 4"])
        .lacks(["< body second", "< body third"]),
        zoned(
            "with fail_traffic_on_panic zones do not save a request",
            &[
                zone("here", "", &[("backend", SICK)]),
                zone("near", "", &[("other", SICK)]),
            ],
            "common_lb_config: { zone_aware_lb_config: { min_cluster_size: 1, fail_traffic_on_panic: true } }",
        )
        .stats(["cluster.c_@stat.lb_healthy_panic"])
        .shows(["< 503", "log flags=UH", "stat cluster.c_@stat.lb_healthy_panic: 4"]),
        // Seven of 17 requests, wherever the schedule begins.
        (4..17)
            .fold(
                zoned(
                    "a locality without its share of healthy hosts gets fewer requests",
                    &[
                        zone("here", ", load_balancing_weight: 1", &[("backend", ""), ("third", SICK)]),
                        zone("near", ", load_balancing_weight: 1", &[("other", "")]),
                    ],
                    "common_lb_config: { locality_weighted_lb_config: {}, healthy_panic_threshold: { value: 10 } }",
                ),
                |case, _| case.get("/"),
            )
            .any_order()
            .connections_aside()
            .shows(["< body first", "< body second"])
            .lacks(["< body third"]),
        zoned(
            "localities share requests by their weights",
            &[
                zone("here", ", load_balancing_weight: 3", &[("backend", "")]),
                zone("near", ", load_balancing_weight: 1", &[("other", "")]),
            ],
            "common_lb_config: { locality_weighted_lb_config: {} }",
        )
        .any_order()
        .connections_aside()
        .shows(["< body first", "< body second"])
        .lacks(["stat cluster.c_@stat.lb_zone_routing_all_directly: 4"]),
    ]
}

/// Of the proxy's own cluster nobody is healthy.
pub fn panicking() -> Vec<Case> {
    let fleet = FLEET
        .replace(
            "port_value: 1 } } } }",
            "port_value: 1 } } }, health_status: UNHEALTHY }",
        )
        .replace(
            "port_value: 2 } } } }",
            "port_value: 2 } } }, health_status: UNHEALTHY }",
        );
    let mut case = zoned(
        "nothing is known by a fleet that is not healthy",
        &[
            zone("here", "", &[("backend", "")]),
            zone("near", "", &[("other", "")]),
        ],
        SMALL,
    )
    .any_order()
    .shows([
        "< body first",
        "< body second",
        "stat cluster.c_@stat.lb_local_cluster_not_ok: 4",
    ]);
    case.shared_clusters = crate::case::dedent(&fleet);
    vec![case]
}
