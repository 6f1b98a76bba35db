//! What has to hold of `GatewayPolicy` and `JwtProvider` beside the types of their fields.

use http::Uri;
use http::header::HeaderName;

use super::check::{Report, check_retries};
use super::gateway_policy::{
    ApiKeysSpec, BasicAuthSpec, CallLimit, CorsSpec, CountedBy, ExtAuthzSpec, GatewayPolicySpec,
    JwksSpec, JwtProviderSpec, JwtSpec, PolicyTarget,
};

/// Each header that may be missing doubles what a request is counted under.
const MAX_BY: usize = 4;

pub(super) fn check(spec: &GatewayPolicySpec, report: &mut Report<'_>) {
    if spec.target_refs.is_empty() {
        report(
            "spec.targetRefs".to_owned(),
            "says for what; it is empty".to_owned(),
        );
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        check_target(&format!("spec.targetRefs[{index}]"), target, report);
    }
    if let Some(jwt) = &spec.jwt {
        check_jwt(jwt, report);
    }
    if let Some(keys) = &spec.api_keys {
        check_api_keys(keys, report);
    }
    if let Some(basic) = &spec.basic_auth {
        check_basic_auth(basic, report);
    }
    if let Some(authorizer) = &spec.ext_authz {
        check_ext_authz(authorizer, report);
    }
    for (index, limit) in spec.rate_limits.iter().flatten().enumerate() {
        check_limit(&format!("spec.rateLimits[{index}]"), limit, report);
    }
    if let Some(cors) = &spec.cors {
        check_cors(cors, report);
    }
    if let Some(retries) = &spec.retries {
        check_retries("spec.retries", retries, report);
    }
}

fn check_target(path: &str, target: &PolicyTarget, report: &mut Report<'_>) {
    let group = match target.kind.as_str() {
        "Gateway" | "HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io",
        "Ingress" => "networking.k8s.io",
        other => {
            return report(
                format!("{path}.kind"),
                format!("{other:?} is not Gateway, HTTPRoute, GRPCRoute or Ingress"),
            );
        }
    };
    if let Some(written) = target.group.as_deref().filter(|written| *written != group) {
        report(
            format!("{path}.group"),
            format!("{written:?} has no {}; it is of {group}", target.kind),
        );
    }
    if target.kind == "Ingress" && target.section_name.is_some() {
        report(
            format!("{path}.sectionName"),
            "the rules of an Ingress have no names".to_owned(),
        );
    }
}

fn check_jwt(spec: &JwtSpec, report: &mut Report<'_>) {
    let requirement = (&spec.any_of[..], &spec.all_of[..], spec.allow_missing);
    check_requirement("spec.jwt", requirement, spec.off, report);
    if spec.off && !spec.rules.is_empty() {
        report(
            "spec.jwt.rules".to_owned(),
            "cannot be together with `off`".to_owned(),
        );
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.jwt.rules[{index}]");
        let requirement = (&rule.any_of[..], &rule.all_of[..], rule.allow_missing);
        check_requirement(&path, requirement, rule.off, report);
        if rule.paths.is_empty() {
            report(
                format!("{path}.paths"),
                "says for which paths; it is empty".to_owned(),
            );
        }
        check_paths(&format!("{path}.paths"), &rule.paths, report);
    }
}

fn check_requirement(
    path: &str,
    (any_of, all_of, allow_missing): (&[String], &[String], bool),
    off: bool,
    report: &mut Report<'_>,
) {
    let named = usize::from(!any_of.is_empty()) + usize::from(!all_of.is_empty());
    let reason = match (off, named) {
        (true, 0) if !allow_missing => return,
        (false, 1) => return,
        (true, _) => "`off` cannot be together with `anyOf`, `allOf` and `allowMissing`",
        (false, _) => "needs one of `anyOf`, `allOf` and `off`",
    };
    report(path.to_owned(), reason.to_owned());
}

pub(super) fn check_provider(spec: &JwtProviderSpec, report: &mut Report<'_>) {
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

fn check_api_keys(spec: &ApiKeysSpec, report: &mut Report<'_>) {
    let is_default = |spec: &ApiKeysSpec| {
        *spec
            == ApiKeysSpec {
                off: true,
                ..ApiKeysSpec::default()
            }
    };
    if spec.off != is_default(spec) || (!spec.off && spec.secrets.is_empty()) {
        report(
            "spec.apiKeys".to_owned(),
            "needs `secrets`, or `off` and nothing else".to_owned(),
        );
    }
    if let Some(places) = &spec.from {
        if places.headers.is_empty() && places.params.is_empty() && places.cookies.is_empty() {
            report("spec.apiKeys.from".to_owned(), "names no place".to_owned());
        }
        for (index, header) in places.headers.iter().enumerate() {
            check_header(
                format!("spec.apiKeys.from.headers[{index}]"),
                header,
                report,
            );
        }
    }
    if let Some(header) = &spec.client_header {
        check_header("spec.apiKeys.clientHeader".to_owned(), header, report);
    }
}

fn check_basic_auth(spec: &BasicAuthSpec, report: &mut Report<'_>) {
    if spec.off == spec.secret.is_some() {
        report(
            "spec.basicAuth".to_owned(),
            "needs one of `secret` and `off`".to_owned(),
        );
    }
}

fn check_ext_authz(spec: &ExtAuthzSpec, report: &mut Report<'_>) {
    let off = ExtAuthzSpec {
        off: true,
        ..ExtAuthzSpec::default()
    };
    match (&spec.grpc, &spec.http) {
        (None, None) if *spec == off => return,
        _ if spec.off => {
            return report(
                "spec.extAuthz".to_owned(),
                "`off` cannot be together with anything else".to_owned(),
            );
        }
        (Some(_), None) => {}
        (None, Some(http)) => {
            if let Some(path) = http.path.as_ref().filter(|path| !path.starts_with('/')) {
                report(
                    "spec.extAuthz.http.path".to_owned(),
                    format!("{path:?} does not begin with `/`"),
                );
            }
            let lists = [
                ("acceptHeaders", &http.accept_headers),
                ("clientHeaders", &http.client_headers),
            ];
            for (field, headers) in lists {
                for (index, header) in headers.iter().enumerate() {
                    let path = format!("spec.extAuthz.http.{field}[{index}]");
                    check_header(path, header, report);
                }
            }
            if !spec.context.is_empty() {
                report(
                    "spec.extAuthz.context".to_owned(),
                    "needs `grpc`".to_owned(),
                );
            }
        }
        _ => report(
            "spec.extAuthz".to_owned(),
            "needs one of `grpc`, `http` and `off`".to_owned(),
        ),
    }
    for (index, header) in spec.send_headers.iter().enumerate() {
        check_header(
            format!("spec.extAuthz.sendHeaders[{index}]"),
            header,
            report,
        );
    }
    let zero = [
        ("timeout", spec.timeout.is_some_and(|it| it.is_zero())),
        ("bodyBytes", spec.body_bytes == Some(0)),
    ];
    for (field, is_zero) in zero {
        if is_zero {
            report(
                format!("spec.extAuthz.{field}"),
                "has to be more than 0".to_owned(),
            );
        }
    }
}

fn check_limit(path: &str, limit: &CallLimit, report: &mut Report<'_>) {
    if limit.by.len() > MAX_BY {
        report(
            format!("{path}.by"),
            format!("has more than {MAX_BY} entries"),
        );
    }
    for (index, by) in limit.by.iter().enumerate() {
        let at = format!("{path}.by[{index}]");
        match by {
            CountedBy::Claim(claim) => check_claim(at.clone(), claim, report),
            CountedBy::Header(header) => check_header(at.clone(), header, report),
            CountedBy::Address => {}
        }
        if limit
            .by
            .iter()
            .take(index)
            .any(|other| other.key() == by.key())
        {
            report(at, "is there twice".to_owned());
        }
    }
    check_paths(&format!("{path}.paths"), &limit.paths, report);
    for (index, method) in limit.methods.iter().enumerate() {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            report(
                format!("{path}.methods[{index}]"),
                format!("{method:?} is no method such as GET"),
            );
        }
    }
}

fn check_cors(spec: &CorsSpec, report: &mut Report<'_>) {
    let off = CorsSpec {
        off: true,
        ..CorsSpec::default()
    };
    if spec.off != (*spec == off) || (!spec.off && spec.allow_origins.is_empty()) {
        report(
            "spec.cors".to_owned(),
            "needs `allowOrigins`, or `off` and nothing else".to_owned(),
        );
    }
    check_origins("spec.cors.allowOrigins", &spec.allow_origins, report);
}

/// Origins as browsers send them; a host may be `*`, or begin with `*.`.
pub(super) fn check_origins(path: &str, origins: &[String], report: &mut Report<'_>) {
    for (index, origin) in origins.iter().enumerate() {
        let host = origin.split_once("://").map(|(_, host)| host);
        let is_good = host.is_some_and(|host| {
            let rest = host.strip_prefix("*.").unwrap_or(host);
            host == "*" || !rest.is_empty() && !rest.contains(['*', '/', '?', '#', ' '])
        });
        if origin != "*" && !is_good {
            report(
                format!("{path}[{index}]"),
                format!("{origin:?} is not `*`, `https://host` or `https://*.host`"),
            );
        }
    }
}

fn check_claim(path: String, claim: &str, report: &mut Report<'_>) {
    if claim.split('.').any(str::is_empty) {
        report(
            path,
            format!("{claim:?} is no claim such as `sub` or `a.b`"),
        );
    }
}

fn check_header(path: String, header: &str, report: &mut Report<'_>) {
    if header.parse::<HeaderName>().is_err() {
        report(path, format!("{header:?} is no name of a header"));
    }
}

fn check_paths(path: &str, paths: &[String], report: &mut Report<'_>) {
    for (index, one) in paths.iter().enumerate() {
        let whole = one.strip_suffix('*').unwrap_or(one);
        if !one.starts_with('/') || whole.contains(['*', '?', '#']) {
            report(
                format!("{path}[{index}]"),
                format!(
                    "{one:?} is no path that begins with `/`, with a `*` at the end or without"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::load_texts;

    fn errors(kind: &str, spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n{spec}"
        );
        let label = format!("{kind} default/a: ");
        match load_texts([("a.yaml", text.as_str())]) {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .iter()
                .map(|error| error.to_string().replace(&label, ""))
                .collect(),
        }
    }

    fn policy(sections: &str) -> Vec<String> {
        errors(
            "GatewayPolicy",
            &format!("  targetRefs: [{{kind: Gateway, name: edge}}]\n{sections}"),
        )
    }

    #[test]
    fn a_policy_says_for_what_it_is() {
        assert_eq!(
            errors("GatewayPolicy", "  targetRefs: []\n"),
            ["a.yaml:5: spec.targetRefs: says for what; it is empty"]
        );
        let targets = "  targetRefs:
  - {kind: Service, name: a}
  - {group: apps, kind: HTTPRoute, name: a}
  - {kind: Ingress, name: a, sectionName: b}
";
        assert_eq!(
            errors("GatewayPolicy", targets),
            [
                "a.yaml:6: spec.targetRefs[0].kind: \"Service\" is not Gateway, HTTPRoute, GRPCRoute or Ingress",
                "a.yaml:7: spec.targetRefs[1].group: \"apps\" has no HTTPRoute; it is of gateway.networking.k8s.io",
                "a.yaml:8: spec.targetRefs[2].sectionName: the rules of an Ingress have no names",
            ]
        );
    }

    #[test]
    fn each_wrong_section_is_named_with_its_line() {
        let found = policy(
            "  jwt: {anyOf: [a], allOf: [b], rules: [{paths: [], off: true}, {paths: [a], anyOf: []}]}
  apiKeys: {secrets: [a], off: true}
  basicAuth: {}
  extAuthz: {grpc: {service: a, port: 1}, http: {service: a, port: 1}}
  rateLimits:
  - {by: [{claim: a..b}, address, address], paths: ['a*'], methods: [get], requests: 1, per: 1m}
  cors: {allowOrigins: [shop.example]}
  retries: {attempts: 11}
",
        );
        assert_eq!(
            found,
            [
                "a.yaml:6: spec.jwt: needs one of `anyOf`, `allOf` and `off`",
                "a.yaml:6: spec.jwt.rules[0].paths: says for which paths; it is empty",
                "a.yaml:6: spec.jwt.rules[1]: needs one of `anyOf`, `allOf` and `off`",
                "a.yaml:6: spec.jwt.rules[1].paths[0]: \"a\" is no path that begins with `/`, with a `*` at the end or without",
                "a.yaml:7: spec.apiKeys: needs `secrets`, or `off` and nothing else",
                "a.yaml:8: spec.basicAuth: needs one of `secret` and `off`",
                "a.yaml:9: spec.extAuthz: needs one of `grpc`, `http` and `off`",
                "a.yaml:11: spec.rateLimits[0].by[0]: \"a..b\" is no claim such as `sub` or `a.b`",
                "a.yaml:11: spec.rateLimits[0].by[2]: is there twice",
                "a.yaml:11: spec.rateLimits[0].methods[0]: \"get\" is no method such as GET",
                "a.yaml:11: spec.rateLimits[0].paths[0]: \"a*\" is no path that begins with `/`, with a `*` at the end or without",
                "a.yaml:12: spec.cors.allowOrigins[0]: \"shop.example\" is not `*`, `https://host` or `https://*.host`",
                "a.yaml:13: spec.retries.attempts: 11 is not in 1..=10",
            ]
        );
    }

    #[test]
    fn a_section_that_is_off_says_nothing_else() {
        for section in ["jwt", "apiKeys", "basicAuth", "extAuthz", "cors"] {
            let none: Vec<String> = Vec::new();
            assert_eq!(policy(&format!("  {section}: {{off: true}}\n")), none);
        }
        for section in [
            "jwt: {off: true, anyOf: [a]}",
            "jwt: {off: true, allowMissing: true}",
            "apiKeys: {off: true, forward: true}",
            "basicAuth: {off: true, secret: a}",
            "extAuthz: {off: true, failOpen: true}",
            "cors: {off: true, allowOrigins: ['*']}",
        ] {
            assert_eq!(policy(&format!("  {section}\n")).len(), 1, "{section}");
        }
    }

    #[test]
    fn unknown_fields_and_times_of_policies_are_named() {
        for (section, expected) in [
            (
                "jwt: {anyof: [a]}",
                "a.yaml:6: spec.jwt.anyof: unknown field",
            ),
            (
                "rateLimits: [{by: [user], requests: 1, per: 1m}]",
                "a.yaml:6: spec.rateLimits[0].by[0]: unknown variant",
            ),
            (
                "rateLimits: [{requests: 1, per: 1w}]",
                "a.yaml:6: spec.rateLimits[0].per: \"1w\" is no time",
            ),
            (
                "compression: [deflate]",
                "a.yaml:6: spec.compression[0]: unknown variant",
            ),
        ] {
            let found = policy(&format!("  {section}\n"));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expected), "{found:?}");
        }
    }

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
