//! Authorisation policies as RBAC rules.
//!
//! `DENY` comes first, then `ALLOW`. On a port that speaks bytes, methods and paths are not known: an `ALLOW` rule
//! that names some matches nothing there, and a `DENY` rule matches whatever they are.

use serde_json::{Value as Json, json};

use crate::model::{Access, AuthorizationRule, AuthorizationSpec};

/// What the rules look at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Http,
    Tcp,
}

/// The rules of one action; none if no policy has it.
pub(super) fn rules(
    policies: &[AuthorizationSpec],
    action: Access,
    layer: Layer,
    trust_domain: &str,
) -> Option<Json> {
    let mut found = serde_json::Map::new();
    let mut is_any = false;
    for policy in policies.iter().filter(|policy| policy.action == action) {
        is_any = true;
        for (index, rule) in policy.rules.iter().enumerate() {
            let has_http = !rule.methods.is_empty() || !rule.paths.is_empty();
            if has_http && layer == Layer::Tcp && action == Access::Allow {
                continue;
            }
            let name = format!("{}/{index}", policy.name);
            found.insert(name, policy_of(rule, layer, trust_domain));
        }
    }
    is_any.then(|| {
        let action = match action {
            Access::Allow => "ALLOW",
            Access::Deny => "DENY",
        };
        json!({"action": action, "policies": found})
    })
}

fn policy_of(rule: &AuthorizationRule, layer: Layer, trust_domain: &str) -> Json {
    let mut all = Vec::new();
    if layer == Layer::Http {
        if !rule.methods.is_empty() {
            let any: Vec<_> = rule
                .methods
                .iter()
                .map(|method| json!({"header": {"name": ":method", "string_match": {"exact": method}}}))
                .collect();
            all.push(json!({"or_rules": {"rules": any}}));
        }
        if !rule.paths.is_empty() {
            let any: Vec<_> = rule
                .paths
                .iter()
                .map(|path| json!({"url_path": {"path": matcher(path)}}))
                .collect();
            all.push(json!({"or_rules": {"rules": any}}));
        }
    }
    let permission = if all.is_empty() {
        json!({"any": true})
    } else {
        json!({"and_rules": {"rules": all}})
    };
    let principals: Vec<_> = if rule.identities.is_empty() {
        vec![json!({"any": true})]
    } else {
        rule.identities
            .iter()
            .map(|identity| {
                let whole = whole_identity(identity, trust_domain);
                json!({"authenticated": {"principal_name": matcher(&whole)}})
            })
            .collect()
    };
    json!({"permissions": [permission], "principals": principals})
}

fn whole_identity(identity: &str, trust_domain: &str) -> String {
    if identity.starts_with("spiffe://") {
        return identity.to_owned();
    }
    match identity.split_once('/') {
        Some((namespace, account)) => {
            format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
        }
        None => identity.to_owned(),
    }
}

fn matcher(text: &str) -> Json {
    match text.strip_suffix('*') {
        // An empty prefix is no matcher.
        Some("") => json!({"safe_regex": {"regex": ".*"}}),
        Some(prefix) => json!({"prefix": prefix}),
        None => json!({"exact": text}),
    }
}
