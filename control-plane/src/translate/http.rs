//! HTTP connection managers.

use serde_json::{Value as Json, json};

use super::policy::Used;
use super::{ads, duration, resource, typed};
use crate::cache::{Resource, ResourceType};
use crate::model::LocalRateLimit;
use crate::world::Defaults;

/// The names of the filters that routes configure.
pub(super) const FAULT: &str = "envoy.filters.http.fault";
pub(super) const DENY: &str = "outrigger.filters.http.rbac.deny";
pub(super) const ALLOW: &str = "outrigger.filters.http.rbac.allow";

pub(super) const RBAC_TYPE: &str = "envoy.extensions.filters.http.rbac.v3";
pub(super) const FAULT_TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const RATE_LIMIT_TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// On which side of a proxy it is.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    /// Of a sidecar, towards other services.
    Outbound,
    /// Of a sidecar, towards its process.
    Inbound,
    /// Of a gateway, with the filters that its policies need.
    Gateway(&'a Used),
}

/// A connection manager as a network filter. Its filters do nothing by themselves: what they do is in the routes, and in
/// [`rate_limit`], which change without a change of the listener, that is without the end of any connection.
pub(super) fn connection_manager(defaults: &Defaults, side: Side<'_>, route: &str) -> Json {
    let mut filters = Vec::new();
    let fault = json!({"name": FAULT, "typed_config": typed(FAULT_TYPE, json!({}))});
    if let Side::Inbound = side {
        let rbac = || typed(&format!("{RBAC_TYPE}.RBAC"), json!({}));
        filters.push(json!({"name": DENY, "typed_config": rbac()}));
        filters.push(json!({"name": ALLOW, "typed_config": rbac()}));
        filters.push(json!({
            "name": rate_limit_name(route),
            "config_discovery": {
                "config_source": ads(),
                "type_urls": [format!("type.googleapis.com/{RATE_LIMIT_TYPE}")],
            },
        }));
    } else if let Side::Gateway(used) = side {
        filters = used.filters(fault);
    } else {
        filters.push(fault);
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({})),
    }));
    let prefix = match side {
        Side::Outbound => "outbound",
        Side::Inbound => "inbound",
        Side::Gateway(_) => "gateway",
    };
    let mut manager = json!({
        "stat_prefix": prefix,
        "rds": {"route_config_name": route, "config_source": ads()},
        "http_filters": filters,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": access_log(defaults),
        "normalize_path": !matches!(side, Side::Outbound),
        "merge_slashes": !matches!(side, Side::Outbound),
        "use_remote_address": matches!(side, Side::Gateway(_)),
    });
    if let Side::Gateway(used) = side
        && used.trusted_hops() > 0
    {
        manager["xff_num_trusted_hops"] = json!(used.trusted_hops());
    }
    if let Side::Gateway(used) = side
        && used.has_guards()
    {
        // A service might see another path than the one whose rules were kept.
        manager["path_with_escaped_slashes_action"] = json!("REJECT_REQUEST");
    }
    if let Side::Inbound = side {
        // The process learns who calls.
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({"uri": true});
    }
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": typed(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        ),
    })
}

/// The name of the rate limit of what serves the routes of this name.
fn rate_limit_name(route: &str) -> String {
    format!("{route}/rate-limit")
}

/// How often the process behind a sidecar is called. It comes by itself: a change of the routes, such as of who may
/// call, would begin the count anew.
pub(super) fn rate_limit(route: &str, limit: Option<&LocalRateLimit>) -> Resource {
    let all = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    let mut config = json!({"stat_prefix": "inbound"});
    if let Some(limit) = limit {
        config["token_bucket"] = json!({
            "max_tokens": limit.burst.unwrap_or(limit.requests),
            "tokens_per_fill": limit.requests,
            "fill_interval": duration(limit.per),
        });
        config["filter_enabled"] = all.clone();
        config["filter_enforced"] = all;
    }
    let name = rate_limit_name(route);
    let json = json!({"name": name, "typed_config": typed(RATE_LIMIT_TYPE, config)});
    resource(ResourceType::Extension, &name, &json)
}

/// When, what, what became of it and why, who asked, and who answered.
const LOG_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION%ms \
from=%DOWNSTREAM_PEER_URI_SAN% to=%UPSTREAM_HOST%\n";

pub(super) fn access_log(defaults: &Defaults) -> Json {
    match &defaults.access_log {
        None => json!([]),
        Some(path) => json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": typed(
                "envoy.extensions.access_loggers.file.v3.FileAccessLog",
                json!({
                    "path": path,
                    "log_format": {"text_format_source": {"inline_string": LOG_FORMAT}},
                }),
            ),
        }]),
    }
}
