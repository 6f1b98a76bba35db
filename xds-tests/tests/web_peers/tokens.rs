//! Tokens that others have made, with keys that they have written down, checked by `jwt_authn`.

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use serde_json::Value;

use super::{bootstrap, output, prepared, say, script};

#[tokio::test]
async fn tokens_of_pyjwt_are_told_apart() {
    let Some(python) = prepared(script("peers.sh")).await else {
        return say("SKIPPED: PyPI is not there; NOTHING WAS PROVED about tokens of PyJWT.");
    };
    let maker = script("peers/tokens.py").display().to_string();
    let made = output(&python.display().to_string(), &[&maker]).await;
    check("pyjwt", &made).await;
}

#[tokio::test]
async fn tokens_of_jose_are_told_apart() {
    let Some(folder) = prepared(script("peers-web.sh")).await else {
        return say("SKIPPED: npm is not there; NOTHING WAS PROVED about tokens of jose.");
    };
    let maker = script("peers/tokens.mjs").display().to_string();
    let made = output("node", &[&maker, &folder.display().to_string()]).await;
    check("jose", &made).await;
}

/// All good tokens pass and show who sent them; no bad one does.
async fn check(maker: &str, made: &str) {
    let made: Value = serde_json::from_str(made).unwrap_or_else(|_| panic!("{maker}: {made}"));
    let jwks = made["jwks"].to_string().replace('\'', "''");
    let filters = format!(
        "          - name: jwt
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers: {{ p: {{ issuer: \"https://issuer.example\", audiences: [svc], payload_in_metadata: pay, local_jwks: {{ inline_string: '{jwks}' }} }} }}
              rules: [{{ match: {{ prefix: / }}, requires: {{ provider_name: p }} }}]
"
    );
    let route = "{ match: { prefix: / }, direct_response: { status: 204 }, response_headers_to_add: [{ header: { key: x-sub, value: \"%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pay:sub)%\" } }] }";
    let folder = binaries::scratch(&format!("web-peers-{maker}")).unwrap();
    let binary = binaries::outrigger().unwrap();
    let yaml = bootstrap(&filters, route, "");
    let mut proxy = Proxy::start(&binary, &yaml, &folder).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").unwrap());
    for (kind, count) in [("good", 13), ("bad", 12)] {
        let tokens = made[kind].as_object().unwrap();
        assert!(tokens.len() >= count, "{maker}: {} {kind}", tokens.len());
        for (name, token) in tokens {
            let header = format!("authorization: Bearer {}", token.as_str().unwrap());
            let said = output("curl", &["-sS", "-i", "-H", &header, &url]).await;
            let passes = said.starts_with("HTTP/1.1 204") && said.contains("x-sub: alice");
            assert_eq!(passes, kind == "good", "{maker}, {name}: {said}");
            assert!(
                passes || said.starts_with("HTTP/1.1 40"),
                "{maker}, {name}: {said}"
            );
        }
    }
    assert_eq!(proxy.obituary(), None);
}
