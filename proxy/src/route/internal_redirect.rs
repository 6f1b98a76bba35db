//! `InternalRedirectPolicy`: which redirects of an upstream the proxy follows by itself.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_connection_management#internal-redirects>
//! Type URLs within: `envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig`,
//! `envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig`,
//! `envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig`.

#![allow(deprecated, reason = "deprecated fields are decided like all others")]

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig;
use outrigger_proto::pb::google::protobuf::UInt32Value;
use pb::route_action::InternalRedirectAction;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::HeaderName;

const ALLOW_LISTED_ROUTES: &str =
    "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig";
const PREVIOUS_ROUTES: &str =
    "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig";
const SAFE_CROSS_SCHEME: &str =
    "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig";

/// Which redirects the proxy follows by itself.
#[derive(Debug)]
pub struct InternalRedirectPolicy {
    /// How many redirects one request of a client may take. Default 1.
    pub max_internal_redirects: u32,
    /// Whether a redirect may lead from http to https or back. Default false.
    pub allow_cross_scheme_redirect: bool,
    /// Each must agree.
    pub predicates: Box<[RedirectPredicate]>,
    /// Fields of the redirect that the next request gets, or loses where the redirect has none.
    pub response_headers_to_copy: Box<[HeaderName]>,
    codes: Box<[u16]>,
}

/// A condition on the route that a redirect leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Its name is one of these.
    AllowListedRoutes(Box<[Box<str>]>),
    /// No redirect from this route has led there before.
    PreviousRoutes,
    /// It does not lead from https to http.
    SafeCrossScheme,
}

/// The fields of a route action that say the same in other words.
pub(super) struct RedirectFields {
    pub(super) policy: Option<pb::InternalRedirectPolicy>,
    pub(super) action: i32,
    pub(super) max: Option<UInt32Value>,
}

impl InternalRedirectPolicy {
    /// The policy of a route; none if redirects go to the client.
    pub(super) fn from_fields(
        fields: RedirectFields,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let action =
            path.enumeration::<InternalRedirectAction>("internal_redirect_action", fields.action);
        let policy = path.optional("internal_redirect_policy", fields.policy, Self::from_proto)?;
        // The old fields count only where there is no policy.
        Ok(match (policy, action?) {
            (None, InternalRedirectAction::HandleInternalRedirect) => Some(Self {
                max_internal_redirects: fields.max.map_or(1, |max| max.value),
                allow_cross_scheme_redirect: false,
                predicates: Box::default(),
                response_headers_to_copy: Box::default(),
                codes: [302].into(),
            }),
            (policy, _) => policy,
        })
    }

    fn from_proto(
        proto: pb::InternalRedirectPolicy,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = proto;
        let predicates = path.each("predicates", predicates, RedirectPredicate::from_proto);
        let headers = path.each(
            "response_headers_to_copy",
            response_headers_to_copy,
            |name, path| {
                if name.starts_with(':') || name.eq_ignore_ascii_case("host") || name.is_empty() {
                    return Err(path.reject(format!("{name:?} is not the name of a plain header")));
                }
                Ok(HeaderName::new(name))
            },
        );
        let codes: Box<[u16]> = match redirect_response_codes.is_empty() {
            true => [302].into(),
            // Any other code is passed over, as Envoy does.
            false => redirect_response_codes
                .into_iter()
                .filter_map(|code| u16::try_from(code).ok())
                .filter(|code| matches!(code, 301..=303 | 307 | 308))
                .collect(),
        };
        Ok(Self {
            max_internal_redirects: max_internal_redirects.map_or(1, |max| max.value),
            allow_cross_scheme_redirect,
            predicates: predicates?.into(),
            response_headers_to_copy: headers?.into(),
            codes,
        })
    }

    /// Whether responses with this status are followed.
    pub fn follows(&self, status: u16) -> bool {
        self.codes.contains(&status)
    }
}

impl RedirectPredicate {
    fn from_proto(proto: TypedExtensionConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let (config, path) = TypedConfig::of_extension(proto, path)?;
        match config.type_name.as_str() {
            ALLOW_LISTED_ROUTES => {
                let AllowListedRoutesConfig {
                    allowed_route_names,
                } = config.decode(&path)?;
                let names = allowed_route_names.into_iter().map(Into::into);
                Ok(Self::AllowListedRoutes(names.collect()))
            }
            PREVIOUS_ROUTES => Ok(Self::PreviousRoutes),
            SAFE_CROSS_SCHEME => Ok(Self::SafeCrossScheme),
            _ => Err(config.unknown(
                &path,
                &[ALLOW_LISTED_ROUTES, PREVIOUS_ROUTES, SAFE_CROSS_SCHEME],
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;

    fn convert(
        policy: Option<pb::InternalRedirectPolicy>,
        action: i32,
        max: Option<u32>,
    ) -> Result<Option<InternalRedirectPolicy>, Vec<String>> {
        let report = ConfigReport::new();
        let fields = RedirectFields {
            policy,
            action,
            max: max.map(|value| UInt32Value { value }),
        };
        InternalRedirectPolicy::from_fields(fields, &ConfigPath::root(&report, "route"))
            .map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_policy_follows_one_302() {
        let policy = convert(Some(pb::InternalRedirectPolicy::default()), 0, None);
        let policy = policy.unwrap().unwrap();
        assert_eq!(policy.max_internal_redirects, 1);
        assert!(policy.follows(302) && !policy.follows(301));
        assert!(!policy.allow_cross_scheme_redirect);
    }

    #[test]
    fn codes_that_are_no_redirects_are_passed_over() {
        let policy = pb::InternalRedirectPolicy {
            redirect_response_codes: vec![301, 308, 200, 304, 70_000],
            ..Default::default()
        };
        let policy = convert(Some(policy), 0, None).unwrap().unwrap();
        assert_eq!(*policy.codes, [301, 308]);
    }

    #[test]
    fn the_old_fields_count_where_there_is_no_policy() {
        assert!(convert(None, 0, Some(3)).unwrap().is_none());
        let handle = InternalRedirectAction::HandleInternalRedirect as i32;
        let old = convert(None, handle, Some(3)).unwrap().unwrap();
        assert_eq!(old.max_internal_redirects, 3);
        let both = convert(Some(pb::InternalRedirectPolicy::default()), handle, Some(3));
        assert_eq!(both.unwrap().unwrap().max_internal_redirects, 1);
    }

    #[test]
    fn a_pseudo_header_cannot_be_copied() {
        let policy = pb::InternalRedirectPolicy {
            response_headers_to_copy: vec!["x-a".into(), ":path".into(), "Host".into()],
            ..Default::default()
        };
        let errors = convert(Some(policy), 0, None).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with("route / internal_redirect_policy / response_headers_to_copy[1]"),
            "{errors:?}"
        );
    }
}
