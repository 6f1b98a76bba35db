//! What is tried again, and when.

use super::*;
use crate::http::Protocol;
use crate::route::ResetHeader;
use crate::upstream::pool::ConnectError;

fn retries(fields: &[(&str, &str)]) -> Option<Retries> {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    for (name, value) in fields {
        head.fields.append(*name, value);
    }
    Retries::of(None, &head, &RetryRuntime::new(&Runtime::default()))
}

fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in fields {
        head.fields.append(*name, value);
    }
    head
}

fn wants(token: &str, head: &ResponseHead) -> bool {
    let request = RequestHead::new(Protocol::Http11, b"GET");
    let header = if RetryOn::parse_grpc(token.as_bytes()).1 {
        "x-envoy-retry-grpc-on"
    } else {
        "x-envoy-retry-on"
    };
    let retries = retries(&[(header, token)]).unwrap();
    retries.wants_response(head, &request, None) != Wanted::No
}

#[test]
fn each_token_wants_its_responses_and_no_others() {
    for (token, status, expected) in [
        ("5xx", 599, true),
        ("5xx", 600, false),
        ("5xx", 499, false),
        ("gateway-error", 500, false),
        ("gateway-error", 503, true),
        ("retriable-4xx", 409, true),
        ("retriable-4xx", 408, false),
        ("reset", 503, false),
        ("connect-failure", 503, false),
    ] {
        assert_eq!(
            wants(token, &response(status, &[])),
            expected,
            "{token} {status}"
        );
    }
    for (token, status) in [
        ("cancelled", "1"),
        ("deadline-exceeded", "4"),
        ("resource-exhausted", "8"),
        ("internal", "13"),
        ("unavailable", "14"),
    ] {
        assert!(
            wants(token, &response(200, &[("grpc-status", status)])),
            "{token}"
        );
        assert!(
            !wants(token, &response(200, &[("grpc-status", "2")])),
            "{token}"
        );
    }
}

#[test]
fn a_rate_limited_response_is_left_alone_unless_asked_for() {
    let limited = response(503, &[("x-envoy-ratelimited", "true")]);
    assert!(!wants("5xx", &limited));
    assert!(wants("envoy-ratelimited", &limited));
    assert!(!wants("envoy-ratelimited", &response(503, &[])));
}

#[test]
fn each_token_wants_its_failures_and_no_others() {
    let refused = Failure::Reset(ResetReason::RemoteRefusedStream);
    let unconnected = Failure::Reset(ResetReason::ConnectionFailure(ConnectError::Timeout));
    let broken = Failure::Reset(ResetReason::ConnectionTermination);
    let overflow = Failure::Reset(ResetReason::Overflow);
    for (token, failure, started, expected) in [
        ("5xx", &broken, true, true),
        ("gateway-error", &Failure::PerTryTimeout, true, true),
        ("reset", &Failure::MaxStreamDuration, true, true),
        ("reset", &overflow, false, false),
        ("connect-failure", &unconnected, false, true),
        ("connect-failure", &broken, true, false),
        ("connect-failure", &Failure::PerTryTimeout, true, false),
        ("refused-stream", &refused, true, true),
        ("refused-stream", &broken, true, false),
        ("reset-before-request", &unconnected, false, true),
        ("reset-before-request", &broken, true, false),
        ("reset-before-request", &overflow, false, false),
        ("retriable-4xx", &broken, true, false),
    ] {
        let retries = retries(&[("x-envoy-retry-on", token)]).unwrap();
        let wanted = retries.wants_failure(failure, started) != Wanted::No;
        assert_eq!(wanted, expected, "{token} {failure:?}");
    }
}

#[test]
fn codes_and_headers_of_the_request_count() {
    let retries = retries(&[
        (
            "x-envoy-retry-on",
            "retriable-status-codes,retriable-headers",
        ),
        ("x-envoy-retriable-status-codes", "418, 425,nonsense"),
        ("x-envoy-retriable-header-names", "x-again, "),
        ("x-envoy-max-retries", "7"),
    ]);
    let retries = retries.unwrap();
    assert_eq!(retries.remaining, 7);
    let mut request = RequestHead::new(Protocol::Http11, b"GET");
    let wanted =
        |head: &ResponseHead, request: &RequestHead| retries.wants_response(head, request, None);
    assert_eq!(wanted(&response(418, &[]), &request), Wanted::AfterBackOff);
    assert_eq!(wanted(&response(419, &[]), &request), Wanted::No);
    assert_eq!(
        wanted(&response(200, &[("x-again", "")]), &request),
        Wanted::AfterBackOff
    );
    assert_eq!(wanted(&response(425, &[]), &request), Wanted::AtOnce);
    request.fields.append("early-data", "1");
    assert_eq!(wanted(&response(425, &[]), &request), Wanted::No);
}

#[test]
fn without_a_reason_there_is_no_state() {
    assert!(retries(&[("x-envoy-max-retries", "3")]).is_none());
    assert!(retries(&[("x-envoy-retry-on", "what")]).is_none());
}

#[test]
fn the_ceiling_of_the_wait_doubles_up_to_ten_times_the_base() {
    let mut back_off = BackOff::new(None, &RetryRuntime::new(&Runtime::default()));
    let ceilings: Vec<u64> = (0..6)
        .map(|_| {
            let ceiling = back_off.next;
            assert_eq!(back_off.wait(ceiling + 3), 3);
            ceiling
        })
        .collect();
    assert_eq!(ceilings, [25, 50, 100, 200, 250, 250]);
}

#[test]
fn the_first_reset_header_that_asks_for_little_enough_counts() {
    let header = |name, unix_timestamp| ResetHeader {
        name: HeaderName::new(name),
        unix_timestamp,
    };
    let limited = RateLimitedBackOff {
        reset_headers: [header("retry-after", false), header("x-reset", true)].into(),
        max_interval: Duration::from_secs(60),
    };
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let interval = |fields: &[(&str, &str)]| reset_interval(&limited, &response(429, fields), now);
    assert_eq!(interval(&[("retry-after", "5")]), Some(5000));
    assert_eq!(
        interval(&[("retry-after", "500"), ("x-reset", "1030")]),
        Some(30_000)
    );
    assert_eq!(interval(&[("x-reset", "999")]), None);
    assert_eq!(interval(&[("x-reset", "1000")]), None);
    assert_eq!(interval(&[("retry-after", "soon")]), None);
}
