//! What else policies of a gateway keep: from which address one calls, what a token says, which pages send forms, how long
//! bodies are and how fast they go, what clients see of errors; and policies that a rule names itself.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::binaries;

use crate::claims::Issuer;
use crate::policies::{ask, process, send};
use crate::scene::{Scene, edge};
use crate::world::{eventually, ports};

#[test]
fn an_envoy_keeps_what_policies_say() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_keeps_what_policies_say() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

/// Fails where it is asked to, and has a large answer.
fn shop() -> SocketAddr {
    process(|head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path {
            "/broken" => (503, "at Shop.java:42".to_owned()),
            "/missing" => (404, "no such row".to_owned()),
            "/teapot" => (418, "short and stout".to_owned()),
            "/large" => (200, "x".repeat(120 * 1024)),
            _ => (200, head.to_owned()),
        };
        (status, "x-internal: shop-7\r\n".to_owned(), body)
    })
}

fn input(gateway: SocketAddr, shop: SocketAddr, issuer: &Issuer) -> String {
    let mut rules = String::new();
    for name in ["inside", "admin", "forms", "keys"] {
        let to = "backendRefs: [{ name: shop, port: 80 }]";
        writeln!(
            rules,
            "  - {{ name: {name}, matches: [{{ path: {{ value: /{name} }} }}], {to} }}"
        )
        .unwrap();
    }
    for (path, policy) in [("/large", "slow"), ("/small", "small")] {
        writeln!(
            rules,
            "  - matches: [{{ path: {{ value: {path} }} }}]
    filters: [{{ type: ExtensionRef, extensionRef: {{ group: outrigger.dev, kind: GatewayPolicy, name: {policy} }} }}]
    backendRefs: [{{ name: shop, port: 80 }}]"
        )
        .unwrap();
    }
    format!(
        "
{}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
  - {{ backendRefs: [{{ name: shop, port: 80 }}] }}
{rules}---
apiVersion: v1
kind: Service
metadata: {{ name: shop }}
spec: {{ ports: [{{ port: 80, targetPort: {shop} }}] }}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: shop }}
spec: {{ services: [shop], address: 127.0.0.1, sidecar: false, ports: [{{ port: {shop} }}] }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: clients }}
type: Opaque
stringData: {{ ann: key-of-ann, bob: key-of-bob }}
---
apiVersion: outrigger.dev/v1alpha1
kind: JwtProvider
metadata: {{ name: login }}
spec: {{ jwks: {{ inline: '{}' }} }}
",
        edge(gateway),
        issuer.jwks(),
        shop = shop.port(),
    )
}

const POLICIES: &str = r#"
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: edge }
spec:
  targetRefs: [{ kind: Gateway, name: edge }]
  trustedHops: 1
  errors:
  - { statuses: [5xx], status: 500, body: '{"error": "100% ours"}', contentType: application/json, headers: { retry-after: "5" } }
  - { statuses: [404, 403], body: nothing for you }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: inside }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: inside }]
  addresses: { allow: [10.0.0.0/8], deny: [10.6.6.6] }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: admin }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: admin }]
  errors: []
  jwt:
    anyOf: [login]
    claims: { realm.roles: [admin, owner], tier: [7, true] }
    rules: [{ paths: [/admin/help], anyOf: [login] }]
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: forms }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: forms }]
  csrf: { allowHosts: ["*.shop.example"] }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: keys }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: keys }]
  apiKeys: { secrets: [clients], allowClients: [ann] }
  rateLimits: [{ by: [path], requests: 2, per: 1h }]
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: slow }
spec: { bandwidth: { kibPerSecond: 40, of: [responses] } }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: small }
spec: { maxBodyBytes: 10 }
"#;

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-guards-{name}")).unwrap();
    let [gateway] = ports();
    let issuer = Issuer::new();
    let mut scene = Scene::start(&folder, &input(gateway, shop(), &issuer), &[]);
    scene.join(program, "gateway/default/edge", |_| {});
    // A rule that names a policy which is not there lets nothing pass.
    eventually(|| (ask(gateway, "/missing", &[]).0 == 404).then_some(()));
    assert_eq!(ask(gateway, "/small", &[]).0, 500);
    scene.write("policies.yaml", POLICIES);
    eventually(|| (ask(gateway, "/admin", &[]).0 == 401).then_some(()));
    eventually(|| (ask(gateway, "/small", &[]).0 == 200).then_some(()));

    keeps_addresses(gateway);
    keeps_claims(gateway, &issuer);
    keeps_forms(gateway);
    stands_in_for_errors(gateway);

    let key = |key: &str| ask(gateway, "/keys", &[&format!("x-api-key: {key}")]).0;
    assert_eq!(
        [key("key-of-ann"), key("key-of-bob"), key("none")],
        [200, 403, 401]
    );
    // Each path has a counter of its own, whatever its parameters are.
    let path = |path: &str| ask(gateway, path, &["x-api-key: key-of-ann"]).0;
    assert_eq!(
        ["/keys/a", "/keys/a?b=c", "/keys/a?b=d", "/keys/b"].map(path),
        [200, 200, 429, 200]
    );
    let upload = |body: &str| {
        let length = format!("content-length: {}", body.len());
        send(gateway, "POST /small", &[&length], body).0
    };
    assert_eq!([upload("0123456789"), upload("0123456789a")], [200, 413]);
    // What may go in the first second is there at once.
    let began = tokio::time::Instant::now();
    let (status, _, body) = ask(gateway, "/large", &[]);
    assert_eq!((status, body.len()), (200, 120 * 1024));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1), "{took:?}");

    let (_, status) = scene.plane.command(&["status"]);
    assert!(!status.contains("NoGateway"), "{status}");
    let alone = POLICIES.replace("maxBodyBytes: 10", "maxBodyBytes: -1");
    scene.write("policies.yaml", &alone);
    eventually(|| {
        let (_, status) = scene.plane.command(&["status"]);
        status.contains("maxBodyBytes").then_some(())
    });
    assert_eq!(upload("0123456789a"), 413);
}

fn keeps_addresses(gateway: SocketAddr) {
    let from = |addresses: &str| {
        let header = format!("x-forwarded-for: {addresses}");
        ask(gateway, "/inside", &[&header]).0
    };
    assert_eq!(ask(gateway, "/inside", &[]).0, 403);
    assert_eq!([from("10.1.2.3"), from("10.6.6.6")], [200, 403]);
    // Only the trusted proxy's own word counts.
    assert_eq!(
        [from("10.1.2.3, 192.168.0.1"), from("192.168.0.1, 10.1.2.3")],
        [403, 200]
    );
}

fn keeps_claims(gateway: SocketAddr, issuer: &Issuer) {
    let with = |path: &str, claims: &str| {
        let token = format!("authorization: Bearer {}", issuer.sign(claims));
        ask(gateway, path, &[&token]).0
    };
    for (claims, expected) in [
        (r#""realm": {"roles": ["clerk", "admin"]}, "tier": 7"#, 200),
        (r#""realm": {"roles": "clerk owner"}, "tier": [1, 7]"#, 200),
        (r#""realm": {"roles": "admin"}, "tier": true"#, 200),
        (r#""realm": {"roles": ["clerk"]}, "tier": 7"#, 403),
        (r#""realm": {"roles": "administrator"}, "tier": 7"#, 403),
        (r#""realm": {"roles": ["admin"]}, "tier": 8"#, 403),
        (r#""realm": {"roles": ["admin"]}, "tier": "7""#, 403),
        (r#""realm": {"roles": ["admin"]}"#, 403),
        (r#""roles": ["admin"], "tier": 7"#, 403),
    ] {
        assert_eq!(with("/admin/users", claims), expected, "{claims}");
    }
    assert_eq!(with("/admin/help", r#""sub": "ann""#), 200);
    assert_eq!(ask(gateway, "/admin/help", &[]).0, 401);
}

fn keeps_forms(gateway: SocketAddr) {
    let post = |headers: &[&str]| send(gateway, "POST /forms", headers, "").0;
    assert_eq!(post(&["origin: http://shop"]), 200);
    assert_eq!(post(&["origin: https://a.shop.example"]), 200);
    assert_eq!(post(&["origin: https://evil.example"]), 403);
    assert_eq!(post(&["referer: http://shop/form"]), 200);
    assert_eq!(post(&[]), 403);
    let read = ask(gateway, "/forms", &["origin: https://evil.example"]);
    assert_eq!(read.0, 200);
}

fn stands_in_for_errors(gateway: SocketAddr) {
    let (status, head, body) = ask(gateway, "/broken", &[]);
    assert_eq!((status, &*body), (500, r#"{"error": "100% ours"}"#));
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("retry-after: 5"), "{head}");
    assert!(!head.contains("x-internal"), "{head}");
    let (status, head, body) = ask(gateway, "/missing", &[]);
    assert_eq!((status, &*body), (404, "nothing for you"));
    assert!(head.contains("content-type: text/plain"), "{head}");
    // It stands in for the gateway's own, too.
    let (status, _, body) = ask(gateway, "/inside", &[]);
    assert_eq!((status, &*body), (403, "nothing for you"));
    let (status, head, body) = ask(gateway, "/teapot", &[]);
    assert_eq!((status, &*body), (418, "short and stout"));
    assert!(head.contains("x-internal: shop-7"), "{head}");
}
