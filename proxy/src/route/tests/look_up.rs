//! The index against a scan of all routes, and what a look-up costs.

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrigger_proto::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use outrigger_proto::pb::google::protobuf::BoolValue;
use pb::HeaderMatcher;
use pb::header_matcher::HeaderMatchSpecifier;
use pb::route_action::ClusterSpecifier;
use pb::route_match::{ConnectMatcher, PathSpecifier};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{convert, head, info, server};
use crate::route::{RouteTable, Selection};

fn route(specifier: PathSpecifier, case_sensitive: bool) -> pb::Route {
    pb::Route {
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(specifier),
            case_sensitive: Some(BoolValue {
                value: case_sensitive,
            }),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(pb::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn host(name: String, domain: String, routes: Vec<pb::Route>) -> pb::VirtualHost {
    pb::VirtualHost {
        name,
        domains: vec![domain],
        routes,
        ..Default::default()
    }
}

fn table_of(virtual_hosts: Vec<pb::VirtualHost>) -> RouteTable {
    let proto = pb::RouteConfiguration {
        virtual_hosts,
        ..Default::default()
    };
    convert(proto, &[], &server()).unwrap()
}

/// Paths of few letters, so that many are prefixes of others.
fn path() -> impl Strategy<Value = String> {
    "(/[abAB]{0,2}){1,3}"
}

fn specifier() -> impl Strategy<Value = PathSpecifier> {
    let regex = |regex: String| {
        PathSpecifier::SafeRegex(RegexMatcher {
            regex,
            ..Default::default()
        })
    };
    prop_oneof![
        4 => path().prop_map(PathSpecifier::Prefix),
        4 => path().prop_map(PathSpecifier::Path),
        3 => "(/[abAB]{1,2}){1,3}".prop_map(PathSpecifier::PathSeparatedPrefix),
        1 => path().prop_map(move |path| regex(format!("{path}.*"))),
        1 => path().prop_map(move |path| regex(format!("{path}?b|/a"))),
        1 => path().prop_map(move |path| regex(format!("{path}+[ab/]*"))),
        1 => Just(PathSpecifier::Prefix(String::new())),
        1 => Just(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
    ]
}

proptest! {
    #[test]
    fn the_index_finds_the_route_that_a_scan_finds(
        routes in prop::collection::vec((specifier(), prop::bool::weighted(0.7)), 5..60),
        paths in prop::collection::vec(path(), 20),
        connect in any::<bool>(),
    ) {
        let routes = routes.into_iter().map(|(s, sensitive)| route(s, sensitive)).collect();
        let table = table_of(vec![host("a".into(), "*".into(), routes)]);
        let host = &table.virtual_hosts[0];
        let info = info();
        for path in paths {
            let head = head(if connect { "CONNECT" } else { "GET" }, "a", &format!("{path}?q"));
            let plain = Some(path.as_bytes());
            prop_assert_eq!(host.find(&head, plain, &info, 0), host.scan(&head, plain, &info, 0), "{}", path);
            prop_assert_eq!(host.find(&head, None, &info, 0), host.scan(&head, None, &info, 0));
        }
    }

    #[test]
    fn an_explanation_names_the_route_that_is_taken_and_a_reason_for_each_before_it(
        routes in prop::collection::vec((specifier(), prop::bool::weighted(0.7), criterion()), 1..20),
        paths in prop::collection::vec(path(), 10),
        field in "[ab]",
        random in any::<u64>(),
    ) {
        let routes = routes.into_iter().map(|(s, sensitive, headers)| {
            let mut route = route(s, sensitive);
            route.r#match.as_mut().unwrap().headers = headers;
            route
        });
        let table = table_of(vec![host("a".into(), "*".into(), routes.collect())]);
        let info = info();
        for path in paths {
            let mut head = head("GET", "a", &path);
            head.fields.append("x", &field);
            let explained = table.explain(&head, &info, random);
            prop_assert_eq!(explained.selection, table.select(&head, &info, random));
            let before = match explained.selection {
                Selection::Route(index) => index.route,
                _ => u32::try_from(table.virtual_hosts[0].routes.len()).unwrap(),
            };
            let lost: Vec<u32> = explained.lost.iter().map(|(number, _)| *number).collect();
            prop_assert_eq!(lost, (0..before).collect::<Vec<_>>());
        }
    }
}

/// Up to two conditions on the field `x`.
fn criterion() -> impl Strategy<Value = Vec<HeaderMatcher>> {
    let one = ("[ab]", any::<bool>()).prop_map(|(text, invert_match)| HeaderMatcher {
        name: "x".into(),
        invert_match,
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(text)),
            ..Default::default()
        })),
        ..Default::default()
    });
    prop::collection::vec(one, 0..3)
}

/// Routes with the prefixes `/service/0` and so on, and a last one for all else.
fn many(count: usize) -> RouteTable {
    let mut routes: Vec<_> = (0..count)
        .map(|i| route(PathSpecifier::Prefix(format!("/service/{i:05}/")), true))
        .collect();
    routes.push(route(PathSpecifier::Prefix("/".into()), true));
    table_of(vec![host("a".into(), "*".into(), routes)])
}

#[test]
fn a_route_among_ten_thousand_is_found_by_looking_at_a_few() {
    let table = many(10_000);
    let host = &table.virtual_hosts[0];
    let index = host.index().unwrap();
    for (path, expected) in [
        ("/service/00000/x", vec![0, 10_000]),
        ("/service/09999/x", vec![9_999, 10_000]),
        ("/service/10000/x", vec![10_000]),
        ("/", vec![10_000]),
    ] {
        let candidates: Vec<_> = index.candidates(Some(path.as_bytes()), false).collect();
        assert_eq!(candidates, expected, "{path}");
    }
}

/// Prints what look-ups cost: `cargo test -p outrigger --lib measure_look_ups -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_look_ups() {
    let info = info();
    for count in [1, 10, 100, 1_000, 10_000] {
        let table = many(count);
        let heads: Vec<_> = (0..64)
            .map(|i| {
                head(
                    "GET",
                    "svc.example.com",
                    &format!("/service/{:05}/x?q=1", (i * 7919) % count),
                )
            })
            .collect();
        let rounds = 20_000;
        let start = Instant::now();
        let mut found = 0;
        for _ in 0..rounds {
            for head in &heads {
                found += usize::from(table.select(head, &info, 0) != Selection::None);
            }
        }
        assert_eq!(found, rounds * heads.len());
        println!(
            "{count:6} routes: {:?} per look-up",
            start.elapsed() / u32::try_from(found).unwrap()
        );
    }
}

#[test]
fn a_simple_route_is_small() {
    // Its prefix and its place in the index come on top: some 80 bytes.
    assert!(size_of::<crate::route::Route>() <= 176);
    assert!(size_of::<crate::route::VirtualHost>() <= 64);
}
