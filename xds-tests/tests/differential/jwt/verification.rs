//! Which tokens hold: algorithms, faults, and what an attacker would try.

use super::{REQUIRED, bearer, with};
use crate::case::{Case, With, get, request};
use crate::names::base64;
use crate::tokens;

pub(super) fn algorithms() -> Vec<Case> {
    let good = [
        ("RS256 is verified", tokens::RS256),
        ("RS384 is verified", tokens::RS384),
        ("RS512 is verified", tokens::RS512),
        ("PS256 is verified", tokens::PS256),
        ("PS384 is verified", tokens::PS384),
        ("PS512 is verified", tokens::PS512),
        ("ES256 is verified", tokens::ES256),
        ("ES384 is verified", tokens::ES384),
        ("ES512 is verified", tokens::ES512),
        ("EdDSA is verified", tokens::EDDSA),
        ("HS256 is verified", tokens::HS256),
        ("HS512 is verified", tokens::HS512),
    ];
    good.map(|(title, token)| {
        with(title, "issuer: \"https://issuer.example\"", REQUIRED)
            .send(bearer(token))
            .both()
            .shows(["< 200", "stat http.@stat.jwt_authn.allowed: 1"])
            .lacks(["> authorization*"])
    })
    .into()
}

/// How a signature may be written.
pub(super) fn spelling() -> Vec<Case> {
    let ended = |title, end: &str| {
        let token = format!("{}{end}", tokens::RS256);
        with(title, "", REQUIRED).send(bearer(&token))
    };
    // The last digit says two bits of the signature, and four that are nothing.
    let (start, last) = tokens::RS256.split_at(tokens::RS256.len() - 1);
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = digits.find(last).expect("a digit of base64");
    let other = &digits[at + 1..at + 2];
    vec![
        ended("a signature may have all of its padding", "==").shows(["< 200"]),
        ended("a signature may not have half of its padding", "=").shows([
            "< 401",
            "< body Jwt signature is an invalid Base64url encoded",
        ]),
        with(
            "the last digit of a signature may say more than is left",
            "",
            REQUIRED,
        )
        .send(bearer(&format!("{start}{other}")))
        .shows(["< 200"]),
        ended("white space does not end a token", " AAAA")
            .shows(["< 401", "< body Jwt verification fails"]),
    ]
}

pub(super) fn faults() -> Vec<Case> {
    let issuer = "issuer: \"https://issuer.example\"";
    let bad = [
        ("a token that is missing is asked for", "", "Jwt is missing"),
        (
            "a token of two parts is refused",
            "a.b",
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            "a token whose header is no base64 is refused",
            "a.b.c",
            "Jwt header is an invalid Base64url encoded",
        ),
        (
            "a token whose header is no JSON is refused",
            "YWJj.b.c",
            "Jwt header is an invalid JSON",
        ),
        (
            "an unsigned token is refused",
            tokens::NONE,
            "Jwt header [alg] is not supported",
        ),
        (
            "a public key is no secret of an HMAC",
            tokens::CONFUSED,
            "Jwt verification fails",
        ),
        (
            "a token of another key is refused",
            tokens::FORGED,
            "Jwt verification fails",
        ),
        (
            "a token that names no known key is refused",
            tokens::OTHER_KID,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            "an expired token is refused",
            tokens::EXPIRED,
            "Jwt is expired",
        ),
        (
            "a token that is not valid yet is refused",
            tokens::EARLY,
            "Jwt not yet valid",
        ),
        (
            "a token of another issuer is refused",
            tokens::OTHER_ISSUER,
            "Jwt issuer is not configured",
        ),
        (
            "a token without issuer is refused where one is asked for",
            tokens::NO_ISSUER,
            "Jwt issuer is not configured",
        ),
    ];
    let mut cases: Vec<Case> = bad
        .into_iter()
        .map(|(title, token, text)| {
            let request = if token.is_empty() {
                get("/a?b=c")
            } else {
                bearer(token)
            };
            let body: &'static str = Box::leak(format!("< body {text}").into());
            let case = with(title, issuer, REQUIRED).send(request).both();
            case.shows([
                "< 401",
                body,
                "< www-authenticate*",
                "stat http.@stat.jwt_authn.denied: 1",
            ])
            .lacks(["> *"])
        })
        .collect();
    cases.extend([
        with(
            "a token for another audience is forbidden",
            &format!("{issuer}, audiences: [z]"),
            REQUIRED,
        )
        .send(bearer(tokens::OTHER_AUDIENCE))
        .shows(["< 403", "< body Audiences in Jwt are not allowed"]),
        with(
            "strip_failure_response says nothing",
            issuer,
            &format!("{REQUIRED}, strip_failure_response: true"),
        )
        .get("/")
        .shows([
            "< 401",
            "log details=jwt_authn_access_denied{Jwt_is_missing}",
        ])
        .lacks(["< body ?*", "< www-authenticate*"]),
        with("a long path is cut in the challenge", issuer, REQUIRED)
            .get(&format!("/{}", "x".repeat(300)))
            .shows(["< 401"]),
        with("one bad token of two refuses the request", issuer, REQUIRED)
            .send(
                get(&format!("/?access_token={}", tokens::EXPIRED))
                    .field("authorization", &format!("Bearer {}", tokens::RS256)),
            )
            .shows(["< 401", "< body Jwt is expired"]),
        with("a gRPC client gets its status", issuer, REQUIRED)
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< 200", "< grpc-status: 16"]),
    ]);
    cases
}

/// What somebody sends who wants to do harm.
pub(super) fn hostile() -> Vec<Case> {
    let issuer = "issuer: \"https://issuer.example\"";
    let base64 = |text: &str| {
        let text = base64(text.as_bytes()).replace('+', "-").replace('/', "_");
        text.trim_end_matches('=').to_owned()
    };
    let token =
        |header: &str, payload: &str| format!("{}.{}.c2ln", base64(header), base64(payload));
    let refused = |title, token: &str| {
        with(title, issuer, REQUIRED)
            .hcm("max_request_headers_kb: 8192")
            .send(bearer(token))
            .shows(["< 401", "stat http.@stat.jwt_authn.denied: 1"])
            .lacks(["> *"])
    };
    let claims: Vec<_> = (0..50_000).map(|n| format!("\"c{n}\":{n}")).collect();
    let deep = format!(
        "{{\"iss\":\"https://issuer.example\",\"a\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let rs = "{\"alg\":\"RS256\",\"kid\":\"rsa\"}";
    vec![
        refused(
            "a token of fifty thousand claims is refused by its signature",
            &token(
                rs,
                &format!(
                    "{{\"iss\":\"https://issuer.example\",{}}}",
                    claims.join(",")
                ),
            ),
        ),
        refused(
            "a token that nests five thousand times is refused",
            &token(rs, &deep),
        ),
        refused(
            "a token with a key of its own is refused",
            &token(
                "{\"alg\":\"RS256\",\"jwk\":{\"kty\":\"oct\",\"k\":\"YQ\"}}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused(
            "a token whose algorithm is another one in small letters is refused",
            &token("{\"alg\":\"NoNe\"}", "{\"iss\":\"https://issuer.example\"}"),
        ),
        refused(
            "a token whose expiry is no number is refused",
            &token(rs, "{\"iss\":\"https://issuer.example\",\"exp\":\"never\"}"),
        ),
        refused(
            "a token whose expiry lies before all time is refused",
            &token(rs, "{\"iss\":\"https://issuer.example\",\"exp\":-1}"),
        ),
        refused(
            "a token whose algorithm is no string is refused",
            &token(
                "{\"alg\":[\"RS256\"]}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused(
            "a token whose payload is a list is refused",
            &token(rs, "[1]"),
        ),
        refused(
            "a token with a name twice is refused",
            &token(
                "{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"rsa\"}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused("a token of dots is refused", "..........."),
        refused(
            "a token signed for another algorithm is refused",
            &tokens::RS256.replacen(
                &base64("{\"alg\":\"RS256\""),
                &base64("{\"alg\":\"PS256\""),
                1,
            ),
        ),
    ]
}
