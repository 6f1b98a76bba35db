//! Load balancers that hash: which host a key gets, and what is hashed.

use crate::case::{Case, With, case, get, http1, ok, reply};

pub fn cases() -> Vec<Case> {
    [placement(), policies(), of_clusters(), stats()]
        .into_iter()
        .flatten()
        .collect()
}

/// Five hosts, placed by names of their own, as ports differ from run to run.
fn hosts(weights: [u32; 5]) -> String {
    let names = ["backend", "b", "c", "d", "e"];
    let hosts = names.iter().zip(weights).map(|(name, weight)| {
        format!(
            "{{ endpoint: {{ hostname: {name}.test, address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }}, \
             load_balancing_weight: {weight}, metadata: {{ filter_metadata: {{ envoy.lb: {{ hash_key: key-{name} }} }} }} }}"
        )
    });
    format!(
        "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}] }}] }}",
        hosts.collect::<Vec<_>>().join(", ")
    )
}

fn with_hosts(title: &'static str, policy: &str, action: &str, hosts: &str) -> Case {
    let mut made = case(title)
        .routes(&format!(
            "\n- match: {{ prefix: / }}\n  route: {{ cluster: hash_@stat, {action} }}"
        ))
        .clusters(&format!(
            "- name: hash_@stat\n  connect_timeout: 1s\n  {hosts}\n{}",
            crate::case::indent(policy, 2)
        ));
    for name in ["b", "c", "d", "e"] {
        made = made.and_backend(name, http1(reply(ok(name))));
    }
    made
}

/// Policies of the cluster, which go before those of the route.
fn of_clusters() -> Vec<Case> {
    let options = "lb_policy: RING_HASH\ntyped_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http_protocol_options: {} }, hash_policy: [{ header: { header_name: x-key } }] }";
    let spread = ["< body b", "< body c", "< body d", "< body e"];
    vec![
        keys(with_hosts("a cluster may have a hash policy", options, "timeout: 5s", &hosts([1; 5]))).shows(spread),
        keys(with_hosts(
            "the hash policy of a cluster goes before that of the route",
            options,
            "hash_policy: [{ header: { header_name: user-agent } }, { header: { header_name: \":method\" } }]",
            &hosts([1; 5]),
        ))
        .shows(spread),
    ]
}

const BY_HEADER: &str = "hash_policy: [{ header: { header_name: x-key } }]";

/// Many keys, whose hosts are compared one by one.
fn keys(mut case: Case) -> Case {
    for key in 0..40 {
        case = case.send(get("/").field("x-key", &format!("user-{key}")));
    }
    case
}

fn placement() -> Vec<Case> {
    let equal = || hosts([1; 5]);
    let typed = |name: &str, fields: &str| {
        format!(
            "load_balancing_policy: {{ policies: [{{ typed_extension_config: {{ name: lb, typed_config: {{ \
             \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.{name}, {fields} }} }} }}] }}"
        )
    };
    let placed = |title, policy: &str| {
        keys(with_hosts(title, policy, BY_HEADER, &equal()))
            .shows(["< body b", "< body c", "< body d", "< body e"])
    };
    vec![
        placed("RING_HASH places keys", "lb_policy: RING_HASH"),
        placed("RING_HASH places keys by murmur hash", "lb_policy: RING_HASH\nring_hash_lb_config: { hash_function: MURMUR_HASH_2 }"),
        placed("RING_HASH places keys on a small ring", "lb_policy: RING_HASH\nring_hash_lb_config: { minimum_ring_size: 16, maximum_ring_size: 33 }"),
        placed("MAGLEV places keys", "lb_policy: MAGLEV"),
        placed("MAGLEV places keys in a small table", "lb_policy: MAGLEV\nmaglev_lb_config: { table_size: 101 }"),
        placed("the typed ring hash policy places keys", &typed("ring_hash.v3.RingHash", "minimum_ring_size: 2048")),
        placed("the typed maglev policy places keys", &typed("maglev.v3.Maglev", "table_size: 1009")),
        keys(with_hosts("RING_HASH follows weights", "lb_policy: RING_HASH", BY_HEADER, &hosts([1, 2, 3, 4, 50])))
            .shows(["< body e"]),
        keys(with_hosts("MAGLEV follows weights", "lb_policy: MAGLEV", BY_HEADER, &hosts([1, 2, 3, 4, 50])))
            .shows(["< body e"]),
        keys(with_hosts(
            "a hash balance factor leaves idle hosts their keys",
            "lb_policy: MAGLEV\ncommon_lb_config: { consistent_hashing_lb_config: { hash_balance_factor: 150 } }",
            BY_HEADER,
            &equal(),
        ))
        .shows(["< body b", "< body c"]),
    ]
}

fn policies() -> Vec<Case> {
    let hashed =
        |title, policy: &str| with_hosts(title, "lb_policy: RING_HASH", policy, &hosts([1; 5]));
    vec![
        hashed("a query parameter is hashed", "hash_policy: [{ query_parameter: { name: k } }]")
            .get("/?k=1")
            .get("/?k=2")
            .get("/?k=3")
            .get("/?k=1")
            .shows(["< 200", "< 200", "< 200", "< 200"]),
        hashed("the source address is hashed", "hash_policy: [{ connection_properties: { source_ip: true } }]")
            .get("/")
            .get("/")
            .shows(["< 200", "< 200"]),
        hashed(
            "a header is hashed after its rewrite",
            "hash_policy: [{ header: { header_name: x-key, regex_rewrite: { pattern: { regex: \"^(.).*\" }, substitution: \"\\\\1\" } } }]",
        )
        .send(get("/").field("x-key", "a1"))
        .send(get("/").field("x-key", "a2"))
        .send(get("/").field("x-key", "b1"))
        .shows(["< 200", "< 200", "< 200"]),
        hashed("a cookie is hashed", "hash_policy: [{ cookie: { name: sid } }]")
            .send(get("/").field("cookie", "sid=one"))
            .send(get("/").field("cookie", "sid=two"))
            .shows(["< 200", "< 200"]),
        hashed(
            "a terminal policy that found something ends the evaluation",
            "hash_policy: [{ header: { header_name: x-key }, terminal: true }, { query_parameter: { name: k } }]",
        )
        .send(get("/?k=1").field("x-key", "a"))
        .send(get("/?k=2").field("x-key", "a"))
        .get("/?k=2")
        .shows(["< 200", "< 200", "< 200"]),
        hashed(
            "a hashable string of the filter state is hashed",
            "hash_policy: [{ filter_state: { key: mine } }]",
        )
        .filters(
            "- name: state\n  typed_config: { \"@type\": \"@http/set_filter_state.v3.Config\", on_request_headers: [{ object_key: mine, \
             factory_key: envoy.hashable_string, format_string: { text_format_source: { inline_string: \"%REQ(x-key)%\" } } }] }",
        )
        .send(get("/").field("x-key", "a"))
        .send(get("/").field("x-key", "b"))
        .send(get("/").field("x-key", "c"))
        .shows(["< 200", "< 200", "< 200"]),
    ]
}

fn stats() -> Vec<Case> {
    vec![
        with_hosts(
            "ring hash shows its sizes",
            "lb_policy: RING_HASH",
            BY_HEADER,
            &hosts([1; 5]),
        )
        .send(get("/").field("x-key", "a"))
        .stats([
            "cluster.hash_@stat.ring_hash_lb.size",
            "cluster.hash_@stat.ring_hash_lb.min_hashes_per_host",
            "cluster.hash_@stat.ring_hash_lb.max_hashes_per_host",
        ])
        .shows(["stat cluster.hash_@stat.ring_hash_lb.size: 1025"]),
    ]
}
