use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::*;
use crate::config::ConfigReport;
use crate::http::{Protocol, RequestHead};
use crate::net::Address;
use crate::stream_info::{ConnectionInfo, DynamicMetadata, TlsConnectionInfo};
use crate::x509::tests::make;

fn convert(yaml: &str) -> Result<Rules, Vec<String>> {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: pb::Rbac = load(&[source], UnknownFields::Refuse).unwrap();
    let report = ConfigReport::new();
    Rules::from_proto(proto, &ConfigPath::root(&report, "rules"))
        .map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

fn connection() -> ConnectionInfo {
    let address = |text: &str| Address::Ip(text.parse().unwrap());
    ConnectionInfo::between(address("10.0.0.7:1234"), address("192.0.2.1:8443"))
}

fn decide(rules: &Rules, connection: &ConnectionInfo, path: &str) -> (bool, Option<String>) {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(path.as_bytes());
    let metadata = DynamicMetadata::default();
    let decision = rules.decide(&Subject {
        connection,
        head: &head,
        remote: &connection.remote_address,
        metadata: &metadata,
        route_metadata: None,
        filter_state: None,
        info: None,
    });
    (decision.allowed, decision.policy.map(str::to_owned))
}

#[test]
fn the_first_policy_by_name_that_matches_allows() {
    let rules = convert(
        "policies: { b: { permissions: [ { any: true } ], principals: [ { any: true } ] }, a: { permissions: [ { url_path: { path: { prefix: /a } } } ], principals: [ { source_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } } ] } }",
    )
    .unwrap();
    assert_eq!(
        decide(&rules, &connection(), "/a?x"),
        (true, Some("a".into()))
    );
    assert_eq!(
        decide(&rules, &connection(), "/b"),
        (true, Some("b".into()))
    );
}

#[test]
fn deny_refuses_what_matches_and_allow_what_does_not() {
    let policy = "policies: { p q: { permissions: [ { destination_port: 8443 } ], principals: [ { not_id: { direct_remote_ip: { address_prefix: 10.0.0.8, prefix_len: 32 } } } ] } }";
    let deny = convert(&format!("action: DENY\n{policy}")).unwrap();
    assert!(!decide(&deny, &connection(), "/").0);
    let allow = convert(policy).unwrap();
    assert!(decide(&allow, &connection(), "/").0);
    let nothing = convert("{}").unwrap();
    assert_eq!(decide(&nothing, &connection(), "/"), (false, None));
    let denied = Decision {
        allowed: false,
        policy: Some("p q"),
        log: None,
    };
    assert_eq!(denied.details(), "rbac_access_denied_matched_policy[p_q]");
    let log = convert(&format!("action: LOG\n{policy}")).unwrap();
    assert!(decide(&log, &connection(), "/").0);
}

#[test]
fn a_principal_is_a_name_of_the_certificate_or_its_subject() {
    let rules = |matcher: &str| {
        convert(&format!(
            "policies: {{ a: {{ permissions: [ {{ any: true }} ], principals: [ {{ authenticated: {matcher} }} ] }} }}"
        ))
        .unwrap()
    };
    let certificate = make(|params| {
        params.subject_alt_names = vec![
            rcgen::SanType::URI("spiffe://td/a".try_into().unwrap()),
            rcgen::SanType::DnsName("a.example".try_into().unwrap()),
        ];
    });
    let with_peer = connection();
    let mut tls = TlsConnectionInfo::new();
    tls.peer_chain = vec![certificate.der().into()];
    with_peer.tls.set(Box::new(tls)).unwrap();
    let any = rules("{}");
    assert!(decide(&any, &with_peer, "/").0);
    assert!(!decide(&any, &connection(), "/").0);
    for name in ["spiffe://td/a", "a.example", &certificate.subject] {
        let exact = rules(&format!("{{ principal_name: {{ exact: \"{name}\" }} }}"));
        assert!(decide(&exact, &with_peer, "/").0, "{name}");
        assert!(!decide(&exact, &connection(), "/").0);
    }
    assert!(
        !decide(
            &rules("{ principal_name: { exact: spiffe://td/b } }"),
            &with_peer,
            "/"
        )
        .0
    );
}

#[test]
fn every_error_is_found() {
    let errors = convert(
        "policies: { a: { permissions: [ { any: false }, { destination_port_range: { start: 9, end: 9 } } ], principals: [ { and_ids: { ids: [ { any: false } ] } }, {} ] } }",
    )
    .unwrap_err();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        errors[2].contains("principals[0] / and_ids / ids[0] / any"),
        "{errors:?}"
    );
}

#[test]
fn a_validated_certificate_is_a_principal_of_its_own() {
    let policy = |config: &str| {
        convert(&format!(
            "policies: {{ a: {{ permissions: [ {{ any: true }} ], principals: [ {{ custom: {{ name: x, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, {config} }} }} }} ] }} }}"
        ))
    };
    let rules = policy("any_validated_client_certificate: true").unwrap();
    let connection = connection();
    assert!(!decide(&rules, &connection, "/").0, "there is no TLS");
    let tls = |peer_validated| {
        let mut tls = TlsConnectionInfo::new();
        tls.peer_validated = peer_validated;
        let connection = self::connection();
        let _ = connection.tls.set(Box::new(tls));
        connection
    };
    assert!(!decide(&rules, &tls(false), "/").0);
    assert!(decide(&rules, &tls(true), "/").0);
    let named = policy("san_matcher: { san_type: URI, matcher: { prefix: spiffe } }").unwrap();
    assert!(!decide(&named, &tls(true), "/").0, "nobody has that name");
    assert!(policy("any_validated_client_certificate: false").is_err());
}
