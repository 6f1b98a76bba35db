//! What has to hold of an object beside the types of its fields: ranges, forms, and fields that need each other.

use gateway_api::apis::standard::gateways::GatewaySpec;
use gateway_api::apis::standard::httproutes::{
    HttpRouteRules, HttpRouteRulesFilters, HttpRouteRulesFiltersType, HttpRouteRulesMatches,
    HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};
use k8s_openapi::api::core::v1::ServiceSpec;

use super::check_sections::check_origins;
use super::kinds::{
    AuthorizationSpec, HealthCheck, Host, MeshDefaultsSpec, OutlierDetection, Retries,
    TrafficPolicySpec, WorkloadSpec, parse_duration,
};
use super::object::Object;
use super::{backend_tls, check_gateway_policy, check_jwt_provider, ingress, load_balancing};

/// Takes a path such as `spec.rules[0].weight` and what is wrong there.
pub(super) type Report<'a> = dyn FnMut(String, String) + 'a;

pub(super) fn check(object: &Object, report: &mut Report<'_>) {
    match object {
        Object::Gateway(gateway) => check_gateway(&gateway.spec, report),
        Object::HttpRoute(route) => {
            check_hostnames("spec.hostnames", route.spec.hostnames.as_deref(), report);
            for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
                check_rule(&format!("spec.rules[{index}]"), rule, report);
            }
        }
        Object::GrpcRoute(route) => {
            check_hostnames("spec.hostnames", route.spec.hostnames.as_deref(), report);
            for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
                for (backend, reference) in rule.backend_refs.iter().flatten().enumerate() {
                    let path = format!("spec.rules[{index}].backendRefs[{backend}]");
                    check_backend(&path, reference.port, reference.weight, report);
                }
            }
        }
        Object::TlsRoute(route) => {
            check_hostnames("spec.hostnames", Some(&route.spec.hostnames), report);
            for (index, rule) in route.spec.rules.iter().enumerate() {
                for (backend, reference) in rule.backend_refs.iter().enumerate() {
                    let path = format!("spec.rules[{index}].backendRefs[{backend}]");
                    check_backend(&path, reference.port, reference.weight, report);
                }
            }
        }
        Object::TcpRoute(route) => {
            for (index, rule) in route.spec.rules.iter().enumerate() {
                for (backend, reference) in rule.backend_refs.iter().enumerate() {
                    let path = format!("spec.rules[{index}].backendRefs[{backend}]");
                    check_backend(&path, reference.port, reference.weight, report);
                }
            }
        }
        Object::Service(service) => {
            if let Some(spec) = &service.spec {
                check_service(spec, report);
            }
        }
        Object::EndpointSlice(slice) => {
            let kind = slice.address_type.as_str();
            if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
                report(
                    "addressType".to_owned(),
                    format!("{kind:?} is not IPv4, IPv6 or FQDN"),
                );
            }
            for (index, endpoint) in slice.endpoints.iter().enumerate() {
                for (at, address) in endpoint.addresses.iter().enumerate() {
                    let path = format!("endpoints[{index}].addresses[{at}]");
                    match (kind, address.parse::<Host>()) {
                        ("FQDN", Ok(Host::Name(_))) | ("IPv4" | "IPv6", Ok(Host::Ip(_))) => {}
                        ("FQDN", _) => report(path, format!("{address:?} is no DNS name")),
                        _ => report(path, format!("{address:?} is no IP address")),
                    }
                }
            }
        }
        Object::Ingress(found) => ingress::check(found, report),
        Object::IngressClass(class) => ingress::check_class(class, report),
        Object::BackendTlsPolicy(policy) => backend_tls::check(&policy.spec, report),
        Object::Workload(workload) => check_workload(&workload.spec, report),
        Object::MeshDefaults(defaults) => check_defaults(&defaults.spec, report),
        Object::TrafficPolicy(policy) => check_traffic(&policy.spec, report),
        Object::AuthorizationPolicy(policy) => check_authorization(&policy.spec, report),
        Object::GatewayPolicy(policy) => check_gateway_policy::check(&policy.spec, report),
        Object::JwtProvider(provider) => {
            check_jwt_provider::check(&provider.spec, report);
        }
        Object::GatewayClass(_)
        | Object::ReferenceGrant(_)
        | Object::Secret(_)
        | Object::ConfigMap(_)
        | Object::PeerAuthentication(_)
        | Object::RateLimit(_) => {}
    }
}

fn check_gateway(spec: &GatewaySpec, report: &mut Report<'_>) {
    for (index, address) in spec.addresses.iter().flatten().enumerate() {
        let path = format!("spec.addresses[{index}]");
        if address
            .r#type
            .as_deref()
            .is_some_and(|kind| kind != "IPAddress")
        {
            report(
                format!("{path}.type"),
                "only IPAddress is supported".to_owned(),
            );
        }
        let value = address.value.as_deref().unwrap_or_default();
        if value.parse::<std::net::IpAddr>().is_err() {
            report(
                format!("{path}.value"),
                format!("{value:?} is no IP address"),
            );
        }
    }
    for (index, listener) in spec.listeners.iter().enumerate() {
        let path = format!("spec.listeners[{index}]");
        check_port(&format!("{path}.port"), listener.port, report);
        if let Some(hostname) = &listener.hostname {
            check_hostname(format!("{path}.hostname"), hostname, report);
        }
        if spec.listeners[..index]
            .iter()
            .any(|other| other.name == listener.name)
        {
            let name = &listener.name;
            report(
                format!("{path}.name"),
                format!("another listener is called {name:?}"),
            );
        }
        let needs_tls = matches!(listener.protocol.as_str(), "HTTPS" | "TLS");
        match (&listener.tls, needs_tls) {
            (None, true) => report(
                path,
                format!("a listener of {} needs `tls`", listener.protocol),
            ),
            (Some(_), false) => report(
                format!("{path}.tls"),
                format!("a listener of {} takes no `tls`", listener.protocol),
            ),
            _ => {}
        }
    }
}

fn check_rule(path: &str, rule: &HttpRouteRules, report: &mut Report<'_>) {
    for (index, matches) in rule.matches.iter().flatten().enumerate() {
        check_match(&format!("{path}.matches[{index}]"), matches, report);
    }
    for (index, filter) in rule.filters.iter().flatten().enumerate() {
        check_filter(&format!("{path}.filters[{index}]"), filter, report);
    }
    for (index, backend) in rule.backend_refs.iter().flatten().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        check_backend(&path, backend.port, backend.weight, report);
    }
    if let Some(timeouts) = &rule.timeouts {
        let fields = [
            ("request", &timeouts.request),
            ("backendRequest", &timeouts.backend_request),
        ];
        for (field, value) in fields {
            if let Some(Err(reason)) = value.as_deref().map(parse_duration) {
                report(format!("{path}.timeouts.{field}"), reason);
            }
        }
    }
}

fn check_match(path: &str, matches: &HttpRouteRulesMatches, report: &mut Report<'_>) {
    if let Some(found) = &matches.path {
        let value = found.value.as_deref().unwrap_or("/");
        if found.r#type == Some(HttpRouteRulesMatchesPathType::RegularExpression) {
            check_regex(format!("{path}.path.value"), value, report);
        } else if !value.starts_with('/') {
            let reason = format!("{value:?} does not begin with `/`");
            report(format!("{path}.path.value"), reason);
        }
    }
    for (index, header) in matches.headers.iter().flatten().enumerate() {
        if header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression) {
            let path = format!("{path}.headers[{index}].value");
            check_regex(path, &header.value, report);
        }
    }
    for (index, parameter) in matches.query_params.iter().flatten().enumerate() {
        if parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression) {
            let path = format!("{path}.queryParams[{index}].value");
            check_regex(path, &parameter.value, report);
        }
    }
}

/// Proxies have RE2, whose syntax is that of the crate with few exceptions.
fn check_regex(path: String, text: &str, report: &mut Report<'_>) {
    if text.is_empty() || regex::Regex::new(text).is_err() {
        report(path, format!("{text:?} is no regular expression"));
    }
}

fn check_filter(path: &str, filter: &HttpRouteRulesFilters, report: &mut Report<'_>) {
    use HttpRouteRulesFiltersType as Type;
    let (field, is_there) = match filter.r#type {
        Type::RequestHeaderModifier => (
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        Type::ResponseHeaderModifier => (
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        Type::RequestMirror => ("requestMirror", filter.request_mirror.is_some()),
        Type::RequestRedirect => ("requestRedirect", filter.request_redirect.is_some()),
        Type::UrlRewrite => ("urlRewrite", filter.url_rewrite.is_some()),
        Type::ExtensionRef => ("extensionRef", filter.extension_ref.is_some()),
        Type::Cors => ("cors", filter.cors.is_some()),
    };
    if !is_there {
        report(
            format!("{path}.type"),
            format!("the filter has no `{field}`"),
        );
    }
    if let Some(origins) = filter
        .cors
        .as_ref()
        .and_then(|cors| cors.allow_origins.as_ref())
    {
        check_origins(&format!("{path}.cors.allowOrigins"), origins, report);
    }
    if let Some(redirect) = &filter.request_redirect {
        if let Some(port) = redirect.port {
            check_port(&format!("{path}.requestRedirect.port"), port, report);
        }
        if let Some(status) = redirect.status_code
            && !matches!(status, 301 | 302 | 303 | 307 | 308)
        {
            report(
                format!("{path}.requestRedirect.statusCode"),
                format!("{status} is not 301, 302, 303, 307 or 308"),
            );
        }
    }
    if let Some(percent) = filter
        .request_mirror
        .as_ref()
        .and_then(|mirror| mirror.percent)
    {
        check_range(
            &format!("{path}.requestMirror.percent"),
            percent.into(),
            0,
            100,
            report,
        );
    }
}

fn check_backend(path: &str, port: Option<i32>, weight: Option<i32>, report: &mut Report<'_>) {
    if let Some(port) = port {
        check_port(&format!("{path}.port"), port, report);
    }
    if let Some(weight) = weight {
        check_range(
            &format!("{path}.weight"),
            weight.into(),
            0,
            1_000_000,
            report,
        );
    }
}

fn check_service(spec: &ServiceSpec, report: &mut Report<'_>) {
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        check_port(&format!("spec.ports[{index}].port"), port.port, report);
        if port
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "TCP")
        {
            report(
                format!("spec.ports[{index}].protocol"),
                "only TCP is supported".to_owned(),
            );
        }
    }
    if let Some(address) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
        && address.parse::<std::net::IpAddr>().is_err()
    {
        report(
            "spec.clusterIP".to_owned(),
            format!("{address:?} is no IP address"),
        );
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    if is_external && !matches!(name.parse(), Ok(Host::Name(_))) {
        report(
            "spec.externalName".to_owned(),
            format!("{name:?} is no DNS name"),
        );
    }
}

fn check_workload(spec: &WorkloadSpec, report: &mut Report<'_>) {
    if let Some(weight) = spec.weight {
        check_range("spec.weight", weight.into(), 1, 128, report);
    }
    let sidecar = spec.sidecar.unwrap_or(true) && !spec.proxyless;
    if spec.proxyless && spec.sidecar.is_some() {
        report(
            "spec.sidecar".to_owned(),
            "what is proxyless is its own sidecar".to_owned(),
        );
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check_port(&format!("{path}.port"), port.port.into(), report);
        if let Some(app) = port.app_port {
            check_port(&format!("{path}.appPort"), app.into(), report);
            if !sidecar {
                report(
                    format!("{path}.appPort"),
                    "there is no sidecar that would forward to it".to_owned(),
                );
            }
        }
        let shares_loopback = match &spec.address {
            Host::Ip(address) => address.is_loopback(),
            // The sidecar listens on all addresses.
            Host::Name(_) => true,
        };
        if sidecar && shares_loopback && port.app_port.unwrap_or(port.port) == port.port {
            report(
                format!("{path}.appPort"),
                "on a loopback address the sidecar and the process need different ports".to_owned(),
            );
        }
    }
    for (index, call) in spec.calls.iter().flatten().enumerate() {
        check_port(
            &format!("spec.calls[{index}].port"),
            call.port.into(),
            report,
        );
        for other in spec.calls.iter().flatten().take(index) {
            if call.listen.is_some() && call.listen == other.listen {
                report(
                    format!("spec.calls[{index}].listen"),
                    "another call listens there".to_owned(),
                );
            }
        }
    }
}

fn check_defaults(spec: &MeshDefaultsSpec, report: &mut Report<'_>) {
    if let Some(retries) = &spec.retries {
        check_retries("spec.retries", retries, report);
    }
    if spec
        .connect_timeout
        .is_some_and(|timeout| timeout.is_zero())
    {
        report(
            "spec.connectTimeout".to_owned(),
            "has to be more than 0s".to_owned(),
        );
    }
}

pub(super) fn check_retries(path: &str, retries: &Retries, report: &mut Report<'_>) {
    check_range(
        &format!("{path}.attempts"),
        retries.attempts.into(),
        1,
        10,
        report,
    );
    if let Some(backoff) = &retries.backoff {
        if backoff.base.is_zero() {
            report(
                format!("{path}.backoff.base"),
                "has to be more than 0s".to_owned(),
            );
        }
        if backoff.max.is_some_and(|max| max < backoff.base) {
            report(
                format!("{path}.backoff.max"),
                "is less than `base`".to_owned(),
            );
        }
    }
}

fn check_traffic(spec: &TrafficPolicySpec, report: &mut Report<'_>) {
    if spec.service.is_none() {
        report(
            "spec.service".to_owned(),
            "says for which service; it is missing".to_owned(),
        );
    }
    if let Some(retries) = &spec.retries {
        check_retries("spec.retries", retries, report);
    }
    let sum: u64 = spec
        .split
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    if !spec.split.is_empty() && !(1..=u64::from(u32::MAX)).contains(&sum) {
        report(
            "spec.split".to_owned(),
            format!("the sum of the weights, {sum}, is not in 1..={}", u32::MAX),
        );
    }
    if let Some(percent) = spec.mirror.as_ref().and_then(|mirror| mirror.percent) {
        check_range("spec.mirror.percent", percent.into(), 0, 100, report);
    }
    if let Some(fault) = &spec.fault {
        if let Some(delay) = &fault.delay {
            check_range(
                "spec.fault.delay.percent",
                delay.percent.into(),
                0,
                100,
                report,
            );
            if delay.duration.is_zero() {
                report(
                    "spec.fault.delay.duration".to_owned(),
                    "has to be more than 0s".to_owned(),
                );
            }
        }
        if let Some(abort) = &fault.abort {
            check_range(
                "spec.fault.abort.percent",
                abort.percent.into(),
                0,
                100,
                report,
            );
            check_range(
                "spec.fault.abort.status",
                abort.status.into(),
                200,
                599,
                report,
            );
        }
        if fault.delay.is_none() && fault.abort.is_none() {
            report(
                "spec.fault".to_owned(),
                "has neither `delay` nor `abort`".to_owned(),
            );
        }
    }
    if let Some(limit) = &spec.rate_limit {
        if limit.per.as_millis() < 50 {
            report(
                "spec.rateLimit.per".to_owned(),
                "has to be 50ms or more".to_owned(),
            );
        }
        if limit.requests == 0 {
            report(
                "spec.rateLimit.requests".to_owned(),
                "has to be more than 0".to_owned(),
            );
        }
        if limit.burst.is_some_and(|burst| burst < limit.requests) {
            report(
                "spec.rateLimit.burst".to_owned(),
                "is less than `requests`".to_owned(),
            );
        }
    }
    if let Some(outlier) = &spec.outlier_detection {
        check_outliers(outlier, report);
    }
    if let Some(balancing) = &spec.load_balancing {
        load_balancing::check(balancing, report);
    }
    if let Some(health) = &spec.health_check {
        check_health(health, report);
    }
}

fn check_outliers(spec: &OutlierDetection, report: &mut Report<'_>) {
    let path = |field: &str| format!("spec.outlierDetection.{field}");
    let threshold = spec.failure_percentage.as_ref().map(|it| it.threshold);
    for (field, least, percent) in [
        ("maxEjectionPercent", 0, spec.max_ejection_percent),
        ("failurePercentage.threshold", 1, threshold),
    ] {
        if let Some(percent) = percent {
            check_range(&path(field), percent.into(), least, 100, report);
        }
    }
    for (field, value) in [
        ("interval", spec.interval),
        ("baseEjectionTime", spec.base_ejection_time),
        ("maxEjectionTime", spec.max_ejection_time),
    ] {
        if value.is_some_and(|value| value.is_zero()) {
            report(path(field), "has to be more than 0s".to_owned());
        }
    }
    if let (Some(base), Some(max)) = (spec.base_ejection_time, spec.max_ejection_time)
        && max < base
    {
        report(
            path("maxEjectionTime"),
            "is less than `baseEjectionTime`".to_owned(),
        );
    }
}

fn check_health(spec: &HealthCheck, report: &mut Report<'_>) {
    let path = |field: &str| format!("spec.healthCheck.{field}");
    match &spec.path {
        Some(written) if !written.starts_with('/') => {
            report(path("path"), format!("{written:?} does not begin with `/`"))
        }
        Some(_) if spec.grpc_service.is_some() => report(
            path("grpcService"),
            "cannot be together with `path`".to_owned(),
        ),
        None if spec.host.is_some() || !spec.statuses.is_empty() => report(
            "spec.healthCheck".to_owned(),
            "`host` and `statuses` need `path`".to_owned(),
        ),
        _ => {}
    }
    for (index, status) in spec.statuses.iter().enumerate() {
        let path = path(&format!("statuses[{index}]"));
        check_range(&path, (*status).into(), 100, 599, report);
    }
    for (field, value) in [("interval", spec.interval), ("timeout", spec.timeout)] {
        if value.is_some_and(|value| value.is_zero()) {
            report(path(field), "has to be more than 0s".to_owned());
        }
    }
    for (field, value) in [
        ("healthyThreshold", spec.healthy_threshold),
        ("unhealthyThreshold", spec.unhealthy_threshold),
    ] {
        if value == Some(0) {
            report(path(field), "has to be 1 or more".to_owned());
        }
    }
}

fn check_authorization(spec: &AuthorizationSpec, report: &mut Report<'_>) {
    for (index, rule) in spec.rules.iter().enumerate() {
        for (at, identity) in rule.identities.iter().enumerate() {
            let whole = identity.strip_suffix('*').unwrap_or(identity);
            let is_uri = whole.starts_with("spiffe://");
            if whole.contains('*') || (!is_uri && !identity.contains('/')) {
                report(
                    format!("spec.rules[{index}].identities[{at}]"),
                    format!(
                        "{identity:?} is neither `spiffe://…` nor `<namespace>/<service account>`, with a `*` at the end or without"
                    ),
                );
            }
        }
        for (at, path) in rule.paths.iter().enumerate() {
            if !path.starts_with('/') || path.strip_suffix('*').unwrap_or(path).contains('*') {
                report(
                    format!("spec.rules[{index}].paths[{at}]"),
                    format!(
                        "{path:?} is no path that begins with `/`, with a `*` at the end or without"
                    ),
                );
            }
        }
    }
}

fn check_hostnames(path: &str, hostnames: Option<&[String]>, report: &mut Report<'_>) {
    for (index, hostname) in hostnames.unwrap_or_default().iter().enumerate() {
        check_hostname(format!("{path}[{index}]"), hostname, report);
    }
}

pub(super) fn check_hostname(path: String, hostname: &str, report: &mut Report<'_>) {
    let name = hostname.strip_prefix("*.").unwrap_or(hostname);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if name.len() > 253
        || !name.split('.').all(is_label)
        || name.parse::<std::net::IpAddr>().is_ok()
    {
        report(
            path,
            format!("{hostname:?} is no lower-case host name, with `*.` before it or without"),
        );
    }
}

pub(super) fn check_port(path: &str, port: i32, report: &mut Report<'_>) {
    check_range(path, port.into(), 1, 65535, report);
}

pub(super) fn check_range(path: &str, value: i64, least: i64, most: i64, report: &mut Report<'_>) {
    if !(least..=most).contains(&value) {
        report(
            path.to_owned(),
            format!("{value} is not in {least}..={most}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::model::load_texts;

    fn traffic(fields: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name}\nspec:\n  service: {service}\n{fields}",
            name = "{name: a}",
            service = "{name: b}",
        );
        match load_texts([("a.yaml", text.as_str())]) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn health_checks_and_outliers_name_what_is_wrong_with_its_line() {
        let none: Vec<String> = Vec::new();
        for good in [
            "healthCheck: {}",
            "healthCheck: {path: /healthz, host: a.b, statuses: [200, 204], interval: 1s, timeout: 1s, healthyThreshold: 1, unhealthyThreshold: 1}",
            "healthCheck: {grpcService: ''}",
            "loadBalancing: {algorithm: LeastRequest, slowStart: 30s}",
            "outlierDetection: {maxEjectionTime: 1m, consecutiveGatewayErrors: 3, consecutiveLocalErrors: 2, failurePercentage: {threshold: 50}}",
        ] {
            assert_eq!(traffic(&format!("  {good}\n")), none, "{good}");
        }
        for (bad, expected) in [
            (
                "loadBalancing: {}",
                "loadBalancing: needs one of `algorithm`, `hashBy` and `slowStart`",
            ),
            (
                "loadBalancing: {algorithm: Random, hashBy: [address]}",
                "loadBalancing.algorithm: cannot be together with `hashBy`",
            ),
            (
                "loadBalancing: {algorithm: Random, slowStart: 5s}",
                "loadBalancing.slowStart: needs `RoundRobin` or `LeastRequest`",
            ),
            (
                "loadBalancing: {slowStart: 0s}",
                "loadBalancing.slowStart: has to be more than 0s",
            ),
            (
                "loadBalancing: {hashBy: [{header: x}, {cookie: 'a b'}]}",
                "loadBalancing.hashBy[1]: \"a b\" is no name of a cookie",
            ),
            (
                "healthCheck: {path: healthz}",
                "healthCheck.path: \"healthz\" does not begin with `/`",
            ),
            (
                "healthCheck: {path: /, grpcService: a}",
                "healthCheck.grpcService: cannot be together with `path`",
            ),
            (
                "healthCheck: {statuses: [200]}",
                "healthCheck: `host` and `statuses` need `path`",
            ),
            (
                "healthCheck: {path: /, statuses: [600]}",
                "healthCheck.statuses[0]: 600 is not in 100..=599",
            ),
            (
                "healthCheck: {interval: 0s}",
                "healthCheck.interval: has to be more than 0s",
            ),
            (
                "healthCheck: {unhealthyThreshold: 0}",
                "healthCheck.unhealthyThreshold: has to be 1 or more",
            ),
            (
                "outlierDetection: {baseEjectionTime: 2s, maxEjectionTime: 1s}",
                "outlierDetection.maxEjectionTime: is less than `baseEjectionTime`",
            ),
            (
                "outlierDetection: {failurePercentage: {threshold: 0}}",
                "outlierDetection.failurePercentage.threshold: 0 is not in 1..=100",
            ),
        ] {
            let expected = format!("a.yaml:6: TrafficPolicy default/a: spec.{expected}");
            assert_eq!(traffic(&format!("  {bad}\n")), [expected], "{bad}");
        }
    }
}
