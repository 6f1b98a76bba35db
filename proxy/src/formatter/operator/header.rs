//! Headers, and what stands beside them in a head: `%REQ(X?Y)%` and its kin.

use super::{FormatData, cut};
use crate::http::{Fields, HeaderName, RequestHead, ResponseHead};

/// A header, or another in its place.
#[derive(Debug)]
pub(in crate::formatter) struct Header {
    pub(in crate::formatter) message: Message,
    pub(in crate::formatter) main: HeaderRef,
    pub(in crate::formatter) alternative: Option<HeaderRef>,
    pub(in crate::formatter) without_query: bool,
    /// An empty value counts as missing.
    pub(in crate::formatter) non_empty: bool,
    pub(in crate::formatter) max: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum Message {
    Request,
    Response,
    ResponseTrailers,
}

#[derive(Debug)]
pub(in crate::formatter) enum HeaderRef {
    Field(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
    Protocol,
    Status,
}

impl Header {
    pub(super) fn find<'a>(&self, data: &FormatData<'a>) -> Option<&'a [u8]> {
        let get = |name: &HeaderRef| match self.message {
            Message::Request => data.request.and_then(|head| name.of_request(head)),
            Message::Response => data.response.and_then(|head| name.of_response(head)),
            Message::ResponseTrailers => data.response_trailers.and_then(|f| name.of_fields(f)),
        };
        let present = |value: &&[u8]| !self.non_empty || !value.is_empty();
        get(&self.main)
            .filter(present)
            .or_else(|| self.alternative.as_ref().and_then(get).filter(present))
    }

    pub(super) fn cut<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        let value = if self.without_query {
            value.split(|b| *b == b'?').next().unwrap_or_default()
        } else {
            value
        };
        cut(value, self.max)
    }
}

impl HeaderRef {
    fn of_request<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => head.fields.get(name),
            Self::Method => Some(head.method_bytes()).filter(|method| !method.is_empty()),
            Self::Path => head.path(),
            Self::Authority => head.authority(),
            Self::Scheme => head.scheme(),
            Self::Protocol => head.protocol(),
            Self::Status => None,
        }
    }

    fn of_response<'a>(&self, head: &'a ResponseHead) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => head.fields.get(name),
            Self::Status => Some(status_text(head.status)),
            _ => None,
        }
    }

    fn of_fields<'a>(&self, fields: &'a Fields) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => fields.get(name),
            _ => None,
        }
    }
}

/// The three digits of a status.
fn status_text(status: u16) -> &'static [u8] {
    const fn digits() -> [[u8; 3]; 1000] {
        let mut all = [[b'0'; 3]; 1000];
        let mut n = 0;
        while n < 1000 {
            #[allow(clippy::cast_possible_truncation, reason = "single digits")]
            {
                all[n] = [
                    b'0' + (n / 100) as u8,
                    b'0' + (n / 10 % 10) as u8,
                    b'0' + (n % 10) as u8,
                ];
            }
            n += 1;
        }
        all
    }
    static TEXTS: [[u8; 3]; 1000] = digits();
    TEXTS
        .get(usize::from(status))
        .map(<[u8; 3]>::as_slice)
        .unwrap_or_default()
}
