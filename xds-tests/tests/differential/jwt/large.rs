//! Tokens as large as heads may be, and larger.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{REQUIRED, bearer, with};
use crate::case::Case;

pub(super) fn large() -> Vec<Case> {
    let issuer = "issuer: \"https://issuer.example\"";
    vec![
        with(
            "a good token of as many claims as heads have room for is taken",
            issuer,
            REQUIRED,
        )
        .hcm("max_request_headers_kb: 8192")
        .send(bearer(&many_claims(780_000)))
        .shows(["< 200"]),
        with(
            "a token of a million claims is a head that is too large",
            issuer,
            REQUIRED,
        )
        .hcm("max_request_headers_kb: 8192")
        .raw(&format!(
            "GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
            many_claims(1_000_000)
        ))
        .on(1)
        .send(bearer(&many_claims(1)))
        .ends_somehow()
        .shows(["< 431", "< 200", "log details=http1.headers_too_large"]),
    ]
}

/// A good token with so many claims, each with the shortest name that is left.
fn many_claims(count: usize) -> String {
    let letters: Vec<_> = (b'!'..=b'~').filter(|c| !b"\"\\".contains(c)).collect();
    let name = |mut number: usize| {
        let mut name = String::new();
        loop {
            name.push(char::from(letters[number % letters.len()]));
            number /= letters.len();
            if number == 0 {
                return name;
            }
        }
    };
    let mut payload = String::from("{\"iss\":\"https://issuer.example\"");
    let registered = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
    let names = (0..count).map(name);
    for name in names.filter(|name| !registered.contains(&name.as_str())) {
        payload.push_str(&format!(",\"{name}\":1"));
    }
    payload.push('}');
    let url = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = url(b"{\"alg\":\"HS256\",\"kid\":\"oct\"}");
    let signed = format!("{header}.{}", url(payload.as_bytes()));
    let secret = b"a-secret-of-thirty-two-bytes-at-least-and-so-on-until-sixty-four";
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", url(signature.as_ref()))
}
