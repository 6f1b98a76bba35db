//! What has to hold of sections of a `GatewayPolicy` that say where a request comes from and what becomes of it.

use std::net::IpAddr;

use http::header::{HeaderName, HeaderValue};

use super::check::{Report, check_range};
use super::gateway_policy::{
    AddressesSpec, BandwidthSpec, CorsSpec, CsrfSpec, ErrorAnswer, Scalar,
};

pub(super) fn check_addresses(spec: &AddressesSpec, report: &mut Report<'_>) {
    let is_empty = spec.allow.is_empty() && spec.deny.is_empty();
    if spec.off != is_empty {
        report(
            "spec.addresses".to_owned(),
            "needs `allow`, `deny` or both, or `off` and nothing else".to_owned(),
        );
    }
    for (field, list) in [("allow", &spec.allow), ("deny", &spec.deny)] {
        for (index, text) in list.iter().enumerate() {
            if let Err(reason) = range(text) {
                report(format!("spec.addresses.{field}[{index}]"), reason);
            }
        }
    }
}

/// An address, and how many bits of it count.
pub(crate) fn range(text: &str) -> Result<(IpAddr, u8), String> {
    let bad = || format!("{text:?} is no address and no range of them, such as 10.0.0.0/8");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), str::parse).map_err(|_| bad())?;
    if bits > most {
        return Err(bad());
    }
    Ok((address, bits))
}

pub(super) fn check_csrf(spec: &CsrfSpec, report: &mut Report<'_>) {
    if spec.off && !spec.allow_hosts.is_empty() {
        report(
            "spec.csrf".to_owned(),
            "`off` cannot be together with `allowHosts`".to_owned(),
        );
    }
    for (index, host) in spec.allow_hosts.iter().enumerate() {
        let rest = host.strip_prefix("*.").unwrap_or(host);
        if rest.is_empty() || rest.contains(['*', '/', '?', '#', ' ']) {
            report(
                format!("spec.csrf.allowHosts[{index}]"),
                format!(
                    "{host:?} is no host such as shop.example, *.shop.example or localhost:8080"
                ),
            );
        }
    }
}

pub(super) fn check_errors(errors: &[ErrorAnswer], report: &mut Report<'_>) {
    for (index, error) in errors.iter().enumerate() {
        let path = format!("spec.errors[{index}]");
        if error.statuses.is_empty() {
            report(
                format!("{path}.statuses"),
                "says for which answers; it is empty".to_owned(),
            );
        }
        for (at, status) in error.statuses.iter().enumerate() {
            let is_good = match status {
                Scalar::Number(code) => (400..=599).contains(code),
                Scalar::Text(class) => matches!(class.as_str(), "4xx" | "5xx"),
                Scalar::Bool(_) => false,
            };
            if !is_good {
                report(
                    format!("{path}.statuses[{at}]"),
                    "is no status of 400 to 599, nor 4xx or 5xx".to_owned(),
                );
            }
        }
        if let Some(status) = error.status {
            check_range(&format!("{path}.status"), status.into(), 200, 599, report);
        }
        let content_type = error.content_type.iter();
        let content_type = content_type.map(|value| ("contentType".to_owned(), value));
        let headers = error.headers.iter();
        let headers = headers.map(|(name, value)| (format!("headers.{name}"), value));
        for (field, value) in content_type.chain(headers) {
            if HeaderValue::from_str(value).is_err() {
                report(
                    format!("{path}.{field}"),
                    format!("{value:?} is no value of a header"),
                );
            }
        }
        for header in error.headers.keys() {
            check_header(format!("{path}.headers.{header}"), header, report);
        }
    }
}

pub(super) fn check_bandwidth(spec: &BandwidthSpec, report: &mut Report<'_>) {
    let is_alone = spec.kib_per_second.is_none() && spec.of.is_empty();
    match spec.off {
        true if is_alone => {}
        false if spec.kib_per_second.is_some_and(|rate| rate > 0) => {}
        _ => report(
            "spec.bandwidth".to_owned(),
            "needs `kibPerSecond`, 1 at least, or `off` and nothing else".to_owned(),
        ),
    }
}

pub(super) fn check_cors(spec: &CorsSpec, report: &mut Report<'_>) {
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

pub(super) fn check_claim(path: String, claim: &str, report: &mut Report<'_>) {
    if claim.split('.').any(str::is_empty) {
        report(
            path,
            format!("{claim:?} is no claim such as `sub` or `a.b`"),
        );
    }
}

pub(super) fn check_header(path: String, header: &str, report: &mut Report<'_>) {
    if header.parse::<HeaderName>().is_err() {
        report(path, format!("{header:?} is no name of a header"));
    }
}
