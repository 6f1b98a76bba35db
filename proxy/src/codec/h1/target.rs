//! Methods and request targets: which ones Envoy takes, and how a URL in the first line is taken apart.

use super::lines::{is_authority_byte, is_token};
use super::reject::Reject;

/// A URL of a request line in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AbsoluteTarget<'a> {
    /// As it was written; empty for CONNECT.
    pub(crate) scheme: &'a [u8],
    /// Host and port without user information.
    pub(crate) authority: &'a [u8],
    /// Path and query; empty where the URL has none.
    pub(crate) path: &'a [u8],
}

/// Whether Envoy's parser knows this method.
pub(crate) fn is_known_method(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET"
            | b"POST"
            | b"PUT"
            | b"DELETE"
            | b"HEAD"
            | b"OPTIONS"
            | b"PATCH"
            | b"CONNECT"
            | b"TRACE"
            | b"ACL"
            | b"BIND"
            | b"CHECKOUT"
            | b"COPY"
            | b"LINK"
            | b"LOCK"
            | b"MERGE"
            | b"MKACTIVITY"
            | b"MKCALENDAR"
            | b"MKCOL"
            | b"MOVE"
            | b"MSEARCH"
            | b"NOTIFY"
            | b"PROPFIND"
            | b"PROPPATCH"
            | b"PURGE"
            | b"QUERY"
            | b"REBIND"
            | b"REPORT"
            | b"SEARCH"
            | b"SOURCE"
            | b"SUBSCRIBE"
            | b"UNBIND"
            | b"UNLINK"
            | b"UNLOCK"
            | b"UNSUBSCRIBE"
    )
}

/// Whether a request may begin with this byte: what is no HTTP is refused without waiting for a whole line.
pub(crate) fn may_begin_method(byte: u8, custom: bool) -> bool {
    if custom {
        is_token(byte)
    } else {
        byte.is_ascii_alphabetic()
    }
}

/// Whether Envoy's parser takes this request target, before it is looked at more closely.
pub(crate) fn is_acceptable(target: &[u8], connect: bool) -> bool {
    if matches!(target.first(), Some(b'/' | b'*')) {
        return target.is_ascii();
    }
    let rest = if connect {
        target
    } else {
        let Some((scheme, rest)) = split_scheme(target) else {
            return false;
        };
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !scheme.iter().all(legal) {
            return false;
        }
        rest
    };
    let (host, path) = split_host(rest);
    !target.is_empty()
        && host.iter().all(|b| is_authority_byte(*b))
        && !host.windows(2).any(|two| two == b"@@")
        && path.is_ascii()
}

/// Takes a URL (or, for CONNECT, host and port) apart.
pub(crate) fn absolute(target: &[u8], connect: bool) -> Result<AbsoluteTarget<'_>, Reject> {
    let (scheme, rest) = if connect {
        (&b""[..], target)
    } else {
        split_scheme(target).ok_or(Reject::InvalidUrl)?
    };
    let (host, path) = split_host(rest);
    let after_user = memchr::memchr(b'@', host).map_or(0, |at| at + 1);
    let authority = host.get(after_user..).unwrap_or_default();
    let has_port = check_host(authority)?;
    if connect && (!has_port || !path.is_empty() || after_user > 0) {
        return Err(Reject::InvalidUrl);
    }
    Ok(AbsoluteTarget {
        scheme,
        authority,
        path,
    })
}

/// Checks `host`, `host:port`, `[v6]` or `[v6]:port`; says whether there is a port.
fn check_host(authority: &[u8]) -> Result<bool, Reject> {
    let (host_end, is_host): (usize, fn(u8) -> bool) = if authority.first() == Some(&b'[') {
        let end = memchr::memchr(b']', authority).ok_or(Reject::InvalidUrl)?;
        (end + 1, |b| {
            b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'[' | b']' | b'%')
        })
    } else {
        let end = memchr::memchr(b':', authority).unwrap_or(authority.len());
        (end, |b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
        })
    };
    let (host, port) = authority.split_at(host_end);
    if matches!(host, b"" | b"[]") || !host.iter().all(|b| is_host(*b)) {
        return Err(Reject::InvalidUrl);
    }
    match port {
        b"" => Ok(false),
        [b':', digits @ ..]
            if digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|d| d.parse::<u16>().is_ok()) =>
        {
            Ok(true)
        }
        _ => Err(Reject::InvalidUrl),
    }
}

fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memmem::find(target, b"://")?;
    Some((target.get(..at)?, target.get(at + 3..)?))
}

fn split_host(rest: &[u8]) -> (&[u8], &[u8]) {
    rest.split_at(memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged_as_envoy_judges_them() {
        for (target, connect, acceptable) in [
            (&b"/x?y"[..], false, true),
            (b"/a#b", false, true),
            (b"*", false, true),
            (b"abc", false, false),
            (b"?a", false, false),
            (b"", false, false),
            (b"/\xc3\xa4", false, false),
            (b"http://b.c", false, true),
            (b"http://b.c#f", false, false),
            (b"http://b^c/p", false, false),
            (b"http://u@@b/p", false, false),
            (b"://b", false, false),
            (b"b:80", true, true),
            (b"/x", true, true),
        ] {
            assert_eq!(is_acceptable(target, connect), acceptable, "{target:?}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let part = |scheme: &'static str, authority: &'static str, path: &'static str| {
            Ok(AbsoluteTarget {
                scheme: scheme.as_bytes(),
                authority: authority.as_bytes(),
                path: path.as_bytes(),
            })
        };
        for (target, connect, want) in [
            (
                &b"http://b.c:81/p?q"[..],
                false,
                part("http", "b.c:81", "/p?q"),
            ),
            (b"http://b.c", false, part("http", "b.c", "")),
            (b"http://b.c?x", false, part("http", "b.c", "?x")),
            (b"HTTP://B.c/p", false, part("HTTP", "B.c", "/p")),
            (b"http://u:p@b.c/p", false, part("http", "b.c", "/p")),
            (b"http://b.c:0/p", false, part("http", "b.c:0", "/p")),
            (b"http://[::1]:80/p", false, part("http", "[::1]:80", "/p")),
            (b"http://u@b@.c/p", false, Err(Reject::InvalidUrl)),
            (b"http://b.c:99999/p", false, Err(Reject::InvalidUrl)),
            (b"http://b.c:/p", false, Err(Reject::InvalidUrl)),
            (b"http://[::1/p", false, Err(Reject::InvalidUrl)),
            (b"http:///p", false, Err(Reject::InvalidUrl)),
            (b"*", false, Err(Reject::InvalidUrl)),
            (b"b:80", true, part("", "b:80", "")),
            (b"b", true, Err(Reject::InvalidUrl)),
            (b"/x", true, Err(Reject::InvalidUrl)),
            (b"b:x", true, Err(Reject::InvalidUrl)),
        ] {
            assert_eq!(absolute(target, connect), want, "{target:?}");
        }
    }
}
