//! A response of our own: `LocalResponsePolicy`.

use std::borrow::Cow;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::http::custom_response::local_response_policy::v3 as local;

use super::super::{LocalReply, StreamContext};
use crate::config::{ConfigPath, Rejected, TypedConfig, data_source};
use crate::formatter::{FormatData, SubstitutionFormatString};
use crate::http::{HeaderName, ResponseHead};
use crate::route::HeaderParser;
use crate::server::FactoryContext;

/// What takes the place of a response.
pub(super) struct LocalResponse {
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

impl LocalResponse {
    pub(super) fn from_extension(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
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

    pub(super) fn reply(&self, cx: &StreamContext<'_>, head: &ResponseHead) -> LocalReply {
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
