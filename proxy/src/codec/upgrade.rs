//! Upgrades in the two forms they have: `connection: upgrade` of HTTP/1, and the extended CONNECT of HTTP/2 (RFC 8441).
//!
//! Everything between the codecs sees the form of HTTP/1, as in Envoy: heads are changed where they come from HTTP/2 and
//! where they go there.

use crate::http::{Known, Method, RequestHead, ResponseHead};

use super::h1::is_upgrade;

/// Puts an extended CONNECT into the form of HTTP/1. Other requests, plain CONNECT among them, stay as they are.
pub(crate) fn request_from_http2(head: &mut RequestHead) {
    if head.method() != Method::Connect {
        return;
    }
    let Some(protocol) = head.protocol() else {
        return;
    };
    // The name that CONNECT over HTTP/2 once had: a plain tunnel.
    if protocol != b"bytestream" {
        let protocol = protocol.to_vec();
        head.set_method(b"GET");
        head.fields.set(Known::Upgrade, protocol);
        head.fields.set(Known::Connection, "upgrade");
    }
    head.remove_protocol();
}

/// The extended CONNECT for a request in the form of HTTP/1, and the protocol that it asks for. None: it asks for no upgrade.
pub(crate) fn request_to_http2(head: &RequestHead) -> Option<(RequestHead, Box<[u8]>)> {
    if !head.fields.contains(Known::Upgrade) || !is_upgrade(&head.fields) {
        return None;
    }
    let protocol: Box<[u8]> = head.fields.get(Known::Upgrade)?.into();
    let mut head = head.clone();
    head.set_method(b"CONNECT");
    head.set_protocol(&protocol);
    head.fields.remove(Known::Upgrade);
    head.fields.remove(Known::Connection);
    if head.fields.get(Known::ContentLength) == Some(b"0") {
        head.fields.remove(Known::ContentLength);
    }
    Some((head, protocol))
}

/// Puts the answer to an extended CONNECT into the form of HTTP/1: 200 grants the upgrade.
pub(crate) fn response_from_http2(head: &mut ResponseHead, protocol: &[u8]) {
    if head.status == 200 {
        head.status = 101;
        head.fields.set(Known::Upgrade, protocol);
        head.fields.set(Known::Connection, "upgrade");
    }
}

/// The answer to an extended CONNECT for a response in the form of HTTP/1. None: it goes as it is.
pub(crate) fn response_to_http2(head: &ResponseHead) -> Option<ResponseHead> {
    if !head.fields.contains(Known::Upgrade) || !is_upgrade(&head.fields) {
        return None;
    }
    let mut head = head.clone();
    if head.status == 101 {
        head.status = 200;
    }
    head.fields.remove(Known::Upgrade);
    head.fields.remove(Known::Connection);
    if head.fields.get(Known::ContentLength) == Some(b"0") {
        head.fields.remove(Known::ContentLength);
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;

    #[test]
    fn an_upgrade_survives_the_way_through_http2() {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        head.set_path(b"/chat");
        head.fields.append(Known::Connection, "keep-alive, Upgrade");
        head.fields.append(Known::Upgrade, "websocket");
        head.fields.append("sec-websocket-version", "13");
        let (mut there, protocol) = request_to_http2(&head).unwrap();
        assert_eq!(there.method(), Method::Connect);
        assert_eq!(there.protocol(), Some(&b"websocket"[..]));
        assert!(
            !there.fields.contains(Known::Upgrade) && !there.fields.contains(Known::Connection)
        );
        request_from_http2(&mut there);
        assert_eq!((there.method(), there.protocol()), (Method::Get, None));
        assert_eq!(there.fields.get(Known::Upgrade), Some(&b"websocket"[..]));
        assert_eq!(there.fields.get("sec-websocket-version"), Some(&b"13"[..]));
        let mut response = ResponseHead::new(200);
        response_from_http2(&mut response, &protocol);
        assert_eq!(response.status, 101);
        assert_eq!(
            response_to_http2(&response).map(|head| head.status),
            Some(200)
        );
    }

    #[test]
    fn a_plain_tunnel_is_no_upgrade() {
        for protocol in [None, Some(&b"bytestream"[..])] {
            let mut head = RequestHead::new(Protocol::Http2, b"CONNECT");
            head.set_authority(b"a:80");
            if let Some(protocol) = protocol {
                head.set_protocol(protocol);
            }
            request_from_http2(&mut head);
            assert_eq!((head.method(), head.protocol()), (Method::Connect, None));
            assert!(request_to_http2(&head).is_none());
        }
    }

    #[test]
    fn a_refused_upgrade_keeps_its_status() {
        let mut response = ResponseHead::new(403);
        response_from_http2(&mut response, b"websocket");
        assert_eq!(response.status, 403);
        assert!(response_to_http2(&response).is_none());
    }
}
