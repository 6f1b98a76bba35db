//! `DirectResponseAction`: answers that the proxy gives by itself.

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::route::v3 as pb;

use crate::config::{ConfigPath, Rejected, data_source};
use crate::formatter::{FormatData, SubstitutionFormatString};
use crate::http::RequestHead;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// An answer without an upstream.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200..=599.
    pub status: u16,
    body: Bytes,
    format: Option<Box<SubstitutionFormatString>>,
}

impl DirectResponse {
    /// `most` is the largest body that the route table allows, in bytes.
    pub(super) fn from_proto(
        proto: pb::DirectResponseAction,
        most: u32,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::DirectResponseAction {
            status,
            body,
            body_format,
        } = proto;
        let status = path.in_range("status", status, 200..=599);
        let body = body.map_or(Ok(Bytes::new()), |body| {
            let path = path.field("body");
            let body = data_source(body, &path)?;
            if body.len() > most as usize {
                return Err(path.reject(format!(
                    "has {} bytes; max_direct_response_body_size_bytes allows {most}",
                    body.len()
                )));
            }
            Ok(body)
        });
        let format = path.optional("body_format", body_format, |format, path| {
            SubstitutionFormatString::from_proto(format, cx, path)
        });
        Ok(Self {
            status: u16::try_from(status?).unwrap_or(500),
            body: body?,
            format: format?.map(Box::new),
        })
    }

    /// The body of the answer to a request.
    pub fn body(&self, head: &RequestHead, info: &StreamInfo) -> Bytes {
        match &self.format {
            None => self.body.clone(),
            Some(format) => {
                let mut out = Vec::new();
                let data = FormatData {
                    info,
                    request: Some(head),
                    response: None,
                    request_trailers: None,
                    response_trailers: None,
                    local_reply_body: &self.body,
                    log_type: "",
                };
                format.render(&data, &mut out);
                out.into()
            }
        }
    }

    /// The content type of the answer, where its format says one. Otherwise it is `text/plain`, for a body that is not empty.
    pub fn content_type(&self) -> Option<&str> {
        self.format.as_ref().map(|format| format.content_type())
    }
}
