use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use pb::jwt_provider::JwksSourceSpecifier;
use pb::jwt_requirement::RequiresType;

use super::super::test_support::{Harness, errors};
use super::*;

fn provider(jwks: &str) -> pb::JwtProvider {
    let source = outrigger_proto::pb::envoy::config::core::v3::DataSource {
        specifier: Some(
            outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier::InlineString(
                jwks.to_owned(),
            ),
        ),
        ..Default::default()
    };
    pb::JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(source)),
        ..Default::default()
    }
}

fn filter(jwks: &str, requires: RequiresType) -> pb::JwtAuthentication {
    let rule = pb::RequirementRule {
        r#match: Some(route_pb::RouteMatch {
            path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        requirement_type: Some(RequirementType::Requires(pb::JwtRequirement {
            requires_type: Some(requires),
        })),
    };
    pb::JwtAuthentication {
        providers: [("p".to_owned(), provider(jwks))].into(),
        rules: vec![rule],
        ..Default::default()
    }
}

fn required() -> RequiresType {
    RequiresType::ProviderName("p".to_owned())
}

const SECRET: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;

#[test]
fn a_request_without_token_is_refused_with_a_challenge() {
    let harness = Harness::new(&filter(SECRET, required()));
    let reply = harness.stream().decode_headers(true).reply();
    assert_eq!(reply.status, 401);
    assert_eq!(&*reply.details, "jwt_authn_access_denied{Jwt_is_missing}");
    assert_eq!(
        reply.header("www-authenticate"),
        Some("Bearer realm=\"http://example.com/\"")
    );
    assert_eq!(harness.stat("http.test.jwt_authn.denied"), 1);
}

#[test]
fn keys_that_cannot_be_used_are_errors_of_the_configuration() {
    for (jwks, fault) in [
        ("rubbish", "Jwks is an invalid JSON"),
        ("{}", "Jwks does not have [keys] field"),
        (r#"{"keys":{}}"#, "[keys] in Jwks is not an array"),
        (r#"{"keys":[]}"#, "Jwks doesn't have any valid public key"),
        (r#"{"keys":[{}]}"#, "[kty] is missing in [keys]"),
        (
            r#"{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}"#,
            "Jwks RSA [n] or [e] field is missing or has a parse error",
        ),
        (
            r#"{"keys":[{"kty":"EC","alg":"ES256","crv":"P-384","x":"","y":""}]}"#,
            "[crv] field specified is not compatible with [alg] for an EC key",
        ),
    ] {
        let found = errors(&filter(jwks, required()));
        assert_eq!(
            found,
            [format!("config / providers[\"p\"] / local_jwks: {fault}")]
        );
    }
}

#[test]
fn a_requirement_names_a_provider_that_exists() {
    let unknown = RequiresType::ProviderName("q".to_owned());
    let found = errors(&filter(SECRET, unknown));
    assert!(
        found[0].contains("\"q\" is not the name of a provider"),
        "{found:?}"
    );
    let mut deep = pb::JwtRequirement::default();
    for _ in 0..40 {
        let requirements = vec![deep.clone(), pb::JwtRequirement::default()];
        deep = pb::JwtRequirement {
            requires_type: Some(RequiresType::RequiresAll(pb::JwtRequirementAndList {
                requirements,
            })),
        };
    }
    let found = errors(&filter(SECRET, deep.requires_type.unwrap()));
    let is_refused = |error: &String| error.contains("is nested more than 32 times");
    assert!(found.iter().any(is_refused), "{found:?}");
}

#[test]
fn base64_is_padded_in_full_or_not_at_all() {
    use super::token::decode;
    for text in ["YQ", "YQ==", "Y Q\n", "YR"] {
        assert_eq!(decode(text).as_deref(), Some(&b"a"[..]), "{text}");
    }
    for text in ["YQ=", "YQ===", "=YQ", "Y=Q=", "Y", "Y+"] {
        assert_eq!(decode(text), None, "{text}");
    }
}
