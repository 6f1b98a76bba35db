//! `rate_limits` of routes: what a request is counted under, seen by the bucket that it empties.

use crate::case::{Case, With, case, get, indent};

pub fn cases() -> Vec<Case> {
    [actions(), rules()].into_iter().flatten().collect()
}

/// A bucket that is never empty, beside one of a single token for this descriptor.
fn bucket(title: &'static str, entries: &str) -> Case {
    case(title).filters(&filter("limit", entries, ""))
}

fn filter(name: &str, entries: &str, fields: &str) -> String {
    format!(
        "- name: {name}
  typed_config:
    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"
    stat_prefix: \"@stat\"
    token_bucket: {{ max_tokens: 100, tokens_per_fill: 100, fill_interval: 3600s }}
    filter_enabled: {{ default_value: {{ numerator: 100 }} }}
    filter_enforced: {{ default_value: {{ numerator: 100 }} }}
    descriptors: [{{ entries: [{entries}], token_bucket: {{ max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s }} }}]
{}",
        indent(fields, 4)
    )
}

fn limited(title: &'static str, entries: &str, actions: &str) -> Case {
    bucket(title, entries).route(&format!("rate_limits: [{{ actions: [{actions}] }}]"), "")
}

/// Which of the requests counted is seen by who is the first to find the bucket empty.
fn actions() -> Vec<Case> {
    let from = |address: &str| get("/").field("x-forwarded-for", address);
    vec![
        limited(
            "masked_remote_address counts by network",
            "{ key: masked_remote_address, value: 203.0.0.0/16 }",
            "{ masked_remote_address: { v4_prefix_mask_len: 16 } }",
        )
        .send(from("203.0.113.7"))
        .send(from("203.0.99.9"))
        .send(from("203.1.1.1"))
        .shows(["< 200", "< 429"]),
        limited(
            "masked_remote_address of IPv6",
            "{ key: masked_remote_address, value: \"2001:db8::/48\" }",
            "{ masked_remote_address: { v6_prefix_mask_len: 48 } }",
        )
        .send(from("2001:db8::1"))
        .send(from("2001:db8:0:9::2"))
        .send(from("2001:db8:9::2"))
        .shows(["< 200", "< 429"]),
        limited(
            "source_cluster is the cluster of this proxy",
            "{ key: source_cluster, value: stories }",
            "{ source_cluster: {} }",
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        limited(
            "header_value_match may want headers not to match",
            "{ key: plain, value: \"yes\" }",
            "{ header_value_match: { descriptor_key: plain, descriptor_value: \"yes\", expect_match: false, headers: [{ name: x-vip, present_match: true }] } }",
        )
        .send(get("/").field("x-vip", "1"))
        .get("/")
        .get("/")
        .send(get("/").field("x-vip", "1"))
        .shows(["< 200", "< 429"]),
        limited(
            "query_parameter_value_match counts requests with the parameter",
            "{ key: query_match, value: found }",
            "{ query_parameter_value_match: { descriptor_value: found, query_parameters: [{ name: q, string_match: { prefix: a } }] } }",
        )
        .get("/?q=b")
        .get("/?q=ab")
        .get("/?q=ac")
        .shows(["< 200", "< 429"]),
        limited(
            "metadata of the route are counted by their value",
            "{ key: tier, value: gold }",
            "{ metadata: { descriptor_key: tier, source: ROUTE_ENTRY, metadata_key: { key: ns, path: [{ key: tier }] } } }",
        )
        .route(
            "rate_limits: [{ actions: [{ metadata: { descriptor_key: tier, source: ROUTE_ENTRY, metadata_key: { key: ns, path: [{ key: tier }] } } }] }]",
            "metadata: { filter_metadata: { ns: { tier: gold } } }",
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        limited(
            "metadata without a value have a default",
            "{ key: tier, value: none }",
            "{ metadata: { descriptor_key: tier, default_value: none, metadata_key: { key: ns, path: [{ key: tier }] } } }",
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        case("dynamic metadata are counted by their value")
            .filters("
                - name: metadata
                  typed_config: { \"@type\": \"@http/header_to_metadata.v3.Config\", request_rules: [{ header: x-tier, on_header_present: { metadata_namespace: ns, key: tier } }] }")
            .filters(&filter("limit", "{ key: tier, value: gold }", ""))
            .route("rate_limits: [{ actions: [{ metadata: { descriptor_key: tier, metadata_key: { key: ns, path: [{ key: tier }] } } }] }]", "")
            .send(get("/").field("x-tier", "gold"))
            .send(get("/").field("x-tier", "tin"))
            .send(get("/").field("x-tier", "gold"))
            .shows(["< 200", "< 429"]),
        limited(
            "remote_address_match counts clients of its ranges",
            "{ key: remote_address_match, value: inside }",
            "{ remote_address_match: { descriptor_value: inside, address_matcher: { ranges: [{ address_prefix: 203.0.0.0, prefix_len: 16 }] } } }",
        )
        .send(from("203.0.113.7"))
        .send(from("8.8.8.8"))
        .send(from("203.0.1.1"))
        .shows(["< 200", "< 429"]),
        limited(
            "generic_key has a key of its own by default",
            "{ key: generic_key, value: v }",
            "{ generic_key: { descriptor_value: v } }",
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
    ]
}

fn rules() -> Vec<Case> {
    let header = |name: &str, skip: bool| {
        format!(
            "{{ request_headers: {{ header_name: {name}, descriptor_key: {name}, skip_if_absent: {skip} }} }}"
        )
    };
    vec![
        limited(
            "all actions of a rule make one descriptor in their order",
            "{ key: a, value: \"1\" }, { key: b, value: \"2\" }",
            &format!("{}, {}", header("a", false), header("b", false)),
        )
        .send(get("/").field("a", "1").field("b", "2"))
        .send(get("/").field("b", "2").field("a", "1"))
        .send(get("/").field("a", "1"))
        .shows(["< 200", "< 429"]),
        limited(
            "an action that finds nothing takes its rule away",
            "{ key: a, value: \"1\" }",
            &format!("{}, {}", header("a", false), header("b", false)),
        )
        .send(get("/").field("a", "1"))
        .send(get("/").field("a", "1"))
        .shows(["< 200"])
        .lacks(["< 429"]),
        limited(
            "an action may be left out where it finds nothing",
            "{ key: a, value: \"1\" }",
            &format!("{}, {}", header("a", false), header("b", true)),
        )
        .send(get("/").field("a", "1"))
        .send(get("/").field("a", "1"))
        .shows(["< 200", "< 429"]),
        bucket("each rule makes a descriptor of its own", "{ key: b, value: \"2\" }")
            .route(
                &format!("rate_limits: [{{ actions: [{}] }}, {{ actions: [{}] }}]", header("a", false), header("b", false)),
                "",
            )
            .send(get("/").field("a", "1").field("b", "2"))
            .send(get("/").field("b", "2"))
            .shows(["< 200", "< 429"]),
        bucket("rules of the virtual host count where the route has none", "{ key: g, value: v }")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }] }]
                  routes:
                  - match: { prefix: /own }
                    route: { cluster: @backend, rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: other } }] }] }
                  - match: { prefix: / }
                    route: { cluster: @backend }")
            .get("/")
            .get("/own")
            .get("/")
            .shows(["< 200", "< 429"]),
        bucket("include_vh_rate_limits adds the rules of the virtual host", "{ key: g, value: v }")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }] }]
                  routes:
                  - match: { prefix: / }
                    route: { cluster: @backend, include_vh_rate_limits: true, rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: other } }] }] }")
            .get("/")
            .get("/")
            .shows(["< 200", "< 429"]),
        case("a filter takes the rules of its stage")
            .filters(&filter("limit", "{ key: g, value: v }", "stage: 1"))
            .routes("
                - match: { prefix: /one }
                  route: { cluster: @backend, rate_limits: [{ stage: 1, actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }] }] }
                - match: { prefix: / }
                  route: { cluster: @backend, rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }] }] }")
            .get("/")
            .get("/")
            .get("/one")
            .get("/one")
            .shows(["< 200", "< 429"]),
        case("rules may stand in the filter")
            .filters(&filter(
                "limit",
                "{ key: g, value: v }",
                "rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }] }]",
            ))
            .get("/")
            .get("/")
            .shows(["< 200", "< 429"]),
        case("hits_addend counts a request for several")
            .filters(&filter(
                "limit",
                "{ key: g, value: v }",
                "rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }], hits_addend: { number: 2 } }]",
            ))
            .get("/")
            .shows(["< 429"]),
        case("hits_addend may be said by the request")
            .filters(&filter(
                "limit",
                "{ key: g, value: v }",
                "rate_limits: [{ actions: [{ generic_key: { descriptor_key: g, descriptor_value: v } }], hits_addend: { format: \"%REQ(x-hits)%\" } }]",
            ))
            .send(get("/").field("x-hits", "2"))
            .send(get("/").field("x-hits", "0"))
            .send(get("/").field("x-hits", "1"))
            .get("/")
            .shows(["< 200", "< 429"]),
    ]
}
