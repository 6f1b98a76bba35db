//! The name that a client asked for: `%REQUESTED_SERVER_NAME(…)%`.

use super::{FormatData, append};
use crate::http::Known;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum ServerNameFirst {
    SniOnly,
    Sni,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum HostSource {
    Original,
    Authority,
    OriginalOrAuthority,
}

pub(super) fn server_name(
    first: ServerNameFirst,
    host: HostSource,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let sni = data.info.connection.requested_server_name.as_deref();
    let sni = sni.filter(|name| !name.is_empty());
    let from_head = || {
        let head = data.request?;
        let original = || {
            head.fields
                .get(Known::EnvoyOriginalHost)
                .filter(|value| !value.is_empty())
        };
        match host {
            HostSource::Original => original(),
            HostSource::Authority => head.authority(),
            HostSource::OriginalOrAuthority => original().or_else(|| head.authority()),
        }
        .filter(|value| !value.is_empty())
    };
    match first {
        ServerNameFirst::SniOnly => {}
        ServerNameFirst::Sni if sni.is_some() => {}
        ServerNameFirst::Sni | ServerNameFirst::Host => return append(out, from_head()),
    }
    // A client may put anything into its SNI; what could break a log line is replaced.
    sni.is_some_and(|name| {
        out.extend(name.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => byte,
            _ => b'_',
        }));
        true
    })
}
