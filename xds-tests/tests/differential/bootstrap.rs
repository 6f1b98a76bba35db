//! The bootstrap of a theme: the listeners and clusters of all its cases.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use crate::case::{Case, Kind, Listener, dedent, indent};
use crate::names::Names;

/// What the access log of a case says, unless the case has its own. One `name=value` each, so that a difference names
/// its operator.
const LOG: &[(&str, &str)] = &[
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("termination", "%CONNECTION_TERMINATION_DETAILS%"),
    ("protocol", "%PROTOCOL%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("route", "%ROUTE_NAME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("remote", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("direct", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
];

/// The YAML for these cases, each with its names.
pub fn render(cases: &[(&Case, &Names)], folder: &Path) -> String {
    let mut listeners = String::new();
    let mut clusters = String::new();
    let mut more = String::new();
    let mut shared = HashSet::new();
    for (case, names) in cases {
        let bootstrap = names.fill(&case.bootstrap, folder);
        if shared.insert(bootstrap.clone()) {
            more.push_str(&bootstrap);
        }
        if shared.insert(case.shared_clusters.clone()) {
            clusters.push_str(&names.fill(&case.shared_clusters, folder));
        }
        listeners.push_str(&names.fill(&listener(case), folder));
        clusters.push_str(&names.fill(&self::clusters(case), folder));
    }
    let keys: Vec<_> = cases
        .iter()
        .flat_map(|(case, _)| &case.runtime)
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let runtime = match keys.is_empty() {
        true => String::new(),
        false => format!(
            "layered_runtime: {{ layers: [{{ name: cases, static_layer: {{ {} }} }}] }}\n",
            keys.join(", ")
        ),
    };
    let listeners = indent(&listeners, 2);
    let clusters = indent(&clusters, 2);
    let node = match more.lines().any(|line| line.starts_with("node:")) {
        true => "",
        false => "node: { id: differential, cluster: stories }\n",
    };
    format!(
        "{node}\
         admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\n\
         {more}{runtime}static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}"
    )
}

fn listener(case: &Case) -> String {
    let body = match &case.listener {
        Listener::Custom(yaml) => yaml.clone(),
        Listener::Http => format!(
            "filter_chains:\n- filters:\n{}",
            indent(&connection_manager(case), 2)
        ),
    };
    let mut yaml = String::from(
        "- name: \"@listener\"\n  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }\n",
    );
    yaml.push_str(&indent(&case.listener_fields, 2));
    yaml.push_str(&indent(&body, 2));
    yaml
}

/// The HTTP connection manager of a case, as an entry of a list of network filters.
pub fn connection_manager(case: &Case) -> String {
    let mut fields = String::from(
        "\"@type\": \"@net/http_connection_manager.v3.HttpConnectionManager\"\nstat_prefix: \"@stat\"\n",
    );
    fields.push_str(&case.hcm);
    let log = indent(&case.access_log.clone().unwrap_or_else(default_log), 2);
    let _ = write!(fields, "access_log:\n{log}http_filters:\n{}", case.filters);
    fields.push_str("- name: envoy.filters.http.router\n");
    fields.push_str("  typed_config:\n    \"@type\": \"@http/router.v3.Router\"\n");
    fields.push_str(&indent(&case.router, 4));
    if !case.vhosts.is_empty() {
        let _ = write!(
            fields,
            "route_config:\n  name: routes\n{}",
            indent(&case.route_config, 2)
        );
        let _ = write!(fields, "  virtual_hosts:\n{}", indent(&case.vhosts, 2));
    }
    let fields = indent(&fields, 4);
    format!("- name: envoy.filters.network.http_connection_manager\n  typed_config:\n{fields}")
}

/// The access logger that every case has.
pub fn default_log() -> String {
    let format: Vec<_> = LOG
        .iter()
        .map(|(name, operator)| format!("{name}={operator}"))
        .collect();
    dedent(&format!(
        "- name: envoy.access_loggers.file\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: @log\n    \
         log_format: {{ text_format_source: {{ inline_string: \"{}\\n\" }} }}\n",
        format.join("\\t")
    ))
}

/// Makes a cluster speak HTTP/2.
const HTTP2: &str = "  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: { http2_protocol_options: {} }
";

fn clusters(case: &Case) -> String {
    let mut yaml = case.more_clusters.clone();
    for (number, (name, kind)) in case.backends.iter().enumerate() {
        let _ = write!(
            yaml,
            "- name: @{name}\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: @{name}\n    endpoints:\n    - lb_endpoints:\n      \
             - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }}\n"
        );
        if number == 0 {
            yaml.push_str(&indent(&case.cluster_fields, 2));
        } else if matches!(kind, Kind::Http2(_)) {
            yaml.push_str(HTTP2);
        }
    }
    yaml
}
