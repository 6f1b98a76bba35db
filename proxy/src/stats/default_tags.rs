//! Envoy's default tags.

/// How a default tag is found.
pub(super) struct Default {
    pub(super) name: &'static str,
    /// The first part of the names that may have it; empty for any.
    pub(super) first: &'static str,
    pub(super) pattern: Pattern,
    /// A value that is no tag.
    pub(super) never: Option<&'static str>,
}

#[derive(Clone, Copy)]
pub(super) enum Pattern {
    /// By parts between dots: `$` is the value, `*` one part, `**` any number.
    Tokens(&'static [&'static str]),
    /// The first group is cut out, the second is the value. Tried only on names that have `within` in them.
    Regex {
        within: &'static str,
        regex: &'static str,
    },
}

impl std::fmt::Debug for Default {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! address {
    () => {
        r"(?:(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[[a-fA-F_\d]+\])_\d+)"
    };
}

const fn regex(
    name: &'static str,
    first: &'static str,
    within: &'static str,
    regex: &'static str,
) -> Default {
    Default {
        name,
        first,
        pattern: Pattern::Regex { within, regex },
        never: None,
    }
}

const fn tokens(name: &'static str, pattern: &'static [&'static str]) -> Default {
    let first = match pattern[0].as_bytes() {
        b"$" | b"*" => "",
        _ => pattern[0],
    };
    Default {
        name,
        first,
        pattern: Pattern::Tokens(pattern),
        never: None,
    }
}

/// In Envoy's order, which is that of the labels; but those with an empty `first` come before all others.
pub(super) static DEFAULTS: [Default; 50] = [
    regex("envoy.response_code", "", "_rq_", r"_rq(_(\d{3}))$"),
    regex("envoy.response_code_class", "", "_rq_", r"_rq_((\d))xx$"),
    regex(
        "envoy.dynamo_partition_id",
        "http",
        ".dynamodb.table.",
        r"^http\.[^\.]+\.dynamodb\.table\.[^\.]+\.capacity\.[^\.]+(\.__partition_id=(\w{7}))$",
    ),
    regex(
        "envoy.dynamo_operation",
        "http",
        ".dynamodb.",
        r"^http\.[^\.]+\.dynamodb.(?:operation|table\.[^\.]+\.capacity)(\.([^\.]+))(?:\.|$)",
    ),
    tokens(
        "envoy.mongo_callsite",
        &[
            "mongo",
            "*",
            "collection",
            "*",
            "callsite",
            "$",
            "query",
            "**",
        ],
    ),
    regex(
        "envoy.dynamo_table",
        "http",
        ".dynamodb.",
        r"^http\.[^\.]+\.dynamodb.(?:table|error)\.(([^\.]+)\.)",
    ),
    tokens(
        "envoy.mongo_collection",
        &["mongo", "*", "collection", "$", "**", "query", "*"],
    ),
    tokens("envoy.mongo_cmd", &["mongo", "*", "cmd", "$", "**"]),
    tokens(
        "envoy.grpc_bridge_method",
        &["cluster", "*", "grpc", "*", "$", "**"],
    ),
    tokens(
        "envoy.http_user_agent",
        &["http", "*", "user_agent", "$", "**"],
    ),
    tokens(
        "envoy.virtual_cluster",
        &["vhost", "*", "vcluster", "$", "**"],
    ),
    tokens(
        "envoy.fault_downstream_cluster",
        &["http", "*", "fault", "$", "**"],
    ),
    regex(
        "envoy.ssl_cipher",
        "",
        ".ssl.ciphers.",
        r"^listener\..*?\.ssl\.ciphers(\.([\w-]+))$",
    ),
    regex(
        "envoy.ssl_version",
        "",
        ".ssl.versions.",
        r"^(?:listener|cluster)\..*?\.ssl\.versions(\.(TLSv\d\.\d))$",
    ),
    regex(
        "envoy.ssl_curve",
        "",
        ".ssl.curves.",
        r"^(?:listener|cluster)\..*?\.ssl\.curves(\.([\w-]+))$",
    ),
    regex(
        "envoy.ssl_sigalg",
        "",
        ".ssl.sigalgs.",
        r"^(?:listener|cluster)\..*?\.ssl\.sigalgs(\.([\w-]+))$",
    ),
    regex(
        "envoy.tls_certificate",
        "",
        ".ssl.certificate.",
        r"^(?:listener|cluster)\..*?\.ssl\.certificate\.(([^\.]+)\.).*$",
    ),
    regex(
        "envoy.ssl_cipher",
        "cluster",
        ".ssl.ciphers.",
        r"^cluster\.[^\.]+\.ssl\.ciphers(\.([\w-]+))$",
    ),
    tokens(
        "envoy.grpc_bridge_service",
        &["cluster", "*", "grpc", "$", "**"],
    ),
    tokens("envoy.tcp_prefix", &["tcp", "$", "**"]),
    tokens("envoy.udp_prefix", &["udp", "$", "**"]),
    tokens("envoy.clientssl_prefix", &["auth", "clientssl", "$", "**"]),
    tokens("envoy.ratelimit_prefix", &["ratelimit", "$", "**"]),
    regex(
        "envoy.health_check_name",
        "cluster",
        ".health_check.name.",
        r"^cluster\.[^\.]+\.health_check(\.name\.([^\.]+))\..+",
    ),
    tokens(
        "envoy.ext_authz_prefix",
        &["cluster", "*", "ext_authz", "$", "**"],
    ),
    tokens("envoy.cluster_name", &["cluster", "$", "**"]),
    regex(
        "envoy.http_conn_manager_prefix",
        "listener",
        ".http.",
        r"^listener\..*?\.http\.(([^\.]+)\.)",
    ),
    regex(
        "envoy.rbac_policy_name",
        "http",
        ".rbac.",
        r"^http\.[^\.]+\.rbac\.(?:[^\.]+\.)?policy\.(([^\.]+)\.)(allowed|shadow_allowed|denied|shadow_denied)$",
    ),
    Default {
        never: Some("policy"),
        ..regex(
            "envoy.rbac_http_prefix",
            "http",
            ".rbac.",
            r"^http\.[^\.]+\.rbac\.(([^\.]+)\.).*?",
        )
    },
    regex(
        "envoy.rds_route_config",
        "http",
        ".rds.",
        r"^http\.[^\.]+\.rds\.(([\w-\.]+)\.)\w+?$",
    ),
    regex(
        "envoy.scoped_rds_config",
        "http",
        ".scoped_rds.",
        r"^http\.[^\.]+\.scoped_rds\.(([\w-\./]+)\.)\w+?$",
    ),
    tokens(
        "envoy.ext_authz_prefix",
        &["http", "*", "ext_authz", "$", "**"],
    ),
    tokens("envoy.http_conn_manager_prefix", &["http", "$", "**"]),
    Default {
        never: Some("admin"),
        ..regex(
            "envoy.listener_address",
            "listener",
            "",
            concat!(r"^listener\.((", address!(), r"|[^\.]+)\.)"),
        )
    },
    tokens("envoy.virtual_host", &["vhost", "$", "**"]),
    tokens("envoy.mongo_prefix", &["mongo", "$", "**"]),
    tokens("envoy.route", &["vhost", "*", "route", "$", "**"]),
    regex(
        "envoy.worker_id",
        "",
        ".worker_",
        concat!(
            r"^(?:listener\.(?:",
            address!(),
            r"|[^\.]+)|server|listener_manager|thread_local_cluster_manager)\.worker_((\d+)\.)"
        ),
    ),
    tokens("envoy.thrift_prefix", &["thrift", "$", "**"]),
    tokens("envoy.redis_prefix", &["redis", "$", "**"]),
    tokens("envoy.google_grpc_client_prefix", &["grpc", "$", "**"]),
    tokens(
        "envoy.local_http_ratelimit_prefix",
        &["$", "http_local_rate_limit", "**"],
    ),
    tokens(
        "envoy.local_network_ratelimit_prefix",
        &["local_rate_limit", "$", "**"],
    ),
    tokens(
        "envoy.local_listener_ratelimit_prefix",
        &["listener_local_ratelimit", "$", "**"],
    ),
    tokens("envoy.dns_filter_prefix", &["dns_filter", "$", "**"]),
    tokens(
        "envoy.connection_limit_prefix",
        &["connection_limit", "$", "**"],
    ),
    tokens("envoy.rbac_prefix", &["$", "rbac", "**"]),
    regex(
        "envoy.xds_resource_name",
        "sds",
        "",
        r"^sds\.(([^\.]+)\.).+",
    ),
    regex(
        "envoy.proxy_protocol_prefix",
        "proxy_proto",
        "",
        r"^proxy_proto\.(([^\.]+)\.).+$",
    ),
    regex(
        "envoy.proxy_protocol_version",
        "proxy_proto",
        "versions.v",
        r"^proxy_proto\.((?:[^\.]+\.)?versions\.v(\d)\.)\w+$",
    ),
];
