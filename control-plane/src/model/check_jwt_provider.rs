//! What has to hold of a `JwtProvider` beside the types of its fields.

use http::Uri;

use super::check::Report;
use super::check_sections::{check_claim, check_header};
use super::gateway_policy::{JwksSpec, JwtProviderSpec};

pub(super) fn check(spec: &JwtProviderSpec, report: &mut Report<'_>) {
    check_jwks(&spec.jwks, report);
    if let Some(places) = &spec.from {
        if places.headers.is_empty() && places.params.is_empty() && places.cookies.is_empty() {
            report("spec.from".to_owned(), "names no place".to_owned());
        }
        for (index, header) in places.headers.iter().enumerate() {
            let path = format!("spec.from.headers[{index}].name");
            check_header(path, &header.name, report);
        }
    }
    for (claim, header) in &spec.claims_to_headers {
        check_claim(format!("spec.claimsToHeaders.{claim}"), claim, report);
        check_header(format!("spec.claimsToHeaders.{claim}"), header, report);
    }
    if let Some(header) = &spec.payload_header {
        check_header("spec.payloadHeader".to_owned(), header, report);
    }
    if spec
        .clock_skew
        .is_some_and(|skew| skew.subsec_nanos() > 0 || skew.is_zero())
    {
        report(
            "spec.clockSkew".to_owned(),
            "has to be whole seconds, one at least".to_owned(),
        );
    }
}

fn check_jwks(spec: &JwksSpec, report: &mut Report<'_>) {
    let sources = [
        spec.uri.is_some(),
        spec.inline.is_some(),
        spec.config_map.is_some(),
    ];
    if sources.iter().filter(|is_there| **is_there).count() != 1 {
        return report(
            "spec.jwks".to_owned(),
            "needs one of `uri`, `inline` and `configMap`".to_owned(),
        );
    }
    if let Some(uri) = &spec.uri {
        if let Err(reason) = endpoint(uri) {
            report("spec.jwks.uri".to_owned(), reason);
        }
        for (field, value) in [("refresh", spec.refresh), ("timeout", spec.timeout)] {
            if value.is_some_and(|value| value.is_zero()) {
                report(
                    format!("spec.jwks.{field}"),
                    "has to be more than 0s".to_owned(),
                );
            }
        }
    } else if spec.service.is_some() || spec.refresh.is_some() || spec.timeout.is_some() {
        report(
            "spec.jwks".to_owned(),
            "`service`, `refresh` and `timeout` need `uri`".to_owned(),
        );
    }
    if let Some(Err(reason)) = spec.inline.as_deref().map(key_set) {
        report("spec.jwks.inline".to_owned(), reason);
    }
}

/// Whether a text is a JSON web key set.
pub(crate) fn key_set(text: &str) -> Result<(), String> {
    let bad = || "is no JSON web key set: an object with `keys`".to_owned();
    let json: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let keys = json
        .get("keys")
        .and_then(|keys| keys.as_array())
        .ok_or_else(bad)?;
    match keys.is_empty() || !keys.iter().all(|key| key["kty"].is_string()) {
        true => Err("has no keys, or some without `kty`".to_owned()),
        false => Ok(()),
    }
}

/// Host and port of a URI, and whether it is of TLS.
pub(crate) fn endpoint(uri: &str) -> Result<(String, u16, bool), String> {
    let bad = || format!("{uri:?} is no URI such as https://login.example/jwks.json");
    let parsed: Uri = uri.parse().map_err(|_| bad())?;
    let is_tls = match parsed.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let host = parsed.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(bad)?.trim_matches(['[', ']']);
    let port = match parsed.port() {
        Some(_) => parsed.port_u16().filter(|port| *port > 0).ok_or_else(bad)?,
        None if is_tls => 443,
        None => 80,
    };
    Ok((host.to_owned(), port, is_tls))
}

#[cfg(test)]
mod tests {
    use crate::model::check_gateway_policy::tests::errors;

    #[test]
    fn a_provider_has_one_place_for_its_keys() {
        let provider = |spec: &str| errors("JwtProvider", &format!("  {spec}\n"));
        let none: Vec<String> = Vec::new();
        for good in [
            "jwks: {uri: 'https://login.example/jwks.json', refresh: 5m}",
            "jwks: {uri: 'http://127.0.0.1:8080/keys', service: {name: login, port: 80}}",
            "jwks: {configMap: {name: keys}}",
            r#"jwks: {inline: '{"keys": [{"kty": "oct"}]}'}"#,
        ] {
            assert_eq!(provider(good), none, "{good}");
        }
        for (bad, expected) in [
            ("jwks: {}", "spec.jwks: needs one of"),
            (
                "jwks: {uri: 'https://a/b', inline: '{}'}",
                "spec.jwks: needs one of",
            ),
            ("jwks: {uri: login.example}", "spec.jwks.uri: \"login"),
            ("jwks: {uri: 'ftp://a/b'}", "spec.jwks.uri: \"ftp"),
            ("jwks: {uri: 'http://a:0/b'}", "spec.jwks.uri: \"http"),
            (
                "jwks: {uri: 'http://a/b', timeout: 0s}",
                "spec.jwks.timeout: has to be more",
            ),
            ("jwks: {inline: '{'}", "spec.jwks.inline: is no JSON"),
            (
                "jwks: {inline: '[]'}",
                "spec.jwks.inline: is no JSON web key set",
            ),
            (
                r#"jwks: {inline: '{"keys": []}'}"#,
                "spec.jwks.inline: has no keys",
            ),
            (
                "jwks: {configMap: {name: a}, refresh: 1m}",
                "spec.jwks: `service`",
            ),
            (
                "{jwks: {configMap: {name: a}}, claimsToHeaders: {sub: 'a b'}}",
                "spec.claimsToHeaders.sub: \"a b\" is no name of a header",
            ),
            (
                "{jwks: {configMap: {name: a}}, from: {}}",
                "spec.from: names no place",
            ),
            (
                "{jwks: {configMap: {name: a}}, clockSkew: 500ms}",
                "spec.clockSkew: has to be whole seconds",
            ),
        ] {
            let found = provider(bad);
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            let place = found[0].split_once(": ").unwrap().1;
            assert!(place.starts_with(expected), "{bad}: {found:?}");
        }
    }
}
