//! Subsets of hosts by their metadata, and what routes ask of them.

use crate::case::{Case, With, case, get, http1, ok, reply};

pub fn cases() -> Vec<Case> {
    [choices(), fallbacks(), selectors(), sources()]
        .into_iter()
        .flatten()
        .collect()
}

/// A host with these values below `envoy.lb`.
fn host(backend: &str, lb: &str) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{backend} }} }} }}, metadata: {{ filter_metadata: {{ envoy.lb: {{ {lb} }} }} }} }}"
    )
}

/// A cluster `c_@stat` of three backends with these values, and these other fields.
fn cluster(values: [&str; 3], fields: &str) -> String {
    let [a, b, c] = values;
    let hosts = [host("backend", a), host("other", b), host("third", c)].join(", ");
    format!(
        "- name: c_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{hosts}] }}] }}\n{}",
        crate::case::indent(fields, 2)
    )
}

const VERSIONS: [&str; 3] = ["v: 1, s: a", "v: 2, s: b", "v: 2, s: c"];

/// `/all` asks for nothing; other routes are given as (path, metadata).
fn subsets(title: &'static str, fields: &str, routes: &[(&str, &str)]) -> Case {
    with_hosts(title, VERSIONS, fields, routes)
}

fn with_hosts(
    title: &'static str,
    values: [&str; 3],
    fields: &str,
    routes: &[(&str, &str)],
) -> Case {
    let mut yaml = String::from("- match: { path: /all }\n  route: { cluster: c_@stat }\n");
    for (path, lb) in routes {
        yaml.push_str(&format!(
            "- match: {{ path: {path} }}\n  route: {{ cluster: c_@stat, metadata_match: {{ filter_metadata: {{ envoy.lb: {{ {lb} }} }} }} }}\n"
        ));
    }
    case(title)
        .routes(&yaml)
        .clusters(&cluster(values, fields))
        .reply(reply(ok("first")))
        .and_backend("other", http1(reply(ok("second"))))
        .and_backend("third", http1(reply(ok("third"))))
}

fn choices() -> Vec<Case> {
    vec![
        subsets(
            "metadata_match sends a request to the hosts that have its values",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/1", "v: 1")],
        )
        .get("/1")
        .get("/1")
        .get("/1")
        .stats(["cluster.c_@stat.lb_subsets_selected"])
        .shows([
            "< body first",
            "stat cluster.c_@stat.lb_subsets_selected: 3",
        ])
        .lacks(["< body second", "< body third"]),
        subsets(
            "subsets are counted for each thread",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }, { keys: [s] }] }",
            &[],
        )
        .get("/all")
        .stats([
            "cluster.c_@stat.lb_subsets_active",
            "cluster.c_@stat.lb_subsets_created",
        ])
        .shows([
            "stat cluster.c_@stat.lb_subsets_active: 10",
            "stat cluster.c_@stat.lb_subsets_created: 10",
        ]),
        subsets(
            "a request without metadata_match finds no subset",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[],
        )
        .get("/all")
        .both()
        .shows(["< 503", "log flags=UH", "< body no healthy upstream"]),
        subsets(
            "a value that no host has is 503 with UH",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/9", "v: 9")],
        )
        .get("/9")
        .shows(["< 503", "log flags=UH"]),
        subsets(
            "a number is not the text that looks like it",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/1", "v: \"1\"")],
        )
        .get("/1")
        .shows(["< 503"]),
        subsets(
            "a request that names more than a selector finds no subset",
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/1", "v: 1, s: a")],
        )
        .get("/1")
        .shows(["< 503"]),
        with_hosts(
            "list_as_any counts each value of a list",
            ["v: [1, 2]", "v: 3", "v: 4"],
            "lb_subset_config: { list_as_any: true, subset_selectors: [{ keys: [v] }] }",
            &[("/2", "v: 2")],
        )
        .get("/2")
        .shows(["< body first"]),
        with_hosts(
            "without list_as_any a list is a value like any other",
            ["v: [1, 2]", "v: 3", "v: 4"],
            "lb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/2", "v: 2"), ("/list", "v: [1, 2]")],
        )
        .get("/2")
        .get("/list")
        .shows(["< 503", "< body first"]),
        with_hosts(
            "a host belongs to a subset of two keys only with both",
            ["v: 1", "v: 1, s: a", "s: a"],
            "lb_subset_config: { subset_selectors: [{ keys: [s, v] }] }",
            &[("/both", "v: 1, s: a"), ("/one", "v: 1")],
        )
        .get("/both")
        .get("/one")
        .shows(["< body second", "< 503"]),
        with_hosts(
            "single_host_per_subset takes the first host of a subset",
            ["v: 1", "v: 1", "v: 1"],
            "lb_subset_config: { subset_selectors: [{ keys: [v], single_host_per_subset: true }] }",
            &[("/1", "v: 1")],
        )
        .get("/1")
        .get("/1")
        .get("/1")
        .stats(["cluster.c_@stat.lb_subsets_single_host_per_subset_duplicate"])
        .shows([
            "< body first",
            "stat cluster.c_@stat.lb_subsets_single_host_per_subset_duplicate: 2",
        ])
        .lacks(["< body second", "< body third"]),
        subsets(
            "hashing goes on within a subset",
            "lb_policy: RING_HASH\nlb_subset_config: { subset_selectors: [{ keys: [v] }] }",
            &[("/2", "v: 2")],
        )
        .routes(
            "
            - match: { prefix: / }
              route:
                cluster: c_@stat
                metadata_match: { filter_metadata: { envoy.lb: { v: 1 } } }
                hash_policy: [{ header: { header_name: key } }]",
        )
        .send(get("/").field("key", "a"))
        .send(get("/").field("key", "b"))
        .send(get("/").field("key", "c"))
        .shows(["< body first"])
        .lacks(["< body second", "< body third"]),
    ]
}

fn fallbacks() -> Vec<Case> {
    let fallback = |title, fields: &str| {
        subsets(
            title,
            &format!("lb_subset_config: {{ {fields}, subset_selectors: [{{ keys: [v] }}] }}"),
            &[("/9", "v: 9")],
        )
        .stats([
            "cluster.c_@stat.lb_subsets_fallback",
            "cluster.c_@stat.lb_subsets_fallback_panic",
        ])
    };
    vec![
        fallback(
            "DEFAULT_SUBSET takes what names no subset",
            "fallback_policy: DEFAULT_SUBSET, default_subset: { s: b }",
        )
        .get("/9")
        .get("/all")
        .shows(["< body second", "stat cluster.c_@stat.lb_subsets_fallback: 2"])
        .lacks(["< body first", "< body third"]),
        fallback("ANY_ENDPOINT takes what names no subset", "fallback_policy: ANY_ENDPOINT")
            .get("/9")
            .get("/9")
            .get("/9")
            .any_order()
            .shows(["< body first", "< body second", "< body third", "stat cluster.c_@stat.lb_subsets_fallback: 3"]),
        fallback(
            "panic_mode_any takes what an empty default subset cannot",
            "fallback_policy: DEFAULT_SUBSET, default_subset: { s: z }, panic_mode_any: true",
        )
        .get("/9")
        .get("/9")
        .get("/9")
        .any_order()
        .shows(["< body first", "< body second", "< body third", "stat cluster.c_@stat.lb_subsets_fallback_panic: 3"]),
        fallback("panic_mode_any is nothing without a fallback", "panic_mode_any: true")
            .get("/9")
            .shows(["< 503", "stat cluster.c_@stat.lb_subsets_fallback_panic: 0"]),
        subsets(
            "FALLBACK_LIST is tried in turn",
            "lb_subset_config: { metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [{ keys: [s] }] }",
            &[("/list", "fallback_list: [{ s: z }, { s: b }, { s: a }]")],
        )
        .get("/list")
        .shows(["< body second"]),
        subsets(
            "without FALLBACK_LIST fallback_list is a key like any other",
            "lb_subset_config: { subset_selectors: [{ keys: [s] }] }",
            &[("/list", "fallback_list: [{ s: b }]")],
        )
        .get("/list")
        .shows(["< 503"]),
    ]
}

fn selectors() -> Vec<Case> {
    let typed = |fields: &str| {
        format!(
            "load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: s, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, {fields}, \
             subset_lb_policy: {{ policies: [{{ typed_extension_config: {{ name: r, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin }} }} }}] }} }} }} }}] }}"
        )
    };
    vec![
        subsets(
            "the fallback of a selector goes before that of the cluster",
            "lb_subset_config: { fallback_policy: DEFAULT_SUBSET, default_subset: { s: b }, subset_selectors: [{ keys: [v], fallback_policy: NO_FALLBACK }, { keys: [s] }] }",
            &[("/v", "v: 9"), ("/s", "s: z")],
        )
        .get("/v")
        .get("/s")
        .shows(["< 503", "< body second"]),
        subsets(
            "KEYS_SUBSET looks again with fewer keys",
            "lb_subset_config: { subset_selectors: [{ keys: [s, v], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [s] }, { keys: [s] }] }",
            &[("/", "v: 9, s: b")],
        )
        .get("/")
        .stats(["cluster.c_@stat.lb_subsets_fallback", "cluster.c_@stat.lb_subsets_selected"])
        .shows(["< body second", "stat cluster.c_@stat.lb_subsets_fallback: 0", "stat cluster.c_@stat.lb_subsets_selected: 1"]),
        subsets(
            "DEFAULT_SUBSET of a selector needs no default of the cluster",
            "lb_subset_config: { default_subset: { s: c }, subset_selectors: [{ keys: [v], fallback_policy: DEFAULT_SUBSET }] }",
            &[("/v", "v: 9")],
        )
        .get("/v")
        .stats(["cluster.c_@stat.lb_subsets_fallback"])
        .shows(["< body third", "stat cluster.c_@stat.lb_subsets_fallback: 0"]),
        subsets(
            "a selector whose keys begin an earlier one has no fallback",
            "lb_subset_config: { subset_selectors: [{ keys: [s, v] }, { keys: [s], fallback_policy: ANY_ENDPOINT }] }",
            &[("/s", "s: z")],
        )
        .get("/s")
        .shows(["< 503"]),
        subsets(
            "the typed policy makes subsets of its child",
            &typed("subset_selectors: [{ keys: [v] }]"),
            &[("/1", "v: 1")],
        )
        .get("/1")
        .get("/1")
        .shows(["< body first"])
        .lacks(["< body second", "< body third"]),
        subsets(
            "allow_redundant_keys passes keys over that no selector has",
            &typed("allow_redundant_keys: true, subset_selectors: [{ keys: [s] }, { keys: [v] }]"),
            &[("/", "v: 2, s: a, x: 1")],
        )
        .get("/")
        .get("/")
        .shows(["< body first"]),
    ]
}

fn sources() -> Vec<Case> {
    const BY_STAGE: &str =
        "lb_subset_config: { subset_selectors: [{ keys: [s] }, { keys: [s, v] }] }";
    vec![
        subsets("metadata of a weighted cluster go over those of the route", BY_STAGE, &[])
            .routes(
                "
                - match: { path: /merged }
                  route:
                    metadata_match: { filter_metadata: { envoy.lb: { v: 2, s: b } } }
                    weighted_clusters: { clusters: [{ name: c_@stat, weight: 1, metadata_match: { filter_metadata: { envoy.lb: { s: c } } } }] }
                - match: { path: /route }
                  route:
                    metadata_match: { filter_metadata: { envoy.lb: { s: b } } }
                    weighted_clusters: { clusters: [{ name: c_@stat, weight: 1 }] }",
            )
            .get("/merged")
            .get("/route")
            .shows(["< body third", "< body second"])
            .lacks(["< body first"]),
        subsets("dynamic metadata of the request go over those of the route", BY_STAGE, &[])
            .filters(
                "
                - name: h
                  typed_config:
                    \"@type\": \"@http/header_to_metadata.v3.Config\"
                    request_rules: [{ header: stage, on_header_present: { metadata_namespace: envoy.lb, key: s } }]",
            )
            .routes(
                "
                - match: { path: /route }
                  route: { cluster: c_@stat, metadata_match: { filter_metadata: { envoy.lb: { v: 2, s: b } } } }
                - match: { path: /none }
                  route: { cluster: c_@stat }",
            )
            .get("/route")
            .send(get("/route").field("stage", "c"))
            .send(get("/none").field("stage", "a"))
            .shows(["< body second", "< body third", "< body first"]),
        subsets("only envoy.lb of metadata_match counts", BY_STAGE, &[])
            .routes(
                "
                - match: { prefix: / }
                  route: { cluster: c_@stat, metadata_match: { filter_metadata: { other: { s: b } } } }",
            )
            .get("/")
            .shows(["< 503"]),
        subsets("a retry keeps to its subset", BY_STAGE, &[])
            .replies([reply(crate::case::status(503, "no")), reply(ok("again"))])
            .routes(
                "
                - match: { prefix: / }
                  route: { cluster: c_@stat, metadata_match: { filter_metadata: { envoy.lb: { s: a } } }, retry_policy: { retry_on: 5xx } }",
            )
            .get("/")
            .shows(["< body again", "log attempts=2"]),
    ]
}
