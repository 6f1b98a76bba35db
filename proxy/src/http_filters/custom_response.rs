//! `envoy.filters.http.custom_response`: replaces responses by others, chosen by their status, say.
//!
//! Type URL: `envoy.extensions.filters.http.custom_response.v3.CustomResponse`, also per route; policies
//! `envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/custom_response_filter>
//! Stats: none.
//!
//! Deviations: `redirect_policy` is refused.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::custom_response::v3 as pb;
use outrigger_proto::pb::envoy::extensions::http::custom_response::local_response_policy::v3 as local;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, data_source};
use crate::formatter::{FormatData, SubstitutionFormatString};
use crate::http::{EndStream, HeaderName, ResponseHead};
use crate::matchers::{Matcher, MatchingData};
use crate::route::HeaderParser;
use crate::server::{FactoryContext, Worker};

/// Makes filters that replace responses.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.custom_response"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.custom_response.v3.CustomResponse"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        self.type_names()
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            cx,
            path,
        )?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(OfRoute(vec![Arc::new(config)])))
    }

    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let levels = configs.iter().rev();
        let levels = levels.filter_map(|config| config.downcast_ref::<OfRoute>());
        let all = levels.flat_map(|level| level.0.iter().cloned());
        Arc::new(OfRoute(all.collect()))
    }
}

/// What route, virtual host and so on say, the most specific first: the first that has a response for a response counts.
struct OfRoute(Vec<Arc<Config>>);

struct Config {
    /// None: nothing is replaced.
    matcher: Option<Matcher<LocalResponse>>,
}

/// What takes the place of a response.
struct LocalResponse {
    /// None: that of the response.
    status: Option<u16>,
    body: Bytes,
    body_format: Option<SubstitutionFormatString>,
    headers: Option<HeaderParser>,
    details: Details,
}

/// `%RESPONSE_CODE_DETAILS%` of the new response.
enum Details {
    Empty,
    /// Those of the response that is replaced.
    Preserved,
    Given(Box<str>),
}

impl Config {
    fn from_proto(
        proto: pb::CustomResponse,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CustomResponse {
            custom_response_matcher,
        } = proto;
        let matcher = path.optional(
            "custom_response_matcher",
            custom_response_matcher,
            |matcher, path| {
                Matcher::from_proto(matcher, cx, path, |config, path| {
                    LocalResponse::from_extension(&config, cx, path)
                })
            },
        );
        Ok(Self { matcher: matcher? })
    }
}

impl LocalResponse {
    fn from_extension(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        const LOCAL: &str =
            "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
        if config.type_name != LOCAL {
            return Err(config.unknown(path, &[LOCAL]));
        }
        let local::LocalResponsePolicy {
            body,
            body_format,
            status_code,
            response_headers_to_add,
            response_code_details_action,
        } = config.decode(path)?;
        let body = path.optional("body", body, data_source);
        let body_format = path.optional("body_format", body_format, |format, path| {
            SubstitutionFormatString::from_proto(format, cx, path)
        });
        let status = status_code
            .map(|status| path.in_range("status_code", status.value, 200..=599))
            .transpose();
        let headers = HeaderParser::from_proto(
            ("response_headers_to_add", response_headers_to_add),
            ("", Vec::new()),
            cx,
            path,
        );
        use local::local_response_policy::ResponseCodeDetailsAction as Action;
        Ok(Self {
            body: body?.unwrap_or_default(),
            body_format: body_format?,
            status: status?.and_then(|status| status.try_into().ok()),
            headers: headers?,
            details: match response_code_details_action {
                Some(Action::PreserveResponseCodeDetails(true)) => Details::Preserved,
                Some(Action::ResponseCodeDetails(details)) => Details::Given(details.into()),
                Some(Action::PreserveResponseCodeDetails(false)) | None => Details::Empty,
            },
        })
    }

    fn reply(&self, cx: &StreamContext<'_>, head: &ResponseHead) -> LocalReply {
        let request = cx.request.as_deref();
        let status = self.status.unwrap_or(head.status);
        let mut new = ResponseHead::new(status);
        let mut body = self.body.clone();
        if let Some(format) = &self.body_format {
            let mut out = Vec::new();
            let data = FormatData {
                info: cx.info,
                request,
                response: Some(head),
                request_trailers: None,
                response_trailers: None,
                local_reply_body: &self.body,
                log_type: "NotSet",
            };
            format.render(&data, &mut out);
            body = out.into();
        }
        if let Some(headers) = &self.headers {
            headers.evaluate_response(&mut new, request, cx.info);
        }
        let details = match &self.details {
            Details::Empty => Cow::Borrowed(""),
            Details::Preserved => cx.info.response_code_details.clone().unwrap_or_default(),
            Details::Given(details) => Cow::Owned(details.to_string()),
        };
        let mut reply = LocalReply::new(status, details).with_body(body);
        for (name, value) in new.fields.iter() {
            let value = Bytes::copy_from_slice(value);
            reply.headers.push((HeaderName::new(name), value));
        }
        reply
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(CustomResponse {
                config: config.clone(),
            })
        })
    }
}

struct CustomResponse {
    config: Rc<Arc<Config>>,
}

impl HttpFilter for CustomResponse {
    fn interests(&self) -> Interests {
        Interests::ENCODE_HEADERS
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let data = MatchingData {
            connection: &cx.info.connection,
            info: Some(cx.info),
            request: cx.request.as_deref(),
            response: Some(head),
        };
        let of_route = cx.route_config::<OfRoute>().into_iter();
        let mut configs = of_route
            .flat_map(|levels| levels.0.iter())
            .chain([&*self.config]);
        match configs.find_map(|config| config.matcher.as_ref()?.find(&data)) {
            Some(response) => HeadersStatus::LocalReply(response.reply(cx, head)),
            None => HeadersStatus::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::extensions::http::custom_response::redirect_policy::v3::RedirectPolicy;
    use outrigger_proto::pb::xds::core::v3::TypedExtensionConfig;
    use outrigger_proto::pb::xds::r#type::matcher::v3 as matching;
    use prost::{Message, Name};

    use super::super::test_support::{Harness, any, errors};
    use super::*;

    /// A configuration that does this about every response.
    fn always<M: Message + Name>(action: &M) -> pb::CustomResponse {
        pb::CustomResponse {
            custom_response_matcher: Some(matching::Matcher {
                on_no_match: Some(Box::new(matching::matcher::OnMatch {
                    on_match: Some(matching::matcher::on_match::OnMatch::Action(
                        TypedExtensionConfig {
                            name: "action".to_owned(),
                            typed_config: Some(any(action)),
                        },
                    )),
                    ..Default::default()
                })),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn a_response_is_replaced_by_another_with_its_status() {
        let harness = Harness::new(&always(&local::LocalResponsePolicy::default()));
        let mut stream = harness.stream();
        stream.response.status = 418;
        let reply = stream.encode_headers(false).reply();
        assert_eq!(
            (reply.status, &*reply.details, reply.body.len()),
            (418, "", 0)
        );
        let mut stream = Harness::new(&pb::CustomResponse::default()).stream();
        assert!(stream.encode_headers(false).is_continue());
    }

    #[test]
    fn a_redirect_is_refused() {
        let found = errors(&always(&RedirectPolicy::default()));
        assert!(!found.is_empty());
    }
}
