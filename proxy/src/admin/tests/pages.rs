//! What shows something.

use super::super::*;
use super::serving::exchange;
use super::{admin_with, ask, get, post};

#[tokio::test]
async fn an_unknown_path_gets_the_list_of_commands() {
    let (admin, _) = admin_with(&AdminConfig::default());
    let (status, body) = get(&admin, "/nope");
    assert_eq!(status, 404);
    assert!(body.starts_with("invalid path. admin commands are:\n  /: "));
    assert!(body.contains("\n  /quitquitquit (POST): "));
    assert!(body.contains("\n      format: how to show them; One of (text, json)\n"));
    assert_eq!(get(&admin, "/help").1, paths::help());
}

#[tokio::test]
async fn the_index_page_links_what_reads_and_has_buttons_for_what_changes() {
    let (admin, _) = admin_with(&AdminConfig::default());
    let Response {
        content_type, body, ..
    } = ask(&admin, "GET", "/");
    assert_eq!(content_type, HTML);
    for part in [
        "<a href='ready'>ready</a>",
        "<form action='quitquitquit' method='post' id='quitquitquit'><button>quitquitquit</button></form>",
        "<form action='stats' method='get' id='stats'><button class='link'>stats</button></form>",
        "<input type='checkbox' name='usedonly' id='stats-usedonly' form='stats'>",
        "<option value='json'>json</option>",
    ] {
        assert!(body.contains(part), "{part}");
    }
}

#[tokio::test]
async fn clusters_and_listeners_read_as_in_envoy() {
    let (admin, _) = admin_with(&AdminConfig::default());
    assert_eq!(
        get(&admin, "/clusters").1,
        "self::observability_name::self\n\
         self::default_priority::max_connections::1024\n\
         self::default_priority::max_pending_requests::1024\n\
         self::default_priority::max_requests::1024\n\
         self::default_priority::max_retries::3\n\
         self::added_via_api::false\n\
         self::127.0.0.1:80::cx_active::1\n\
         self::127.0.0.1:80::rq_total::2\n\
         self::127.0.0.1:80::hostname::\n\
         self::127.0.0.1:80::health_flags::/failed_active_hc/degraded_eds_health\n\
         self::127.0.0.1:80::weight::1\n\
         self::127.0.0.1:80::region::\n\
         self::127.0.0.1:80::zone::\n\
         self::127.0.0.1:80::sub_zone::\n\
         self::127.0.0.1:80::canary::false\n\
         self::127.0.0.1:80::priority::0\n\
         self::127.0.0.1:80::success_rate::-1\n\
         self::127.0.0.1:80::local_origin_success_rate::-1\n"
    );
    assert_eq!(get(&admin, "/clusters?filter=nope").1, "");
    assert_eq!(get(&admin, "/clusters?filter=(").0, 400);
    assert!(
        get(&admin, "/clusters?format=json")
            .1
            .starts_with("{\n \"cluster_statuses\": [\n  {\n   \"name\": \"self\",")
    );
    assert_eq!(
        get(&admin, "/listeners").1,
        "l::[::1]:80\nl::127.0.0.1:81\n"
    );
    assert!(
        get(&admin, "/listeners?format=json")
            .1
            .contains("\"listener_statuses\"")
    );
}

#[tokio::test]
async fn messages_with_defaults_show_every_plain_field() {
    let (admin, _) = admin_with(&AdminConfig::default());
    assert_eq!(get(&admin, "/certs").1, "{\n \"certificates\": []\n}\n");
    let info: serde_json::Value = serde_json::from_str(&get(&admin, "/server_info").1).unwrap();
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["uptime_current_epoch"], "0s");
    assert_eq!(info["node"]["id"], "n1");
    let options = &info["command_line_options"];
    assert_eq!(options["concurrency"], 2);
    assert_eq!(options["base_id"], "0");
    assert_eq!(options["config_path"], "");
    assert_eq!(options["mode"], "Serve");
    assert_eq!(options["disabled_extensions"], serde_json::json!([]));
    let memory: serde_json::Value = serde_json::from_str(&get(&admin, "/memory").1).unwrap();
    assert!(memory["allocated"].is_string());
    assert!(get(&admin, "/init_dump").1.contains("init manager l"));
    assert_eq!(get(&admin, "/init_dump?mask=cluster").1.trim(), "{}");
}

#[tokio::test]
async fn a_config_dump_can_be_cut_down() {
    let (admin, _) = admin_with(&AdminConfig::default());
    let dump = |target: &str| -> serde_json::Value {
        let (status, body) = get(&admin, target);
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    let types = |dump: &serde_json::Value| -> Vec<String> {
        let configs = dump["configs"].as_array().unwrap().iter();
        let prefix = "type.googleapis.com/envoy.admin.v3.";
        configs
            .map(|c| {
                c["@type"]
                    .as_str()
                    .unwrap()
                    .strip_prefix(prefix)
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        types(&dump("/config_dump?include_eds")),
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "EndpointsConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    let clusters = dump("/config_dump?resource=static_clusters&name_regex=se.*");
    assert_eq!(clusters["configs"].as_array().unwrap().len(), 1);
    assert_eq!(clusters["configs"][0]["cluster"]["name"], "self");
    let names = dump("/config_dump?resource=static_clusters&mask=cluster.name");
    assert_eq!(
        names["configs"][1],
        serde_json::json!({
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "other"}
        })
    );
    assert_eq!(
        types(&dump("/config_dump?mask=static_clusters")),
        ["ClustersConfigDump"]
    );
    for (target, answer) in [
        (
            "/config_dump?resource=bad",
            (404, "bad not found in config dump"),
        ),
        (
            "/config_dump?resource=bootstrap",
            (
                400,
                "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
            ),
        ),
        (
            "/config_dump?mask=nope",
            (
                400,
                "FieldMask nope could not be successfully applied to any configs.",
            ),
        ),
        (
            "/config_dump?resource=static_clusters&mask=bad",
            (400, "FieldMask bad could not be successfully used."),
        ),
    ] {
        let (status, body) = get(&admin, target);
        assert_eq!((status, body.as_str()), answer, "{target}");
    }
    assert_eq!(get(&admin, "/config_dump?name_regex=(").0, 400);
}

#[tokio::test]
async fn stats_are_shown_as_asked() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let scope = fake.server.stats.scope("cluster.a.");
    scope.counter("hits").add(3);
    assert_eq!(get(&admin, "/stats?usedonly").1, "cluster.a.hits: 3\n");
    assert_eq!(
        get(&admin, "/stats/prometheus?filter=hits%24").1,
        "# TYPE envoy_cluster_hits counter\nenvoy_cluster_hits{envoy_cluster_name=\"a\"} 3\n"
    );
    assert_eq!(
        ask(&admin, "GET", "/stats?format=json&usedonly"),
        Response::new(JSON, r#"{"stats":[{"name":"cluster.a.hits","value":3}]}"#)
    );
    assert!(
        get(&admin, "/stats?format=html&usedonly")
            .1
            .contains("<pre>\ncluster.a.hits: 3\n</pre>")
    );
    for (target, error) in [
        (
            "/stats?format=bad",
            "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
        ),
        ("/stats?type=bad", "invalid &type= param"),
        (
            "/stats?histogram_buckets=bad",
            "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n",
        ),
        (
            "/stats/prometheus?histogram_buckets=disjoint",
            "unsupported prometheus histogram bucket mode",
        ),
    ] {
        assert_eq!(get(&admin, target), (400, error.to_owned()), "{target}");
    }
    assert!(
        get(&admin, "/stats?filter=(")
            .1
            .starts_with("Invalid re2 regex: ")
    );
    post(&admin, "/reset_counters");
    assert_eq!(scope.counter("hits").value(), 0);
}

#[tokio::test]
async fn many_stats_are_shown_without_keeping_the_main_thread() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let scope = fake.server.stats.scope("cluster.a.");
    (0..2_000).for_each(|i| scope.counter(&format!("c{i}")).inc());
    let target = "/stats?filter=c1999";
    let answer = admin.answer(&Request {
        method: "GET",
        target,
        query: Query::of_target(target),
    });
    assert!(matches!(answer, Answer::Work(_)));
    let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = exchange(admin, request.as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\ncluster.a.c1999: 1\n"), "{answer}");
}
