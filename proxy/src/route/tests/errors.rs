//! Configurations that are refused, and where.

use super::{convert, parse, server};

fn errors(yaml: &str) -> Vec<String> {
    convert(parse(yaml), &[], &server()).unwrap_err()
}

#[test]
fn every_error_of_a_table_is_found_with_its_path() {
    let found = errors(
        r#"
vhost_header: x
virtual_hosts:
- name: a
  domains: [a.example, A.example]
  routes:
  - { match: { prefix: / }, route: { cluster: c, hedge_policy: { initial_requests: 0 }, timeout: -1s } }
  - { match: { safe_regex: { regex: "(" } }, route: { cluster: c, prefix_rewrite: /, regex_rewrite: { pattern: { regex: a }, substitution: b } } }
  - { match: { path_separated_prefix: /a/ }, direct_response: { status: 99 } }
  - match: { prefix: / }
    request_headers_to_add: [ { header: { key: ":path", value: x } }, { header: { key: x, value: "%WHAT%" } } ]
    response_headers_to_remove: [host]
    route: { weighted_clusters: { clusters: [ { name: a, weight: 0 } ] } }
- name: b
  domains: ["*"]
  virtual_clusters: [ { name: v } ]
  routes:
  - { match: { prefix: / }, redirect: { port_redirect: 70000 } }
  - { match: { prefix: / }, direct_response: { status: 200, body: { filename: /no/such/file } } }
  - { match: { prefix: / } }
"#,
    );
    let host =
        |host: usize, route: usize| format!("routes / virtual_hosts[{host}] / routes[{route}] / ");
    for expected in [
        "routes / vhost_header".to_owned(),
        "routes / virtual_hosts[0] / domains[1]".to_owned(),
        host(0, 0) + "route / hedge_policy",
        host(0, 0) + "route / timeout",
        host(0, 1) + "match / safe_regex / regex",
        host(0, 1) + "route: has more than one",
        host(0, 2) + "match / path_separated_prefix",
        host(0, 2) + "direct_response / status",
        host(0, 3) + "request_headers_to_add[0] / header / key",
        host(0, 3) + "request_headers_to_add[1] / header / value",
        host(0, 3) + "response_headers_to_remove[0]",
        host(0, 3) + "route / weighted_clusters / clusters",
        "routes / virtual_hosts[1] / virtual_clusters[0] / headers".to_owned(),
        host(1, 0) + "redirect / port_redirect",
        host(1, 1) + "direct_response / body / filename",
        "routes / virtual_hosts[1] / routes[2]: needs one of".to_owned(),
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(&expected)),
            "{expected} is missing in {found:#?}"
        );
    }
    assert_eq!(found.len(), 17, "{found:#?}");
}

#[test]
fn a_body_may_be_as_large_as_the_table_says() {
    let yaml = |limit: &str, size: usize| {
        format!(
            r#"
{limit}
virtual_hosts:
- name: a
  domains: ["*"]
  routes:
  - {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: "{}" }} }} }}
"#,
            "x".repeat(size)
        )
    };
    for (limit, size, legal) in [
        ("", 4096, true),
        ("", 4097, false),
        ("max_direct_response_body_size_bytes: 5", 5, true),
        ("max_direct_response_body_size_bytes: 5", 6, false),
    ] {
        let result = convert(parse(&yaml(limit, size)), &[], &server());
        assert_eq!(result.is_ok(), legal, "{limit} {size}");
    }
}
