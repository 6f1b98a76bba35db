//! `local_ratelimit` in depth: which bucket a request empties, who shares it, and what clients are told.

use outrigger_xds_tests::client::Step;

use crate::bootstrap::connection_manager;
use crate::case::{Case, Request, With, case, get, indent, request};

pub fn cases() -> Vec<Case> {
    [
        rules(),
        wildcards(),
        buckets(),
        answers(),
        routes(),
        shares(),
        connections(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const BUCKET: &str = "token_bucket: { max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s }";
const WIDE: &str = "token_bucket: { max_tokens: 100, tokens_per_fill: 100, fill_interval: 3600s }";

/// A filter that enforces, with these fields.
fn filter(fields: &str) -> String {
    format!(
        "- name: limit\n  typed_config:\n    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n    \
         filter_enabled: {{ default_value: {{ numerator: 100 }} }}\n    filter_enforced: {{ default_value: {{ numerator: 100 }} }}\n{}",
        indent(fields, 4)
    )
}

fn limit(title: &'static str, fields: &str) -> Case {
    case(title).filters(&filter(fields))
}

/// A wide bucket for all, and one of a single token for what has the key `k` and this value.
fn described(title: &'static str, value: &str, rest: &str) -> Case {
    limit(
        title,
        &format!(
            "{WIDE}\ndescriptors: [{{ entries: [{{ key: k, value: \"{value}\" }}], {BUCKET} }}]\n{rest}"
        ),
    )
}

const BY_HEADER: &str = "request_headers: { header_name: x-k, descriptor_key: k }";
const STATS: [&str; 5] = [
    "@stat.http_local_rate_limit.enabled",
    "@stat.http_local_rate_limit.ok",
    "@stat.http_local_rate_limit.rate_limited",
    "@stat.http_local_rate_limit.enforced",
    "@stat.http_local_rate_limit.shadow_mode",
];

fn who(value: &str) -> Request {
    get("/").field("x-k", value)
}

/// What rules of routes say beside their actions.
fn rules() -> Vec<Case> {
    let generic = "generic_key: { descriptor_key: k, descriptor_value: v }";
    let ruled = |title, rule: &str| {
        described(title, "v", "").route(&format!("rate_limits: [{{ {rule} }}]"), "")
    };
    vec![
        ruled(
            "a rule with a disable_key is for services only",
            &format!("disable_key: some, actions: [{{ {generic} }}]"),
        )
        .get("/")
        .get("/")
        .shows(["< 200"])
        .lacks(["< 429"]),
        ruled(
            "a rule of a route counts once, whatever its hits_addend",
            &format!("hits_addend: {{ number: 2 }}, actions: [{{ {generic} }}]"),
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        ruled(
            "a rule of a route for ended streams counts at once in the local filter",
            &format!("apply_on_stream_done: true, actions: [{{ {generic} }}]"),
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        ruled(
            "a rule may want x-ratelimit headers that the filter does not",
            &format!("x_ratelimit_option: DRAFT_VERSION_03, actions: [{{ {generic} }}]"),
        )
        .get("/")
        .shows(["< x-ratelimit-limit: 1", "< x-ratelimit-remaining: 0"]),
        described(
            "a rule may not want x-ratelimit headers that the filter wants",
            "v",
            "enable_x_ratelimit_headers: DRAFT_VERSION_03",
        )
        .routes(&format!(
            "- match: {{ prefix: /off }}\n  route: {{ cluster: @backend, rate_limits: [{{ x_ratelimit_option: \"OFF\", actions: [{{ {generic} }}] }}] }}\n- match: {{ prefix: / }}\n  route: {{ cluster: @backend }}"
        ))
        .get("/off")
        .get("/")
        .shows(["< x-ratelimit-limit: 100"])
        .lacks(["< x-ratelimit-limit: 1"]),
        ruled(
            "metadata of the cluster are counted by their value",
            "actions: [{ metadata: { descriptor_key: k, source: CLUSTER_ENTRY, metadata_key: { key: ns, path: [{ key: tier }] } } }]",
        )
        .cluster("metadata: { filter_metadata: { ns: { tier: v } } }")
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        ruled(
            "metadata of the locality are not known before a host is chosen",
            "actions: [{ metadata: { descriptor_key: k, default_value: v, source: CLUSTER_LOCALITY_ENTRY, metadata_key: { key: ns, path: [{ key: tier }] } } }]",
        )
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        ruled(
            "the input of a matcher is counted under the name of the extension",
            "actions: [{ extension: { name: k, typed_config: { \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-in } } }]",
        )
        .get("/")
        .send(get("/").field("x-in", "v"))
        .send(get("/").field("x-in", "w"))
        .send(get("/").field("x-in", "v"))
        .get("/")
        .shows(["< 200", "< 429"]),
        limit(
            "an input that is empty is left out of its rule",
            &format!("{WIDE}\ndescriptors: [{{ entries: [{{ key: k, value: v }}], {BUCKET} }}]\nrate_limits: [{{ actions: [{{ {generic} }}, {{ extension: {{ name: m, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-in }} }} }}] }}]"),
        )
        .get("/")
        .send(get("/").field("x-in", ""))
        .send(get("/").field("x-in", ""))
        .shows(["< 200", "< 429"]),
        described(
            "hits_addend of a filter's rule may be a fraction, of which the whole counts",
            "v",
            &format!("rate_limits: [{{ hits_addend: {{ format: \"%REQ(x-hits)%\" }}, actions: [{{ {generic} }}] }}]"),
        )
        .send(get("/").field("x-hits", "1.9"))
        .send(get("/").field("x-hits", "1.9"))
        .shows(["< 200", "< 429"]),
        described(
            "negative hits give tokens back",
            "v",
            &format!("rate_limits: [{{ hits_addend: {{ number: 1, is_negative_hits: true }}, actions: [{{ request_headers: {{ header_name: x-back, descriptor_key: k }} }}] }}, {{ actions: [{{ {BY_HEADER} }}] }}]"),
        )
        .send(who("v"))
        .send(who("v"))
        .send(get("/").field("x-back", "v"))
        .send(who("v"))
        .shows(["< 200", "< 429", "< 200", "< 200"]),
    ]
}

/// Entries without a value.
fn wildcards() -> Vec<Case> {
    let wild = |title, most: u32| {
        described(
            title,
            "",
            &format!(
                "max_dynamic_descriptors: {most}\nrate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]"
            ),
        )
    };
    vec![
        wild("an entry without a value has a bucket for each", 20)
            .send(who("a"))
            .send(who("b"))
            .send(who("a"))
            .send(who("b"))
            .shows(["< 200", "< 200", "< 429", "< 429"]),
        wild("beyond max_dynamic_descriptors the bucket unused for longest is forgotten", 2)
            .send(who("a"))
            .send(who("b"))
            .send(who("a"))
            .send(who("c"))
            .send(who("a"))
            .send(who("b"))
            .shows(["< 200", "< 200", "< 429", "< 200", "< 429", "< 200"]),
        limit(
            "a descriptor with the value comes before one without",
            &format!(
                "{WIDE}\ndescriptors: [{{ entries: [{{ key: k }}], {BUCKET} }}, {{ entries: [{{ key: k, value: vip }}], {WIDE} }}]\nrate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]"
            ),
        )
        .send(who("vip"))
        .send(who("vip"))
        .send(who("a"))
        .send(who("a"))
        .shows(["< 200", "< 200", "< 200", "< 429"]),
        limit(
            "an entry without a value stands beside one that has one",
            &format!(
                "{WIDE}\ndescriptors: [{{ entries: [{{ key: g, value: v }}, {{ key: k }}], {BUCKET} }}]\nrate_limits: [{{ actions: [{{ generic_key: {{ descriptor_key: g, descriptor_value: v }} }}, {{ {BY_HEADER} }}] }}]"
            ),
        )
        .send(who("a"))
        .send(who("a"))
        .send(who("b"))
        .shows(["< 200", "< 429", "< 200"]),
    ]
}

/// Which of several buckets decide.
fn buckets() -> Vec<Case> {
    let two = "request_headers: { header_name: x-l, descriptor_key: l }";
    vec![
        limit(
            "no bucket lets everything pass",
            &format!("rate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]"),
        )
        .get("/")
        .get("/")
        .stats(STATS)
        .shows(["< 200", "< 200", "stat @stat.http_local_rate_limit.ok: 2"]),
        limit(
            "a bucket of nothing lets nothing pass",
            "token_bucket: { max_tokens: 0, fill_interval: 0.001s }",
        )
        .get("/")
        .stats(STATS)
        .shows(["< 429"]),
        described(
            "a request takes of the default bucket as well",
            "v",
            &format!("rate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]\nenable_x_ratelimit_headers: DRAFT_VERSION_03"),
        )
        .send(who("v"))
        .get("/")
        .shows(["< x-ratelimit-limit: 1", "< x-ratelimit-limit: 100", "< x-ratelimit-remaining: 98"]),
        described(
            "a request that a descriptor refuses takes nothing of the default bucket",
            "v",
            &format!("rate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]\nenable_x_ratelimit_headers: DRAFT_VERSION_03"),
        )
        .send(who("v"))
        .send(who("v"))
        .send(who("v"))
        .get("/")
        .shows(["< 429", "< x-ratelimit-remaining: 98"]),
        limit(
            "the slowest bucket is asked first, and those after a refusal are spared",
            &format!(
                "{WIDE}\nenable_x_ratelimit_headers: DRAFT_VERSION_03\ndescriptors: [{{ entries: [{{ key: l, value: v }}], token_bucket: {{ max_tokens: 3, tokens_per_fill: 1, fill_interval: 60s }} }}, {{ entries: [{{ key: k, value: v }}], {BUCKET} }}]\nrate_limits: [{{ actions: [{{ {two} }}] }}, {{ actions: [{{ {BY_HEADER} }}] }}]"
            ),
        )
        .send(who("v").field("x-l", "v"))
        .send(who("v").field("x-l", "v"))
        .send(get("/").field("x-l", "v"))
        .shows(["< 200", "< 429", "< x-ratelimit-remaining: 1"]),
        limit(
            "a descriptor in the shadow counts and lets pass",
            &format!(
                "{WIDE}\ndescriptors: [{{ shadow_mode: true, entries: [{{ key: k, value: v }}], {BUCKET} }}]\nrate_limits: [{{ actions: [{{ {BY_HEADER} }}] }}]"
            ),
        )
        .send(who("v"))
        .send(who("v"))
        .stats(STATS)
        .shows(["< 200", "< 200", "stat @stat.http_local_rate_limit.shadow_mode: 1"]),
        limit(
            "each connection has its own bucket where it is said",
            &format!("{BUCKET}\nlocal_rate_limit_per_downstream_connection: true"),
        )
        .get("/")
        .get("/")
        .on(2)
        .get("/")
        .shows(["< 200", "< 429", "< 200"]),
        limit("all connections share a bucket", BUCKET)
            .get("/")
            .on(2)
            .get("/")
            .shows(["< 200", "< 429"]),
        limit(
            "tokens come back",
            "token_bucket: { max_tokens: 1, tokens_per_fill: 1, fill_interval: 0.5s }",
        )
        .get("/")
        .get("/")
        .wait(900)
        .get("/")
        .shows(["< 200", "< 429", "< 200"]),
    ]
}

/// What clients are told.
fn answers() -> Vec<Case> {
    vec![
        limit(
            "retry-after says when a token comes",
            &format!("{BUCKET}\nenable_retry_after_header: true"),
        )
        .get("/")
        .get("/")
        .shows(["< 429", "< retry-after: 3600"]),
        limit(
            "retry-after is for 429 only",
            &format!("{BUCKET}\nenable_retry_after_header: true\nstatus: {{ code: ServiceUnavailable }}"),
        )
        .get("/")
        .get("/")
        .shows(["< 503"])
        .lacks(["< retry-after*"]),
        limit(
            "a retry-after of the configuration stands",
            &format!("{BUCKET}\nenable_retry_after_header: true\nresponse_headers_to_add: [{{ header: {{ key: retry-after, value: \"7\" }} }}]"),
        )
        .get("/")
        .get("/")
        .shows(["< 429", "< retry-after: 7"])
        .lacks(["< retry-after: 3600"]),
        limit(
            "x-ratelimit headers stand in responses of the upstream",
            "token_bucket: { max_tokens: 5, tokens_per_fill: 1, fill_interval: 60s }\nenable_x_ratelimit_headers: DRAFT_VERSION_03",
        )
        .get("/")
        .get("/")
        .both()
        .shows(["< x-ratelimit-limit: 5", "< x-ratelimit-remaining: 4", "< x-ratelimit-reset: 0"]),
        limit(
            "a status that is no error refuses with 429",
            &format!("{BUCKET}\nstatus: {{ code: OK }}"),
        )
        .get("/")
        .get("/")
        .shows(["< 429"]),
        limit(
            "a HEAD request is refused without a body",
            BUCKET,
        )
        .get("/")
        .send(request("HEAD", "/"))
        .shows(["< 429"]),
        case("what is not enforced is marked on its way to the upstream")
            .filters(&format!(
                "- name: limit\n  typed_config:\n    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n    filter_enabled: {{ default_value: {{ numerator: 100 }} }}\n    {BUCKET}\n    request_headers_to_add_when_not_enforced: [{{ header: {{ key: x-over, value: \"yes\" }} }}]\n"
            ))
            .get("/")
            .get("/")
            .stats(STATS)
            .shows(["> x-over: yes", "stat @stat.http_local_rate_limit.enforced: 0"]),
        case("a filter may be switched on by the runtime")
            .filters(&format!(
                "- name: limit\n  typed_config:\n    \"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n    filter_enabled: {{ runtime_key: limits.on, default_value: {{ numerator: 0 }} }}\n    filter_enforced: {{ runtime_key: limits.on, default_value: {{ numerator: 0 }} }}\n    {BUCKET}\n"
            ))
            .runtime("limits.on", 100)
            .get("/")
            .get("/")
            .stats(STATS)
            .shows(["< 429"]),
    ]
}

fn routes() -> Vec<Case> {
    let vhost = |host_rule: &str, action: &str| {
        format!(
            "- name: vhost\n  domains: [\"*\"]\n  rate_limits: [{host_rule}]\n  routes:\n  - match: {{ prefix: / }}\n    route: {{ cluster: @backend{action} }}"
        )
    };
    let rule = |value: &str| {
        format!(
            "{{ actions: [{{ generic_key: {{ descriptor_key: k, descriptor_value: {value} }} }}] }}"
        )
    };
    let own = format!(", rate_limits: [{}]", rule("own"));
    vec![
        described(
            "vh_rate_limits INCLUDE adds the rules of the virtual host",
            "v",
            "vh_rate_limits: INCLUDE",
        )
        .vhosts(&vhost(&rule("v"), &own))
        .get("/")
        .get("/")
        .shows(["< 200", "< 429"]),
        described(
            "vh_rate_limits IGNORE leaves them out where the route has none",
            "v",
            "vh_rate_limits: IGNORE",
        )
        .vhosts(&vhost(&rule("v"), ""))
        .get("/")
        .get("/")
        .shows(["< 200"])
        .lacks(["< 429"]),
        described(
            "rules of the filter stand in the place of the route's",
            "own",
            &format!("rate_limits: [{}]", rule("v")),
        )
        .vhosts(&vhost(&rule("own"), &own))
        .get("/")
        .get("/")
        .shows(["< 200"])
        .lacks(["< 429"]),
        limit("a virtual host has a bucket of its own", WIDE)
            .vhosts(&format!(
                "- name: vhost\n  domains: [\"*\"]\n  typed_per_filter_config:\n    limit:\n{}  routes:\n  - match: {{ prefix: / }}\n    route: {{ cluster: @backend }}",
                indent(
                    &format!("\"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\"\nstat_prefix: host\nfilter_enabled: {{ default_value: {{ numerator: 100 }} }}\nfilter_enforced: {{ default_value: {{ numerator: 100 }} }}\n{BUCKET}"),
                    6
                )
            ))
            .get("/")
            .get("/")
            .shows(["< 200", "< 429"]),
        limit("a route may be spared", BUCKET)
            .routes(
                "
                - match: { path: /free }
                  route: { cluster: @backend }
                  typed_per_filter_config: { limit: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }
                - match: { prefix: / }
                  route: { cluster: @backend }",
            )
            .get("/free")
            .get("/free")
            .get("/")
            .get("/")
            .shows(["< 200", "< 200", "< 200", "< 429"]),
    ]
}

fn shares() -> Vec<Case> {
    let endpoint =
        "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9 } } } }";
    let other = endpoint.replace("127.0.0.1", "127.0.0.2");
    vec![
        limit(
            "a bucket of the local cluster is divided by its members",
            "token_bucket: { max_tokens: 4, tokens_per_fill: 1, fill_interval: 3600s }\nlocal_cluster_rate_limit: {}",
        )
        .clusters(&format!(
            "- name: fleet\n  load_assignment: {{ cluster_name: fleet, endpoints: [{{ lb_endpoints: [{endpoint}, {other}] }}] }}"
        ))
        .bootstrap("cluster_manager: { local_cluster_name: fleet }")
        .get("/")
        .get("/")
        .get("/")
        .shows(["< 200", "< 200", "< 429"]),
    ]
}

/// The filters of networks and listeners, which limit connections.
fn connections() -> Vec<Case> {
    let network = |title, fields: &str, more: &str| {
        let plain = case(title);
        let manager = connection_manager(&plain);
        let one = |fields: &str| {
            format!(
                "- name: limit\n  typed_config:\n    \"@type\": \"@net/local_ratelimit.v3.LocalRateLimit\"\n{}",
                indent(fields, 4)
            )
        };
        let more = match more.is_empty() {
            true => String::new(),
            false => one(more),
        };
        plain.network(&format!("{}{more}{manager}", one(fields)))
    };
    let listener = |title, fields: &str| {
        case(title).listener(&format!(
            "listener_filters:\n- name: limit\n  typed_config:\n    \"@type\": \"@listen/local_ratelimit.v3.LocalRateLimit\"\n    stat_prefix: \"@stat\"\n{}",
            indent(fields, 4)
        ))
    };
    let off = "runtime_enabled: { default_value: false, runtime_key: k }";
    let tells = ["local_rate_limit.@stat.rate_limited"];
    vec![
        network(
            "the network filter closes connections beyond its rate",
            &format!("stat_prefix: \"@stat\"\n{BUCKET}"),
            "",
        )
        .get("/")
        .on(1)
        .step(Step::ReadToEnd)
        .stats(tells)
        .logs(1)
        .shows(["< 200", "= connection 1: closed", "stat local_rate_limit.@stat.rate_limited: 1"]),
        network(
            "the network filter gets tokens back",
            "stat_prefix: \"@stat\"\ntoken_bucket: { max_tokens: 1, tokens_per_fill: 1, fill_interval: 0.2s }",
            "",
        )
        .get("/")
        .wait(500)
        .on(1)
        .get("/")
        .shows(["< 200", "< 200"]),
        network(
            "the network filter may be off",
            &format!("stat_prefix: \"@stat\"\n{BUCKET}\n{off}"),
            "",
        )
        .get("/")
        .on(1)
        .get("/")
        .shows(["< 200", "< 200"]),
        network(
            "network filters share a bucket by its key",
            "stat_prefix: \"@stat\"\nshare_key: shared\ntoken_bucket: { max_tokens: 3, tokens_per_fill: 1, fill_interval: 3600s }",
            "stat_prefix: \"@stat\"\nshare_key: shared\ntoken_bucket: { max_tokens: 3, tokens_per_fill: 1, fill_interval: 3600s }",
        )
        .get("/")
        .on(1)
        .step(Step::ReadToEnd)
        .stats(tells)
        .logs(1)
        .shows(["< 200", "= connection 1: closed", "stat local_rate_limit.@stat.rate_limited: 1"]),
        network(
            "a network filter with other settings does not share",
            "stat_prefix: \"@stat\"\nshare_key: apart\ntoken_bucket: { max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s }",
            "stat_prefix: \"@stat\"\nshare_key: apart\ntoken_bucket: { max_tokens: 3, tokens_per_fill: 1, fill_interval: 3600s }",
        )
        .get("/")
        .on(1)
        .get("/")
        .on(2)
        .step(Step::ReadToEnd)
        .stats(tells)
        .logs(2)
        .shows(["< 200", "< 200", "= connection 2: closed"]),
        network(
            "a network filter of no tokens closes every connection",
            "stat_prefix: \"@stat\"\ntoken_bucket: { max_tokens: 0, fill_interval: 3600s }",
            "",
        )
        .step(Step::ReadToEnd)
        .stats(tells)
        .logs(0)
        .shows(["= connection 0: closed", "stat local_rate_limit.@stat.rate_limited: 1"]),
        listener("the listener filter closes connections beyond its rate", BUCKET)
            .get("/")
            .on(1)
            .step(Step::ReadToEnd)
            .stats(["listener_local_ratelimit.@stat.rate_limited"])
            .logs(1)
            .ends_somehow()
            .shows(["< 200", "= connection 1: closed", "stat listener_local_ratelimit.@stat.rate_limited: 1"]),
        listener("the listener filter may be off", &format!("{BUCKET}\n{off}"))
            .get("/")
            .on(1)
            .get("/")
            .shows(["< 200", "< 200"]),
        listener(
            "the listener filter gets tokens back",
            "token_bucket: { max_tokens: 1, tokens_per_fill: 1, fill_interval: 0.2s }",
        )
        .get("/")
        .wait(500)
        .on(1)
        .get("/")
        .shows(["< 200", "< 200"]),
        listener(
            "the listener filter comes before the filters of the chain",
            "token_bucket: { max_tokens: 0, fill_interval: 3600s }",
        )
        .step(Step::ReadToEnd)
        .stats(["http.@stat.downstream_cx_total"])
        .logs(0)
        .ends_somehow()
        .shows(["= connection 0: closed", "stat http.@stat.downstream_cx_total: 0"]),
    ]
}
