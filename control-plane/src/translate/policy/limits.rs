//! Limits as descriptors, which the rate limit service knows again.

use serde_json::{Value as Json, json};

use super::{CLAIMS, EXTENSIONS, JWT, paths_regex};
use crate::model::{CallLimit, CountedBy, LIMIT_KEY, LIMITS_DOMAIN, limit_id};
use crate::translate::typed;
use crate::world::CallLimits;

const RATE_LIMIT: &str = "envoy.filters.http.ratelimit";
/// The cluster of every proxy's bootstrap that leads to the control plane, which has the rate limit service.
const CONTROL_PLANE: &str = crate::translate::own_streams::CLUSTER;
/// How long a request waits for the rate limit service; then it passes.
const LIMIT_TIMEOUT: &str = "0.5s";
const EXPRESSION: &str = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor";
/// What stands for a claim or header that is not there.
const ABSENT: &str = "(none)";

/// The filter that asks the control plane.
pub(super) fn filter() -> Json {
    let config = json!({
        "domain": LIMITS_DOMAIN,
        "timeout": LIMIT_TIMEOUT,
        "rate_limited_as_resource_exhausted": true,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": CONTROL_PLANE}},
            "transport_api_version": "V3",
        },
    });
    let message = format!("{EXTENSIONS}.ratelimit.v3.RateLimit");
    json!({"name": RATE_LIMIT, "typed_config": typed(&message, config)})
}

pub(super) fn rate_limits(limits: &CallLimits) -> Vec<Json> {
    let each = limits.limits.iter().enumerate();
    each.flat_map(|(index, limit)| descriptors(&limit_id(&limits.policy, index), limit))
        .map(|actions| json!({"actions": actions}))
        .collect()
}

/// The descriptors of a limit, of which a request has one or none: a header that is not there would leave out the whole.
fn descriptors(id: &str, limit: &CallLimit) -> Vec<Vec<Json>> {
    let mut matchers = Vec::new();
    if !limit.paths.is_empty() {
        matchers.push(json!({
            "name": ":path",
            "string_match": {"safe_regex": {"regex": paths_regex(&limit.paths)}},
        }));
    }
    if !limit.methods.is_empty() {
        let regex = limit.methods.join("|");
        matchers.push(json!({"name": ":method", "string_match": {"safe_regex": {"regex": regex}}}));
    }
    let first = match matchers.is_empty() {
        true => json!({"generic_key": {"descriptor_key": LIMIT_KEY, "descriptor_value": id}}),
        false => json!({"header_value_match": {
            "descriptor_key": LIMIT_KEY,
            "descriptor_value": id,
            "headers": matchers,
        }}),
    };
    let mut descriptors = vec![vec![first]];
    for by in &limit.by {
        let key = by.key();
        let actions = match by {
            CountedBy::Address => vec![json!({"remote_address": {}})],
            CountedBy::Path => {
                let config = json!({"descriptor_key": key, "text": "request.url_path"});
                let expression = typed(EXPRESSION, config);
                vec![json!({"extension": {"name": "path", "typed_config": expression}})]
            }
            CountedBy::Claim(claim) => {
                let path = std::iter::once(CLAIMS).chain(claim.split('.'));
                let path: Vec<_> = path.map(|key| json!({"key": key})).collect();
                vec![json!({"metadata": {
                    "descriptor_key": key,
                    "metadata_key": {"key": JWT, "path": path},
                    "default_value": ABSENT,
                    "source": "DYNAMIC",
                }})]
            }
            CountedBy::Header(header) => vec![
                json!({"request_headers": {"header_name": header, "descriptor_key": key}}),
                json!({"header_value_match": {
                    "descriptor_key": key,
                    "descriptor_value": ABSENT,
                    "headers": [{"name": header, "present_match": true, "invert_match": true}],
                }}),
            ],
        };
        descriptors = descriptors
            .iter()
            .flat_map(|begun| {
                actions.iter().map(|action| {
                    let mut longer = begun.clone();
                    longer.push(action.clone());
                    longer
                })
            })
            .collect();
    }
    descriptors
}
