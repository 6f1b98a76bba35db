//! Scoped routes: headers of a request choose the route configuration that it is routed by.

use crate::case::{Case, With, case, get, indent};
use crate::late_tables::LEADS;

pub fn cases() -> Vec<Case> {
    vec![
        scoped("a header chooses the scope of a request", "{ header_value_extractor: { name: X-Scope, index: 0 } }", &[(&["a"], "a"), (&["b"], "b")], "")
            .send(get("/").field("x-scope", "a"))
            .send(get("/").field("x-scope", "b"))
            .both()
            .shows(["< body a", "< body b"]),
        scoped("a request that belongs to no scope is 404", "{ header_value_extractor: { name: x-scope, index: 0 } }", &[(&["a"], "a")], "")
            .get("/")
            .send(get("/").field("x-scope", "c"))
            .both()
            .shows(["< 404"])
            .lacks(["< 200"]),
        scoped("an element of a header can be the key of a scope", "{ header_value_extractor: { name: x-scope, element_separator: \",\", index: 1 } }", &[(&["a"], "a"), (&[""], "empty")], "")
            .send(get("/").field("x-scope", "z,a"))
            .send(get("/").field("x-scope", "a"))
            .send(get("/").field("x-scope", "a,"))
            .shows(["< body a", "< 404", "< body empty"]),
        scoped("the value of a pair in a header can be the key of a scope", "{ header_value_extractor: { name: x-scope, element_separator: \";\", element: { separator: \"=\", key: k } } }", &[(&["a=b"], "a"), (&[""], "empty")], "")
            .send(get("/").field("x-scope", "x=1;k=a=b;k=c"))
            .send(get("/").field("x-scope", "k"))
            .send(get("/").field("x-scope", "kk=a=b"))
            .shows(["< body a", "< body empty", "< 404"]),
        scoped("only the first value of a header says the scope", "{ header_value_extractor: { name: x-scope, index: 0 } }", &[(&["a"], "a"), (&["b"], "b")], "")
            .send(get("/").field("x-scope", "b").field("x-scope", "a"))
            .shows(["< body b"]),
        scoped("a scope is chosen by all fragments of its key", "{ header_value_extractor: { name: x-scope, index: 0 } }, { header_value_extractor: { name: \":authority\", index: 0 } }", &[(&["a", "example.com"], "both"), (&["a", "b.com"], "other")], "")
            .send(get("/").field("x-scope", "a"))
            .send(get("/").field("x-scope", "a").host("b.com"))
            .get("/")
            .shows(["< body both", "< body other", "< 404"]),
        scoped("a filter that changes the scope and clears the route leads to another scope", "{ header_value_extractor: { name: x-scope, index: 0 } }", &[(&["a"], "a"), (&["b"], "b")], &format!("{LEADS}{MARK}"))
            .send(get("/").field("x-scope", "a"))
            .get("/")
            .shows(["< body b", "< x-of: b"])
            .lacks(["< body a", "< x-of: a"]),
    ]
}

/// Lets routes mark their responses.
const MARK: &str = "\
- name: mark
  typed_config:
    \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
    mutations: {}
";

/// Scopes by their keys, each with one route that says a word, and marks the response with it where there is a filter `mark`.
fn scoped(title: &'static str, fragments: &str, scopes: &[(&[&str], &str)], filters: &str) -> Case {
    let mut list = String::new();
    for (key, word) in scopes {
        let key: Vec<_> = key
            .iter()
            .map(|text| format!("{{ string_key: {text:?} }}"))
            .collect();
        let mark = match filters {
            "" => String::new(),
            _ => format!(
                ", typed_per_filter_config: {{ mark: {{ \"@type\": \"@http/header_mutation.v3.HeaderMutationPerRoute\", mutations: {{ response_mutations: [{{ append: {{ header: {{ key: x-of, value: {word} }} }} }}] }} }} }}"
            ),
        };
        list.push_str(&format!(
            "- name: {word}_@stat
  key: {{ fragments: [{}] }}
  route_configuration: {{ name: {word}_@stat, virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {word} }} }}{mark} }}] }}] }}
",
            key.join(", ")
        ));
    }
    let list = indent(&list, 8);
    let filters = match filters {
        "" => String::new(),
        filters => indent(filters, 4),
    };
    case(title)
        .network(&format!(
            "- name: http
  typed_config:
    \"@type\": \"@net/http_connection_manager.v3.HttpConnectionManager\"
    stat_prefix: \"@stat\"
    scoped_routes:
      name: scopes_@stat
      scope_key_builder: {{ fragments: [{fragments}] }}
      scoped_route_configurations_list:
        scoped_route_configurations:
{list}    http_filters:
{filters}    - name: router
      typed_config: {{ \"@type\": \"@http/router.v3.Router\" }}"
        ))
        .access_log("[]")
        .logs(0)
}
