//! Explanations of a configuration with a bit of everything.

use outrigger_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::*;
use crate::server::LocalInfo;

fn shop() -> Configuration {
    let source = Source {
        name: "shop.yaml",
        format: Format::Yaml,
        bytes: include_bytes!("shop.yaml"),
    };
    let bootstrap: Bootstrap = load(&[source], UnknownFields::Refuse).unwrap();
    Configuration::of_bootstrap(&bootstrap, Vec::new(), LocalInfo::default())
}

fn explained(request: &str, headers: &[&str]) -> Explanation {
    let mut question = Question::parse(request).unwrap();
    for header in headers {
        question.add_header(header).unwrap();
    }
    explain(&shop(), &question).unwrap()
}

fn http(request: &str, headers: &[&str]) -> HttpExplained {
    match explained(request, headers).outcome {
        Outcome::Http(http) => *http,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_route_is_shown_with_what_the_routes_before_it_want() {
    let http = http(
        "GET http://shop.example//cart/../cart/x?y=1",
        &["x-beta: no"],
    );
    assert_eq!(http.request.path, "/cart/x?y=1");
    assert_eq!(http.virtual_host.unwrap().name, "shop");
    let lost: Vec<_> = http.lost.iter().map(|l| (&*l.name, &*l.unmet)).collect();
    assert_eq!(lost, [("beta", "headers[0]"), ("exact", "path")]);
    assert_eq!(http.lost[0].wants["string_match"]["exact"], "yes");
    assert_eq!(http.lost[1].wants, "/cart/list");
    let route = http.route.unwrap();
    assert_eq!((route.index, &*route.name), (2, "cart"));
    assert_eq!(route.upstream_request.unwrap().path, "/api/x?y=1");
    assert_eq!(route.timeouts.unwrap().timeout, Some(3.0));
    assert_eq!(route.retry_policy.unwrap()["num_retries"], 2);
    let clusters: Vec<_> = route
        .clusters
        .iter()
        .map(|c| (&*c.name, c.percent))
        .collect();
    assert_eq!(clusters, [("cart_v1", 70.0), ("cart_v2", 30.0)]);
    assert_eq!(
        route.clusters[0].lb_policy.as_deref(),
        Some("LEAST_REQUEST")
    );
    assert_eq!(route.clusters[0].endpoints, Some(1));
}

#[test]
fn filters_are_shown_as_the_route_leaves_them() {
    let http = http("GET http://shop.example/cart", &[]);
    let filters: Vec<_> = http.filters.iter().map(|f| (&*f.name, f.runs)).collect();
    assert_eq!(
        filters,
        [("cors", true), ("fault", false), ("router", true)]
    );
    assert!(http.filters[1].because.as_ref().unwrap().contains("route"));
    assert_eq!(http.filters[1].per_route[0].0, "route");
}

#[test]
fn headers_of_the_request_count() {
    let beta = http("GET http://shop.example/cart", &["x-beta: yes"]);
    assert_eq!(beta.route.unwrap().clusters[0].name, "beta");
    let slow = http(
        "GET http://shop.example/cart",
        &["x-envoy-upstream-rq-timeout-ms: 700"],
    );
    // From outside nobody sets a timeout: the connection manager takes the header away.
    assert_eq!(slow.route.unwrap().timeouts.unwrap().timeout, Some(3.0));
}

#[test]
fn a_redirect_is_shown_with_its_location() {
    let route = http("GET http://shop.example/old/x", &[]).route.unwrap();
    let answer = route.answers.unwrap();
    assert_eq!(answer.status, 301);
    assert_eq!(answer.location.as_deref(), Some("http://shop.example/new"));
}

#[test]
fn a_domain_that_only_the_port_keeps_away_is_named() {
    let http = http("GET http://shop.example:8080/cart", &[]);
    assert!(http.virtual_host.is_none());
    let hint = http.hint.unwrap();
    assert!(
        hint.contains("\"shop\"") && hint.contains("strip_any_host_port"),
        "{hint}"
    );
}

#[test]
fn the_source_decides_between_filter_chains() {
    let mut question = Question::parse("GET http://shop.example/").unwrap();
    question.set_source("10.1.1.1").unwrap();
    let explanation = explain(&shop(), &question).unwrap();
    assert_eq!(explanation.filter_chain.as_ref().unwrap().name, "partners");
    let text = explanation.to_string();
    assert!(
        text.contains("cart_v1 (25 %)") && text.contains("cart_v2 (75 %)"),
        "{text}"
    );
}

#[test]
fn a_question_that_no_listener_can_answer_says_which_there_are() {
    let mut question = Question::parse("GET http://shop.example/").unwrap();
    question.listener = Some("egress".to_owned());
    let errors = explain(&shop(), &question).unwrap_err();
    assert!(
        errors[0].contains("\"ingress\" (0.0.0.0:8080)"),
        "{errors:?}"
    );
}

#[test]
fn nothing_is_written_and_nothing_opened() {
    // The access log of the configuration lies in a folder that does not exist: to open it would be an error.
    let http = http("GET http://shop.example/cart", &[]);
    assert!(http.route.is_some());
}

#[test]
fn both_forms_tell_the_same() {
    let explanation = explained("GET http://shop.example/cart/list", &[]);
    let json: serde_json::Value = serde_json::from_str(&explanation.to_json()).unwrap();
    assert_eq!(json["outcome"]["http"]["route"]["name"], "exact");
    let text = explanation.to_string();
    for part in [
        "route         #1 \"exact\"",
        "cart_v1 (always)",
        "timeouts      route 15 s",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}
