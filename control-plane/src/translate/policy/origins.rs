//! Pages of other origins, as the filters `cors` and `csrf` have them.

use serde_json::{Value as Json, json};

use super::EXTENSIONS;
use crate::model::{CorsSpec, CsrfSpec};
use crate::translate::typed;
use crate::world::regex_escape;

pub(super) const CORS: &str = "envoy.filters.http.cors";
pub(super) const CSRF: &str = "envoy.filters.http.csrf";

/// Where no route says from which hosts.
pub(super) fn no_csrf_policy() -> (String, Json) {
    let nothing = json!({"default_value": {"numerator": 0}});
    let message = format!("{EXTENSIONS}.csrf.v3.CsrfPolicy");
    (message, json!({"filter_enabled": nothing}))
}

pub(super) fn csrf_policy(csrf: &CsrfSpec) -> Json {
    let host = |host: &String| match host.strip_prefix('*') {
        Some(rest) => json!({"suffix": rest}),
        None => json!({"exact": host}),
    };
    let hosts: Vec<_> = csrf.allow_hosts.iter().map(host).collect();
    let all = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    typed(
        &format!("{EXTENSIONS}.csrf.v3.CsrfPolicy"),
        json!({"filter_enabled": all, "additional_origins": hosts}),
    )
}

pub(super) fn cors_policy(cors: &CorsSpec) -> Json {
    let origin = |origin: &String| match origin.split_once("://*") {
        Some((scheme, rest)) => {
            let regex = format!("{}://.+{}", regex_escape(scheme), regex_escape(rest));
            json!({"safe_regex": {"regex": regex}})
        }
        None => json!({"exact": origin}),
    };
    let origins: Vec<_> = cors.allow_origins.iter().map(origin).collect();
    let mut policy = json!({
        "allow_origin_string_match": origins,
        "allow_credentials": cors.allow_credentials,
    });
    let lists = [
        ("allow_methods", &cors.allow_methods),
        ("allow_headers", &cors.allow_headers),
        ("expose_headers", &cors.expose_headers),
    ];
    for (field, list) in lists {
        if !list.is_empty() {
            policy[field] = json!(list.join(","));
        }
    }
    if let Some(age) = cors.max_age {
        policy["max_age"] = json!(age.as_secs().to_string());
    }
    typed(&format!("{EXTENSIONS}.cors.v3.CorsPolicy"), policy)
}
