//! `jwt_authn`: who may pass with which token, and what goes on of it.

mod forwarding;
mod large;
mod remote;
mod requirements;
mod verification;

use crate::case::{Case, Request, With, case, get};
use crate::tokens;

use forwarding::{extract_only, forwarding};
use remote::remote;
use requirements::{places, providers, requirements, routes};
use verification::{algorithms, faults, hostile, spelling};

pub fn cases() -> Vec<Case> {
    [
        algorithms(),
        faults(),
        spelling(),
        places(),
        providers(),
        requirements(),
        forwarding(),
        routes(),
        remote(),
        extract_only(),
        hostile(),
        large::large(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A filter with this configuration, the provider `p` among it.
fn with(title: &'static str, provider: &str, rest: &str) -> Case {
    with_providers(title, &format!("p: {{ {}, {provider} }}", local()), rest)
}

fn with_providers(title: &'static str, providers: &str, rest: &str) -> Case {
    case(title)
        .filters(&format!(
            "- name: jwt\n  typed_config: {{ \"@type\": \"@http/jwt_authn.v3.JwtAuthentication\", providers: {{ {providers} }}, {rest} }}"
        ))
        .stats(["http.@stat.jwt_authn.allowed", "http.@stat.jwt_authn.denied"])
}

/// The keys, in YAML.
fn local() -> String {
    format!("local_jwks: {{ inline_string: '{}' }}", tokens::JWKS)
}

const REQUIRED: &str = "rules: [{ match: { prefix: / }, requires: { provider_name: p } }]";

fn bearer(token: &str) -> Request {
    get("/a?b=c").field("authorization", &format!("Bearer {token}"))
}
