//! Answers of the proxy itself, and `local_reply_config`, which rewrites them.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/local_reply>

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use crate::access_loggers::AccessLogFilter;
use crate::config::{ConfigPath, Rejected, data_source};
use crate::formatter::{FormatData, SubstitutionFormatString};
use crate::http::{
    HeaderName, Known, Method, RequestHead, ResponseHead, grpc_status_of, percent_encode,
};
use crate::http_filters::LocalReply;
use crate::route::HeaderParser;
use crate::server::{FactoryContext, Random};
use crate::stream_info::StreamInfo;

/// How local replies are rewritten: the first mapper that matches, then the format of the body.
#[derive(Default)]
pub struct LocalReplyConfig {
    mappers: Vec<ResponseMapper>,
    body_format: Option<SubstitutionFormatString>,
}

struct ResponseMapper {
    filter: AccessLogFilter,
    status_code: Option<u16>,
    body: Option<Bytes>,
    body_format: Option<SubstitutionFormatString>,
    headers: Option<HeaderParser>,
}

/// A local reply, ready to go through the filters.
pub struct PreparedReply {
    /// Its head.
    pub head: ResponseHead,
    /// Its body; empty when the head ends the response.
    pub body: Bytes,
}

impl LocalReplyConfig {
    /// Converts the message; none rewrites nothing.
    pub fn from_proto(
        proto: Option<pb::LocalReplyConfig>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let Some(pb::LocalReplyConfig {
            mappers,
            body_format,
        }) = proto
        else {
            return Ok(Self::default());
        };
        let mappers = path.each("mappers", mappers, |mapper, path| {
            ResponseMapper::from_proto(mapper, cx, path)
        });
        let body_format = path.optional("body_format", body_format, |format, path| {
            SubstitutionFormatString::from_proto(format, cx, path)
        });
        Ok(Self {
            mappers: mappers?,
            body_format: body_format?,
        })
    }

    /// Makes the head and the body of a reply, as the client is to see them.
    pub fn prepare(
        &self,
        reply: LocalReply,
        request: &RequestHead,
        info: &mut StreamInfo,
        random: &Random,
    ) -> PreparedReply {
        let mut head = ResponseHead::new(reply.status);
        let mut body = reply.body;
        for (name, value) in &reply.headers {
            head.fields.append(name, value);
        }
        let mut content_type: Option<Box<str>> = None;
        if !self.mappers.is_empty() || self.body_format.is_some() {
            content_type = self.rewrite(&mut head, &mut body, (request, random), info);
        }
        if request.is_grpc() && !info.plain_local_replies {
            return grpc_reply(head, &body, reply.grpc_status);
        }
        if body.is_empty() {
            head.fields.remove(Known::ContentLength);
            head.fields.remove(Known::ContentType);
        } else {
            head.fields
                .set(Known::ContentLength, body.len().to_string());
            match content_type {
                Some(content_type) => head.fields.set(Known::ContentType, content_type.as_bytes()),
                None if !head.fields.contains(Known::ContentType) => {
                    head.fields.set(Known::ContentType, "text/plain")
                }
                None => {}
            }
        }
        if request.method() == Method::Head {
            body = Bytes::new();
        }
        PreparedReply { head, body }
    }

    fn rewrite(
        &self,
        head: &mut ResponseHead,
        body: &mut Bytes,
        (request, random): (&RequestHead, &Random),
        info: &mut StreamInfo,
    ) -> Option<Box<str>> {
        info.response_code = Some(head.status);
        let data = |info: &StreamInfo,
                    head: &ResponseHead,
                    body: &Bytes,
                    out: &mut Vec<u8>,
                    format: &SubstitutionFormatString| {
            let data = FormatData {
                info,
                request: Some(request),
                response: Some(head),
                request_trailers: None,
                response_trailers: None,
                local_reply_body: body,
                log_type: "NotSet",
            };
            format.render(&data, out);
        };
        let matching = self.mappers.iter().find(|mapper| {
            mapper.filter.evaluate(
                &FormatData {
                    info,
                    request: Some(request),
                    response: Some(head),
                    request_trailers: None,
                    response_trailers: None,
                    local_reply_body: body,
                    log_type: "NotSet",
                },
                random,
            )
        });
        let mut replaced = false;
        if let Some(mapper) = matching {
            if let Some(status) = mapper.status_code {
                head.status = status;
                info.response_code = Some(status);
            }
            if let Some(replacement) = &mapper.body {
                replaced = replacement != body;
                *body = replacement.clone();
            }
            if let Some(headers) = &mapper.headers {
                headers.evaluate_response(head, Some(request), info);
            }
        }
        let format = matching
            .and_then(|mapper| mapper.body_format.as_ref())
            .or(self.body_format.as_ref());
        let Some(format) = format else {
            // Another body is not what the reply says that its own is.
            return replaced.then(|| "text/plain".into());
        };
        let mut out = Vec::new();
        data(info, head, body, &mut out, format);
        *body = out.into();
        Some(format.content_type().into())
    }
}

impl ResponseMapper {
    fn from_proto(
        proto: pb::ResponseMapper,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ResponseMapper {
            filter,
            status_code,
            body,
            body_format_override,
            headers_to_add,
        } = proto;
        let filter = path
            .required("filter", filter)
            .and_then(|filter| AccessLogFilter::from_proto(filter, cx, &path.field("filter")));
        let status = status_code
            .map(|v| path.in_range("status_code", v.value, 200..=599))
            .transpose();
        let body = path.optional("body", body, data_source);
        let format = path.optional(
            "body_format_override",
            body_format_override,
            |format, path| SubstitutionFormatString::from_proto(format, cx, path),
        );
        let headers = HeaderParser::from_proto(
            ("headers_to_add", headers_to_add),
            ("headers_to_remove", Vec::new()),
            cx,
            path,
        );
        Ok(Self {
            filter: filter?,
            status_code: status?.and_then(|v| u16::try_from(v).ok()),
            body: body?,
            body_format: format?,
            headers: headers?,
        })
    }
}

/// gRPC clients get their status in trailers that stand in the head.
fn grpc_reply(mut head: ResponseHead, body: &[u8], grpc_status: Option<u32>) -> PreparedReply {
    let status = grpc_status.unwrap_or_else(|| grpc_status_of(head.status));
    head.status = 200;
    head.fields.remove(Known::ContentLength);
    head.fields.set(Known::ContentType, "application/grpc");
    head.fields.set(Known::GrpcStatus, status.to_string());
    if !body.is_empty() {
        head.fields.set(Known::GrpcMessage, percent_encode(body));
    }
    PreparedReply {
        head,
        body: Bytes::new(),
    }
}

/// The reply to a message that its codec refused.
pub(super) fn protocol_error_reply(error: &crate::codec::ProtocolError) -> LocalReply {
    let body = match &error.body {
        std::borrow::Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        std::borrow::Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
    };
    LocalReply {
        status: error.status,
        body,
        details: error.details.clone(),
        headers: Vec::<(HeaderName, Bytes)>::new(),
        grpc_status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;
    use crate::net::Address;
    use crate::stream_info::ConnectionInfo;

    fn info() -> StreamInfo {
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        StreamInfo::new(
            ConnectionInfo::between(address(), address()).into(),
            1,
            Some(Protocol::Http11),
        )
    }

    #[tokio::test]
    async fn a_grpc_client_gets_its_status_in_the_head() {
        let mut request = RequestHead::new(Protocol::Http2, b"POST");
        request
            .fields
            .append(Known::ContentType, "application/grpc");
        let reply = LocalReply::new(503, "x").with_body("no healthy\nupstream");
        let prepared =
            LocalReplyConfig::default().prepare(reply, &request, &mut info(), &Random::new(1));
        assert_eq!((prepared.head.status, prepared.body.len()), (200, 0));
        assert_eq!(
            prepared.head.fields.get(Known::GrpcStatus),
            Some(&b"14"[..])
        );
        assert_eq!(
            prepared.head.fields.get(Known::GrpcMessage),
            Some(&b"no healthy%0Aupstream"[..])
        );
    }

    #[tokio::test]
    async fn a_head_request_gets_the_length_but_not_the_body() {
        let request = RequestHead::new(Protocol::Http11, b"HEAD");
        let prepared = LocalReplyConfig::default().prepare(
            LocalReply::new(503, "x").with_body("abc"),
            &request,
            &mut info(),
            &Random::new(1),
        );
        assert_eq!(
            prepared.head.fields.get(Known::ContentLength),
            Some(&b"3"[..])
        );
        assert!(prepared.body.is_empty());
    }
}
