//! The service that streams go to: how often it is asked, and what is done when it is not there.

use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Plane};
use tokio::time::{Instant, sleep};

use crate::resources::{cluster, eds_cluster, listener, rds_listener, routes};
use crate::stage::{AGGREGATED, Transport, grpc_cluster, tell};

#[test]
fn requests_are_limited_where_that_is_configured() {
    tell("rate-limit", &AGGREGATED, async |stage| {
        stage.ads_more = "rate_limit_settings: { max_tokens: 3, fill_rate: 2 },".into();
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        stage.plane.forget_asks();
        let begun = Instant::now();
        for _ in 0..30 {
            stage.plane.push_again(Kind::Rds);
        }
        sleep(Duration::from_millis(1500)).await;
        let asks = stage.plane.all_asks().len();
        // Three at once at most, and two a second.
        let most = 5 + 2 * usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!((1..=most).contains(&asks), "{asks} requests");
        assert!(stage.stat("control_plane.rate_limit_enforced").await > Some(0));
    });
}

const FAILOVER: &str = "layered_runtime: { layers: [{ name: failover, static_layer: { envoy.restart_features.xds_failover_support: true } }] }";
const TWO_SERVICES: &str =
    "[{ envoy_grpc: { cluster_name: plane } }, { envoy_grpc: { cluster_name: spare } }]";

#[test]
fn the_second_service_is_asked_when_the_first_is_not_there() {
    tell("failover", &AGGREGATED, async |stage| {
        let spare = Plane::start().await.unwrap();
        stage.more = FAILOVER.into();
        stage.ads_services = TWO_SERVICES.into();
        stage.clusters = grpc_cluster("spare", spare.address());
        stage.plane.kill();
        let address = stage.backend("first").await;
        spare.set(Kind::Cds, [cluster("a", address)]);
        spare.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        spare.kill();
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Cds, [cluster("a", second)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        assert_eq!(stage.get("l").await.body, "first");
        stage.plane.revive().await.unwrap();
        stage.answers("l", 200, "second").await;
    });
}

#[test]
fn two_services_are_refused_without_failover() {
    tell("no-failover", &[Transport::Ads], async |stage| {
        stage.ads_services = TWO_SERVICES.into();
        stage.clusters = grpc_cluster("spare", stage.plane.address());
        let error = stage.refuses_to_start().await;
        assert!(error.contains("ended with exit status: 1"), "{error}");
    });
}

#[test]
fn the_control_plane_is_reached_by_google_grpc_too() {
    tell("google-grpc", &AGGREGATED, async |stage| {
        stage.ads_services = format!(
            "[{{ google_grpc: {{ target_uri: '{}', stat_prefix: plane }} }}]",
            stage.plane.address()
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
    });
}

#[test]
fn metadata_and_timeouts_of_the_service_go_with_the_stream() {
    tell("metadata", &AGGREGATED, async |stage| {
        stage.ads_services = "[{ envoy_grpc: { cluster_name: plane, authority: control.example }, initial_metadata: [{ key: x-token, value: secret }] }]".into();
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let heads = stage.plane.heads();
        let value = |name: &str| {
            heads[0]
                .get(name)
                .and_then(|value| value.to_str().ok().map(String::from))
        };
        assert_eq!(value("x-token").as_deref(), Some("secret"));
        assert_eq!(value("authority").as_deref(), Some("control.example"));
        for name in ["path", "content-type", "te", "grpc-timeout", "user-agent"] {
            stage.note(format!("{name}: {:?}", value(name).is_some()));
        }
    });
}

#[test]
fn a_cluster_of_endpoints_may_serve_under_another_name() {
    tell("service-name", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        let text = format!(
            "name: a\ntype: EDS\neds_cluster_config: {{ service_name: other, eds_config: {source} }}"
        );
        let renamed = outrigger_xds_tests::plane::Resource::yaml(Kind::Cds, &text);
        stage
            .plane
            .set(Kind::Cds, [renamed, eds_cluster("b", &source)]);
        let both = ["other", "b"].map(|name| crate::resources::endpoints(name, &[address]));
        stage.plane.set(Kind::Eds, both);
        stage
            .plane
            .set(Kind::Lds, [listener("l", "a"), listener("m", "b")]);
        stage.run().await;
        stage.plane.subscribed(Kind::Eds, &["b", "other"]).await;
        stage.answers("l", 200, "first").await;
        stage.answers("m", 200, "first").await;
    });
}
