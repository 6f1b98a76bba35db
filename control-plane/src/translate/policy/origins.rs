//! Pages of other origins, as the filter `cors` has them.

use serde_json::{Value as Json, json};

use super::EXTENSIONS;
use crate::model::CorsSpec;
use crate::translate::typed;
use crate::world::regex_escape;

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
