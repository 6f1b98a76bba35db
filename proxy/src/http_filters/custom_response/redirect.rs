//! The response of somebody else: `RedirectPolicy`. The stream begins anew, with a request for it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::http::custom_response::redirect_policy::v3 as pb;
use pb::redirect_policy::RedirectActionSpecifier;

use super::super::Recreate;
use super::super::router::Target;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{Known, RequestHead, ResponseHead};
use crate::route::{HeaderParser, RedirectAction};
use crate::server::FactoryContext;
use crate::stream_info::{FilterStateObject, StreamInfo};

/// The key of the filter state under which a request knows that it takes the place of another one.
pub(super) const STATE: &str = "envoy.filters.http.custom_response";

/// Where a response comes from, and what is changed in it.
pub(super) struct RedirectPolicy {
    to: Destination,
    /// None: that of the response.
    status: Option<u16>,
    response_headers: Option<HeaderParser>,
    request_headers: Option<HeaderParser>,
}

enum Destination {
    /// An absolute URL that can be read.
    Uri(Box<str>),
    Action(RedirectAction),
}

/// The policy that a request follows.
pub(super) struct Followed {
    pub(super) policy: Arc<RedirectPolicy>,
    /// The status of the response whose place another one takes.
    original: u16,
}

impl FilterStateObject for Followed {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }

    fn is_of_request(&self) -> bool {
        true
    }
}

impl RedirectPolicy {
    pub(super) fn from_extension(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RedirectPolicy {
            status_code,
            response_headers_to_add,
            request_headers_to_add,
            modify_request_headers_action,
            redirect_action_specifier,
        } = config.decode(path)?;
        // As in Envoy, whose release knows none either.
        let modify = match modify_request_headers_action {
            None => Ok(()),
            Some(action) => {
                let config = action.typed_config.unwrap_or_default();
                Err(path.field("modify_request_headers_action").reject(format!(
                    "no extension \"{}\" ({}) is known: Envoy's release has none for this field; \
                     `request_headers_to_add` sets headers",
                    action.name, config.type_url
                )))
            }
        };
        let to = path
            .required("redirect_action_specifier", redirect_action_specifier)
            .and_then(|to| Destination::from_proto(to, cx, path));
        let status = status_code
            .map(|status| path.in_range("status_code", status.value, 100..=599))
            .transpose();
        let response_headers = HeaderParser::from_proto(
            ("response_headers_to_add", response_headers_to_add),
            ("", Vec::new()),
            cx,
            path,
        );
        let request_headers = HeaderParser::from_proto(
            ("request_headers_to_add", request_headers_to_add),
            ("", Vec::new()),
            cx,
            path,
        );
        modify?;
        Ok(Self {
            to: to?,
            status: status?.and_then(|status| status.try_into().ok()),
            response_headers: response_headers?,
            request_headers: request_headers?,
        })
    }

    /// The request that takes the place of this one, whose response has this status; none if it leads to no URL that can be read.
    pub(super) fn follow(
        self: &Arc<Self>,
        request: &RequestHead,
        status: u16,
        info: &StreamInfo,
    ) -> Option<Recreate> {
        let uri = match &self.to {
            Destination::Uri(uri) => Cow::Borrowed(uri.as_bytes()),
            Destination::Action(action) => Cow::Owned(action.uri(request, info)),
        };
        let target = Target::parse(&uri)?;
        let mut request = request.clone();
        request.set_scheme(target.scheme);
        request.set_authority(target.authority);
        request.set_path(&target.path);
        if let Some(headers) = &self.request_headers {
            headers.evaluate_request(&mut request, info);
        }
        request.set_method(b"GET");
        request.fields.remove(Known::ContentLength);
        Some(Recreate {
            request,
            state: (
                STATE,
                Rc::new(Followed {
                    policy: self.clone(),
                    original: status,
                }),
            ),
        })
    }
}

impl Followed {
    /// Changes the response to the request that took the place of another one, whatever its status.
    pub(super) fn mutate_response(
        &self,
        head: &mut ResponseHead,
        request: Option<&RequestHead>,
        info: &StreamInfo,
    ) {
        if let Some(headers) = &self.policy.response_headers {
            headers.evaluate_response(head, request, info);
        }
        head.status = self.policy.status.unwrap_or(self.original);
    }
}

impl Destination {
    fn from_proto(
        proto: RedirectActionSpecifier,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        match proto {
            RedirectActionSpecifier::Uri(uri) => match Target::parse(uri.as_bytes()) {
                Some(_) => Ok(Self::Uri(uri.into())),
                None => Err(path.field("uri").reject(format!(
                    "\"{uri}\" is no absolute URL: Invalid uri specified for redirection for custom response"
                ))),
            },
            RedirectActionSpecifier::RedirectAction(action) => {
                let path = path.field("redirect_action");
                RedirectAction::of_custom_response(action, cx, &path).map(Self::Action)
            }
        }
    }
}
