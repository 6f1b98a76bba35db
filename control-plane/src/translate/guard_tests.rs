//! What the guards of a policy become: addresses, claims, pages of other hosts, bodies, answers; and policies that rules name.

use super::policy_tests::{ROUTES, broken, filters, names, routes, told};
use super::*;
use crate::model::load_texts;

const GUARDS: &str = include_str!("guard_tests.yaml");

const RBAC: &str = "outrigger.filters.http.rbac";

fn config<'a>(route: &'a Json, filter: &str) -> &'a Json {
    &route["typed_per_filter_config"][filter]
}

/// The route of a path, for what is left of it.
fn route(path: &str) -> Json {
    let all = routes(&broken(GUARDS), ROUTES);
    let found = all.iter().rev().find(|it| {
        let at = &it["match"]["path_separated_prefix"];
        at == path || path == "/" && at.is_null()
    });
    found.unwrap().clone()
}

#[test]
fn guards_keep_the_rules_of_the_api_and_every_reference_is_there() {
    assert!(told(GUARDS).is_empty(), "{:?}", told(GUARDS));
    let snapshot = broken(GUARDS);
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            assert!(!resource.body.value.is_empty(), "{name} cannot be encoded");
            let violations = outrigger_proto::validate::check(kind.message(), &resource.body.value);
            assert!(violations.is_empty(), "{name}: {violations:?}");
        }
    }
}

#[test]
fn guards_stand_in_the_order_in_which_they_decide() {
    let filters = filters(&broken(GUARDS), ROUTES);
    assert_eq!(
        names(&filters),
        [
            "outrigger.filters.http.compressor/gzip",
            "envoy.filters.http.custom_response",
            "envoy.filters.http.fault",
            "outrigger.filters.http.rbac.addresses",
            "envoy.filters.http.csrf",
            "envoy.filters.http.api_key_auth",
            "gateway/default/edge/8080/jwt",
            "outrigger.filters.http.rbac.claims",
            "envoy.filters.http.ratelimit",
            "envoy.filters.http.buffer",
            "envoy.filters.http.bandwidth_limit",
            "envoy.filters.http.router",
        ]
    );
    // Where no route configures them they do nothing.
    for filter in &filters {
        let name = filter["name"].as_str().unwrap();
        let by_itself = ["fault", "jwt", "ratelimit", "router"];
        let is_harmless = by_itself.iter().any(|it| name.ends_with(it));
        assert_eq!(filter["disabled"] == true, !is_harmless, "{name}");
    }
}

#[test]
fn addresses_are_ranges_of_which_some_are_taken_out() {
    let route = route("/");
    let rules = &config(&route, &format!("{RBAC}.addresses"))["rbac"]["rules"];
    let ids = &rules["policies"]["addresses"]["principals"][0]["and_ids"]["ids"];
    let range = |ids: &Json| ids["or_ids"]["ids"][0]["remote_ip"].clone();
    assert_eq!(range(&ids[0])["address_prefix"], "127.0.0.0");
    assert_eq!(range(&ids[0])["prefix_len"], 8);
    assert_eq!(range(&ids[1]["not_id"])["prefix_len"], 32);
    let manager = broken(GUARDS);
    let listener = &manager.of(ResourceType::Listener)[ROUTES];
    let listener = tests::json(listener, ResourceType::Listener);
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["xff_num_trusted_hops"], 2);
}

#[test]
fn claims_are_values_words_and_entries() {
    let route = route("/admin");
    let rules = &config(&route, &format!("{RBAC}.claims"))["rbac"]["rules"];
    let ids = &rules["policies"]["claims"]["principals"][0]["and_ids"]["ids"];
    let values = |index: usize| {
        let ids = ids[index]["or_ids"]["ids"].as_array().unwrap().iter();
        let matchers = ids.map(|id| &id["sourced_metadata"]["metadata_matcher"]);
        matchers
            .map(|it| (it["path"].as_array().unwrap().len(), it["value"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        values(0),
        [
            (
                3,
                json!({"string_match": {"safe_regex": {"regex": r"(.* )?a\.b( .*)?"}}})
            ),
            (
                3,
                json!({"list_match": {"one_of": {"string_match": {"exact": "a.b"}}}})
            ),
        ]
    );
    assert_eq!(values(1)[0].1, json!({"double_match": {"exact": 7}}));
    assert_eq!(values(1)[2].1, json!({"bool_match": true}));
    // Paths for which no claim is asked for have no such rule.
    let open = routes(&broken(GUARDS), ROUTES);
    let open = open
        .iter()
        .find(|it| it["match"]["headers"][0]["string_match"].is_object());
    let open = open.unwrap();
    assert!(config(open, &format!("{RBAC}.claims")).is_null(), "{open}");
}

#[test]
fn a_policy_that_a_rule_names_goes_before_all_that_have_it_as_target() {
    // Both are of one rule, which a third one has as target, and the gateway has a fourth.
    let route = route("/named");
    let bytes = &config(&route, "envoy.filters.http.buffer")["buffer"]["max_request_bytes"];
    assert_eq!(*bytes, 10);
    let rate = &config(&route, "envoy.filters.http.bandwidth_limit")["limit_kbps"];
    assert_eq!(*rate, "20");
    assert_eq!(route["route"]["timeout"], "30s");
    assert!(!config(&route, &format!("{RBAC}.addresses")).is_null());
    // One without a name has no other target.
    let unnamed = self::route("/unnamed");
    assert!(config(&unnamed, "envoy.filters.http.buffer").is_null());
    let rate = &config(&unnamed, "envoy.filters.http.bandwidth_limit")["limit_kbps"];
    assert_eq!(*rate, "20");
}

#[test]
fn a_rule_that_names_what_is_not_there_lets_nothing_pass() {
    for (group, kind, name, reason) in [
        (
            "outrigger.dev",
            "GatewayPolicy",
            "nothing",
            "PolicyNotFound: there is no GatewayPolicy default/nothing",
        ),
        (
            "outrigger.dev",
            "TrafficPolicy",
            "body",
            "InvalidKind: ExtensionRef outrigger.dev/TrafficPolicy is no outrigger.dev/GatewayPolicy",
        ),
        (
            "outrigger.dev",
            "GatewayPolicy",
            "edge",
            "UnsupportedValue: GatewayPolicy default/edge has `trustedHops`, which no rule can have",
        ),
    ] {
        let text = GUARDS.replacen(
            "{group: outrigger.dev, kind: GatewayPolicy, name: body}",
            &format!("{{group: {group}, kind: {kind}, name: {name}}}"),
            1,
        );
        let expected = format!("HTTPRoute shop: : ResolvedRefs {reason}");
        assert!(told(&text).contains(&expected), "{:?}", told(&text));
        let routes = routes(&broken(&text), ROUTES);
        let is_500 = |route: &Json| route["direct_response"]["status"] == 500;
        let refused = routes.iter().filter(|route| is_500(route));
        let paths: Vec<_> = refused
            .map(|route| route["match"]["path_separated_prefix"].clone())
            .collect();
        assert_eq!(paths, ["/named"]);
    }
}

#[test]
fn a_policy_says_where_it_is_in_force_and_where_its_limits_are_not() {
    let model = load_texts([("a.yaml", GUARDS)]).unwrap();
    let world = World::build(&model, "mesh.test", &[], None);
    let conditions = |name: &str| {
        let status = world.statuses.iter();
        let mut status =
            status.filter(|it| it.kind.name() == "GatewayPolicy" && it.key.name == name);
        let conditions = status.next().unwrap().conditions.iter();
        let programmed = conditions.filter(|it| it.name == "Programmed");
        programmed
            .map(|it| format!("{}: {} {}", it.about, it.status, it.message))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        conditions("edge"),
        [
            "Gateway edge: true for default/edge/http; `rateLimits` does not count what is redirected by HTTPRoute shop"
        ]
    );
    assert_eq!(
        conditions("slow"),
        [
            "HTTPRoute shop spec.rules[4]: true for default/edge/http",
            "HTTPRoute shop/named: true for default/edge/http",
        ]
    );
    let alone = GUARDS.replace("name: slow}}", "name: body}}");
    assert_eq!(
        told(&alone),
        [
            "GatewayPolicy slow: : Programmed NoGateway: it has no `targetRefs`, and no rule of a gateway's route names it"
        ]
    );
}

#[test]
fn only_clients_that_there_are_may_be_let_in() {
    let text = GUARDS.replace("allowClients: [ann]", "allowClients: [eve]");
    let expected = "GatewayPolicy keys: : ResolvedRefs InvalidSecret: no Secret has a key of eve";
    assert!(told(&text).iter().any(|it| it == expected), "{text}");
}

#[test]
fn a_service_as_parent_has_no_policies_of_gateways() {
    let text = GUARDS.replace(
        "parentRefs: [{name: edge}]",
        "parentRefs: [{kind: Service, group: '', name: shop}]",
    );
    let expected = "Accepted UnsupportedValue: the filter ExtensionRef is for routes of gateways";
    assert!(told(&text)[0].contains(expected), "{:?}", told(&text));
}
