//! The filters of routes and backends.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::standard::httproutes::{
    HttpRouteRulesFilters, HttpRouteRulesFiltersCors, HttpRouteRulesFiltersExtensionRef,
    HttpRouteRulesFiltersRequestRedirectScheme, HttpRouteRulesFiltersType,
};
use serde::Serialize;

use super::resolve::Resolver;
use super::source::reshape;
use super::{Filters, HeaderChanges, MirrorTo, PathRewrite, Redirect};
use crate::model::{CorsSpec, Key};
use crate::world::port_number;

impl Resolver<'_> {
    pub(super) fn filters(&mut self, written: &[HttpRouteRulesFilters]) -> Result<Filters, String> {
        let mut filters = Filters::default();
        for filter in written {
            match filter.r#type {
                HttpRouteRulesFiltersType::RequestHeaderModifier => {
                    filters.request_headers = changes(&filter.request_header_modifier)?;
                }
                HttpRouteRulesFiltersType::ResponseHeaderModifier => {
                    filters.response_headers = changes(&filter.response_header_modifier)?;
                }
                HttpRouteRulesFiltersType::RequestRedirect => {
                    let redirect = filter
                        .request_redirect
                        .as_ref()
                        .ok_or("no `requestRedirect`")?;
                    filters.redirect = Some(Redirect {
                        scheme: redirect.scheme.as_ref().map(|scheme| match scheme {
                            HttpRouteRulesFiltersRequestRedirectScheme::Http => "http",
                            HttpRouteRulesFiltersRequestRedirectScheme::Https => "https",
                        }),
                        hostname: redirect.hostname.clone(),
                        port: redirect.port.and_then(port_number),
                        status: redirect
                            .status_code
                            .and_then(|status| u16::try_from(status).ok())
                            .unwrap_or(302),
                        path: rewrite(
                            redirect
                                .path
                                .as_ref()
                                .and_then(|path| path.replace_full_path.as_ref()),
                            redirect
                                .path
                                .as_ref()
                                .and_then(|path| path.replace_prefix_match.as_ref()),
                        ),
                    });
                }
                HttpRouteRulesFiltersType::UrlRewrite => {
                    let written = filter.url_rewrite.as_ref().ok_or("no `urlRewrite`")?;
                    filters.rewrite_host.clone_from(&written.hostname);
                    filters.rewrite_path = rewrite(
                        written
                            .path
                            .as_ref()
                            .and_then(|path| path.replace_full_path.as_ref()),
                        written
                            .path
                            .as_ref()
                            .and_then(|path| path.replace_prefix_match.as_ref()),
                    );
                }
                HttpRouteRulesFiltersType::RequestMirror => {
                    let mirror = filter.request_mirror.as_ref().ok_or("no `requestMirror`")?;
                    let to = &mirror.backend_ref;
                    let (numerator, denominator) = match (&mirror.fraction, mirror.percent) {
                        (Some(fraction), _) => {
                            (fraction.numerator, fraction.denominator.unwrap_or(100))
                        }
                        (None, percent) => (percent.unwrap_or(100), 100),
                    };
                    let target = self.target(
                        to.group.as_deref(),
                        to.kind.as_deref(),
                        to.namespace.as_deref(),
                        &to.name,
                        to.port,
                    );
                    filters.mirrors.push(MirrorTo {
                        target,
                        numerator: u32::try_from(numerator).map_err(|_| "a negative fraction")?,
                        denominator: u32::try_from(denominator)
                            .ok()
                            .filter(|denominator| *denominator > 0)
                            .ok_or("the denominator has to be positive")?,
                    });
                }
                HttpRouteRulesFiltersType::ExtensionRef => {
                    let written = filter.extension_ref.as_ref().ok_or("no `extensionRef`")?;
                    match self.policy(written) {
                        Ok(key) => filters.policies.push(key),
                        Err(problem) => {
                            self.missing.push(problem);
                            filters.is_unresolved = true;
                        }
                    }
                }
                HttpRouteRulesFiltersType::Cors => {
                    filters.cors = Some(Arc::new(cors(filter.cors.as_ref().ok_or("no `cors`")?)?));
                }
            }
        }
        if filters.redirect.is_some()
            && (filters.rewrite_path.is_some() || filters.rewrite_host.is_some())
        {
            return Err("RequestRedirect and URLRewrite exclude each other".to_owned());
        }
        Ok(filters)
    }

    /// The policy that a rule names.
    fn policy(
        &self,
        written: &HttpRouteRulesFiltersExtensionRef,
    ) -> Result<Key, (&'static str, String)> {
        let HttpRouteRulesFiltersExtensionRef { group, kind, name } = written;
        if (group.as_str(), kind.as_str()) != ("outrigger.dev", "GatewayPolicy") {
            let message = format!("ExtensionRef {group}/{kind} is no outrigger.dev/GatewayPolicy");
            return Err(("InvalidKind", message));
        }
        let key = Key::new(self.namespace, name);
        let policy = self.model.gateway_policies.get(&key);
        let policy =
            policy.ok_or_else(|| ("PolicyNotFound", format!("there is no GatewayPolicy {key}")))?;
        match policy.object.spec.trusted_hops {
            None => Ok(key),
            Some(_) => {
                let message =
                    format!("GatewayPolicy {key} has `trustedHops`, which no rule can have");
                Err(("UnsupportedValue", message))
            }
        }
    }
}

/// The filter CORS as the section of a GatewayPolicy. Where cookies are sent, browsers take `*` for a name.
fn cors(written: &HttpRouteRulesFiltersCors) -> Result<CorsSpec, String> {
    let HttpRouteRulesFiltersCors {
        allow_credentials,
        allow_headers,
        allow_methods,
        allow_origins,
        expose_headers,
        max_age,
    } = written;
    let all = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut spec = CorsSpec {
        allow_origins: all(allow_origins),
        allow_methods: all(allow_methods),
        allow_headers: all(allow_headers),
        expose_headers: all(expose_headers),
        // The default of the Gateway API.
        max_age: Some(Duration::from_secs(match max_age {
            Some(age) => u64::try_from(*age).map_err(|_| "`maxAge` is negative")?,
            None => 5,
        })),
        allow_credentials: allow_credentials.unwrap_or_default(),
        off: false,
    };
    let is_any = |list: &[String]| list.iter().any(|one| one == "*");
    if spec.allow_credentials {
        if is_any(&spec.allow_headers) || is_any(&spec.expose_headers) {
            return Err("with `allowCredentials`, headers have to be named: not `*`".to_owned());
        }
        if is_any(&spec.allow_methods) {
            let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
            spec.allow_methods = methods.map(str::to_owned).to_vec();
        }
    }
    Ok(spec)
}

fn changes(modifier: &impl Serialize) -> Result<HeaderChanges, String> {
    #[derive(Default, serde::Deserialize)]
    struct Header {
        name: String,
        value: String,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Changes {
        add: Vec<Header>,
        set: Vec<Header>,
        remove: Vec<String>,
    }
    let changes: Changes = reshape(modifier)?;
    let pairs = |headers: Vec<Header>| {
        headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect()
    };
    Ok(HeaderChanges {
        set: pairs(changes.set),
        add: pairs(changes.add),
        remove: changes.remove,
    })
}

fn rewrite(full: Option<&String>, prefix: Option<&String>) -> Option<PathRewrite> {
    full.cloned()
        .map(PathRewrite::Full)
        .or_else(|| prefix.cloned().map(PathRewrite::Prefix))
}
