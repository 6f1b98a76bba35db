//! Virtual hosts whose routes stand in a matcher.

use std::rc::Rc;
use std::sync::Arc;

use super::{head, info, parse, select, server, table};
use crate::route::{Unmet, routes_in};

const HOST: &str = r#"
virtual_hosts:
- name: h
  domains: ["*"]
  matcher:
    matcher_tree:
      input: { name: path, typed_config: { "@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x } }
      exact_match_map:
        map:
          b:
            action:
              name: list
              typed_config:
                "@type": type.googleapis.com/envoy.config.route.v3.RouteList
                routes:
                - { name: b1, match: { path: /one }, route: { cluster: c } }
                - { name: b2, match: { prefix: / }, route: { cluster: c } }
          a:
            action:
              name: route
              typed_config:
                "@type": type.googleapis.com/envoy.config.route.v3.Route
                name: a
                match: { prefix: /a }
                route: { cluster: c }
    on_no_match:
      action:
        name: route
        typed_config:
          "@type": type.googleapis.com/envoy.config.route.v3.Route
          name: rest
          match: { prefix: / }
          route: { cluster: c }
"#;

#[test]
fn a_matcher_chooses_the_routes_that_are_tried() {
    let table = Rc::new(Arc::new(table(HOST)));
    let route = |x: &str, path: &str| {
        let mut head = head("GET", "h", path);
        head.fields.append("x", x);
        let route = select(&table, &head, 0)?;
        route.route().name.as_deref().map(str::to_owned)
    };
    assert_eq!(route("a", "/a/b").as_deref(), Some("a"));
    // The matcher has decided: what its route does not match, no other takes.
    assert_eq!(route("a", "/other"), None);
    assert_eq!(route("b", "/one").as_deref(), Some("b1"));
    assert_eq!(route("b", "/two").as_deref(), Some("b2"));
    assert_eq!(route("c", "/a").as_deref(), Some("rest"));
}

#[test]
fn an_explanation_counts_only_routes_that_were_tried() {
    let table = table(HOST);
    let mut head = head("GET", "h", "/two");
    head.fields.append("x", "b");
    let lookup = table.explain(&head, &info(), 0);
    let names: Vec<_> = routes_in(parse(HOST).virtual_hosts[0].matcher.as_ref().unwrap())
        .into_iter()
        .map(|route| route.name)
        .collect();
    assert_eq!(names, ["a", "b1", "b2", "rest"]);
    assert_eq!(lookup.lost, [(1, Unmet::Path)]);
}

#[test]
fn routes_do_not_stand_beside_a_matcher() {
    let both = HOST.replace(
        "  matcher:\n",
        "  routes: [{ match: { prefix: / }, route: { cluster: c } }]\n  matcher:\n",
    );
    let errors = super::convert(parse(&both), &[], &server()).err().unwrap();
    assert!(
        errors[0].contains("virtual_hosts[0] / matcher: cannot stand beside routes"),
        "{errors:?}"
    );
}
