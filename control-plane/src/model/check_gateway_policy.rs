//! What has to hold of a `GatewayPolicy` beside the types of its fields.

use super::check::{Report, check_retries};
use super::check_sections::{
    check_addresses, check_bandwidth, check_claim, check_cors, check_csrf, check_errors,
    check_header,
};
use super::gateway_policy::{
    ApiKeysSpec, BasicAuthSpec, CallLimit, Claims, CountedBy, ExtAuthzSpec, GatewayPolicySpec,
    JwtSpec, PolicyTarget,
};

/// Each header that may be missing doubles what a request is counted under.
const MAX_BY: usize = 4;

pub(super) fn check(spec: &GatewayPolicySpec, report: &mut Report<'_>) {
    for (index, target) in spec.target_refs.iter().enumerate() {
        check_target(&format!("spec.targetRefs[{index}]"), target, report);
    }
    let is_of_gateways =
        |target: &PolicyTarget| target.kind == "Gateway" && target.section_name.is_none();
    if spec.trusted_hops.is_some()
        && (spec.target_refs.is_empty() || !spec.target_refs.iter().all(is_of_gateways))
    {
        report(
            "spec.trustedHops".to_owned(),
            "is for whole Gateways: no other `targetRefs` may be beside it".to_owned(),
        );
    }
    if let Some(addresses) = &spec.addresses {
        check_addresses(addresses, report);
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
    if let Some(csrf) = &spec.csrf {
        check_csrf(csrf, report);
    }
    if let Some(errors) = &spec.errors {
        check_errors(errors, report);
    }
    if let Some(bandwidth) = &spec.bandwidth {
        check_bandwidth(bandwidth, report);
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
    let demand = Demand {
        any_of: &spec.any_of,
        all_of: &spec.all_of,
        allow_missing: spec.allow_missing,
        claims: &spec.claims,
        off: spec.off,
    };
    check_demand("spec.jwt", &demand, report);
    if spec.off && !spec.rules.is_empty() {
        report(
            "spec.jwt.rules".to_owned(),
            "cannot be together with `off`".to_owned(),
        );
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.jwt.rules[{index}]");
        let demand = Demand {
            any_of: &rule.any_of,
            all_of: &rule.all_of,
            allow_missing: rule.allow_missing,
            claims: &rule.claims,
            off: rule.off,
        };
        check_demand(&path, &demand, report);
        if rule.paths.is_empty() {
            report(
                format!("{path}.paths"),
                "says for which paths; it is empty".to_owned(),
            );
        }
        check_paths(&format!("{path}.paths"), &rule.paths, report);
    }
}

/// Which token is needed, for all paths or for some.
struct Demand<'a> {
    any_of: &'a [String],
    all_of: &'a [String],
    allow_missing: bool,
    claims: &'a Claims,
    off: bool,
}

fn check_demand(path: &str, demand: &Demand<'_>, report: &mut Report<'_>) {
    let named = usize::from(!demand.any_of.is_empty()) + usize::from(!demand.all_of.is_empty());
    let is_bare = named == 0 && !demand.allow_missing && demand.claims.is_empty();
    match (demand.off, named) {
        (true, _) if is_bare => {}
        (false, 1) => {}
        (true, _) => report(
            path.to_owned(),
            "`off` cannot be together with `anyOf`, `allOf`, `allowMissing` and `claims`"
                .to_owned(),
        ),
        (false, _) => report(
            path.to_owned(),
            "needs one of `anyOf`, `allOf` and `off`".to_owned(),
        ),
    }
    if demand.claims.is_empty() {
        return;
    }
    if demand.allow_missing || demand.all_of.len() > 1 {
        report(
            format!("{path}.claims"),
            "are of one token, which has to be there: not with `allowMissing`, nor with more than one of `allOf`"
                .to_owned(),
        );
    }
    for (claim, values) in demand.claims {
        check_claim(format!("{path}.claims.{claim}"), claim, report);
        if values.is_empty() {
            report(
                format!("{path}.claims.{claim}"),
                "says which values are good; it is empty".to_owned(),
            );
        }
    }
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
            CountedBy::Address | CountedBy::Path => {}
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
pub(super) mod tests {
    use crate::model::load_texts;

    pub(in crate::model) fn errors(kind: &str, spec: &str) -> Vec<String> {
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
        // It may be for rules that name it.
        assert!(errors("GatewayPolicy", "  targetRefs: []\n").is_empty());
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
    fn each_wrong_guard_is_named_with_what_is_right() {
        for (bad, place, reason) in [
            ("addresses: {}", "addresses", "needs `allow`"),
            (
                "addresses: {off: true, deny: [10.0.0.1]}",
                "addresses",
                "needs `allow`",
            ),
            (
                "addresses: {allow: [10.0.0.0/33]}",
                "addresses.allow[0]",
                "\"10.0.0.0/33\" is no address",
            ),
            (
                "addresses: {deny: ['::1', ten]}",
                "addresses.deny[1]",
                "\"ten\" is no address",
            ),
            ("csrf: {off: true, allowHosts: [a]}", "csrf", "`off` cannot"),
            (
                "csrf: {allowHosts: ['https://a']}",
                "csrf.allowHosts[0]",
                "\"https://a\" is no host",
            ),
            (
                "errors: [{statuses: []}]",
                "errors[0].statuses",
                "says for which",
            ),
            (
                "errors: [{statuses: [200]}]",
                "errors[0].statuses[0]",
                "is no status",
            ),
            (
                "errors: [{statuses: [404, 3xx]}]",
                "errors[0].statuses[1]",
                "is no status",
            ),
            (
                "errors: [{statuses: [404], status: 99}]",
                "errors[0].status",
                "99 is not in 200..=599",
            ),
            (
                "errors: [{statuses: [404], contentType: \"a\\nb\"}]",
                "errors[0].contentType",
                "\"a\\nb\" is no value",
            ),
            (
                "errors: [{statuses: [404], headers: {'a b': c}}]",
                "errors[0].headers.a b",
                "\"a b\" is no name",
            ),
            ("bandwidth: {}", "bandwidth", "needs `kibPerSecond`"),
            (
                "bandwidth: {kibPerSecond: 0}",
                "bandwidth",
                "needs `kibPerSecond`",
            ),
            (
                "bandwidth: {off: true, kibPerSecond: 1}",
                "bandwidth",
                "needs `kibPerSecond`",
            ),
            ("jwt: {off: true, claims: {a: [b]}}", "jwt", "`off` cannot"),
            (
                "jwt: {anyOf: [a], claims: {a: []}}",
                "jwt.claims.a",
                "says which",
            ),
            (
                "jwt: {anyOf: [a], allowMissing: true, claims: {a: [b]}}",
                "jwt.claims",
                "are of one token",
            ),
            (
                "jwt: {allOf: [a, b], claims: {a: [b]}}",
                "jwt.claims",
                "are of one token",
            ),
        ] {
            let found = policy(&format!("  {bad}\n"));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            let expected = format!("spec.{place}: {reason}");
            assert!(found[0].contains(&expected), "{bad}: {found:?}");
        }
        let hops = "  targetRefs: [{kind: Gateway, name: a, sectionName: b}]\n  trustedHops: 1\n";
        assert!(
            errors("GatewayPolicy", hops)[0].contains("spec.trustedHops: is for whole Gateways")
        );
        let hops = "  trustedHops: 1\n";
        assert_eq!(errors("GatewayPolicy", hops).len(), 1);
    }
}
