//! The pages over a server that does not exist.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::core::v3::{
    self as core, Address, Node, SocketAddress, address, socket_address::PortSpecifier,
};
use pb::server_info::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;
use crate::access_loggers::AccessLog;
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address as PeerAddress;
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext, Worker};
use crate::upstream::WorkerClusters;

struct Fake {
    server: Arc<ServerContext>,
    started: Instant,
    state: Cell<State>,
    admin_layer: Option<String>,
    calls: RefCell<Vec<String>>,
}

fn socket(ip: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

impl AdminSource for Fake {
    fn server(&self) -> &Arc<ServerContext> {
        &self.server
    }
    fn init_state(&self) -> State {
        self.state.get()
    }
    fn started_at(&self) -> Instant {
        self.started
    }
    fn command_line_options(&self) -> pb::CommandLineOptions {
        pb::CommandLineOptions {
            concurrency: 2,
            ..Default::default()
        }
    }
    fn node(&self) -> Node {
        Node {
            id: "n1".into(),
            ..Node::default()
        }
    }
    fn admin_layer(&self) -> Option<String> {
        self.admin_layer.clone()
    }
    fn clusters(&self) -> Vec<pb::ClusterStatus> {
        let stat = |name: &str, value| pb::SimpleMetric {
            name: name.into(),
            value,
            ..Default::default()
        };
        vec![pb::ClusterStatus {
            name: "self".into(),
            observability_name: "self".into(),
            host_statuses: vec![pb::HostStatus {
                address: Some(socket("127.0.0.1", 80)),
                stats: vec![stat("rq_total", 2), stat("cx_active", 1)],
                health_status: Some(pb::HostHealthStatus {
                    failed_active_health_check: true,
                    eds_health_status: core::HealthStatus::Degraded.into(),
                    ..Default::default()
                }),
                weight: 1,
                ..Default::default()
            }],
            circuit_breakers: Some(
                outrigger_proto::pb::envoy::config::cluster::v3::CircuitBreakers {
                    thresholds: vec![Default::default()],
                    ..Default::default()
                },
            ),
            ..Default::default()
        }]
    }
    fn listeners(&self) -> Vec<pb::ListenerStatus> {
        vec![pb::ListenerStatus {
            name: "l".into(),
            local_address: Some(socket("::1", 80)),
            additional_local_addresses: vec![socket("127.0.0.1", 81)],
        }]
    }
    fn config_dump(&self, with_endpoints: bool) -> ConfigDumps {
        let cluster = |name: &str| pb::clusters_config_dump::StaticCluster {
            cluster: Some(pack(&Cluster {
                name: name.into(),
                alt_stat_name: "alt".into(),
                ..Cluster::default()
            })),
            last_updated: None,
        };
        ConfigDumps {
            clusters: pb::ClustersConfigDump {
                static_clusters: vec![cluster("self"), cluster("other")],
                ..Default::default()
            },
            endpoints: with_endpoints.then(Default::default),
            ..Default::default()
        }
    }
    fn unready_targets(&self) -> Vec<pb::unready_targets_dumps::UnreadyTargetsDump> {
        vec![pb::unready_targets_dumps::UnreadyTargetsDump {
            name: "init manager l".into(),
            target_names: vec!["rds".into()],
        }]
    }
    fn drain_listeners(&self, request: DrainListeners) {
        self.calls.borrow_mut().push(format!("{request:?}"));
    }
    fn quit(&self) {
        self.calls.borrow_mut().push("quit".into());
    }
    fn reopen_logs(&self) {
        self.calls.borrow_mut().push("reopen".into());
    }
    fn log_levels(&self) -> Vec<(String, String)> {
        vec![("admin".into(), "info".into())]
    }
    fn set_log_levels(&self, change: LogLevels) -> Result<(), String> {
        if let LogLevels::Some(levels) = &change
            && levels.iter().any(|(name, _)| name != "admin")
        {
            return Err("unknown logger name".into());
        }
        self.calls.borrow_mut().push(format!("{change:?}"));
        Ok(())
    }
}

fn admin_with(config: &AdminConfig) -> (Admin, Rc<Fake>) {
    let fake = Rc::new(Fake {
        server: Arc::new(ServerContext::new(0, LocalInfo::default())),
        started: Instant::now(),
        state: Cell::new(State::Live),
        admin_layer: Some("admin".into()),
        calls: RefCell::default(),
    });
    (Admin::new(fake.clone(), config), fake)
}

fn ask(admin: &Admin, method: &str, target: &str) -> Response {
    let answer = admin.answer(&Request {
        method,
        target,
        query: Query::of_target(target),
    });
    match answer {
        Answer::Ready(response) => response,
        Answer::Work(work) => work(),
    }
}

fn get(admin: &Admin, target: &str) -> (u16, String) {
    let Response { status, body, .. } = ask(admin, "GET", target);
    (status, body)
}

fn post(admin: &Admin, target: &str) -> (u16, String) {
    let Response { status, body, .. } = ask(admin, "POST", target);
    (status, body)
}

#[tokio::test]
async fn what_changes_something_is_refused_without_post() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let refused = (405, "Method GET not allowed, POST required.".to_owned());
    for handler in paths::HANDLERS.iter().filter(|handler| handler.post) {
        assert_eq!(get(&admin, handler.path), refused, "{}", handler.path);
    }
    assert!(fake.calls.borrow().is_empty());
}

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
async fn ready_follows_the_state_and_the_health_checks() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    assert_eq!(get(&admin, "/ready"), (200, "LIVE\n".into()));
    assert_eq!(post(&admin, "/healthcheck/fail"), (200, "OK\n".into()));
    assert_eq!(get(&admin, "/ready"), (503, "DRAINING\n".into()));
    post(&admin, "/healthcheck/ok");
    fake.state.set(State::PreInitializing);
    assert_eq!(get(&admin, "/ready"), (503, "PRE_INITIALIZING\n".into()));
}

#[tokio::test]
async fn draining_passes_its_parameters_on() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    post(&admin, "/drain_listeners?inboundonly&graceful");
    post(&admin, "/drain_listeners?skip_exit=1");
    let drain = |inbound_only, graceful, skip_exit| {
        format!(
            "{:?}",
            DrainListeners {
                inbound_only,
                graceful,
                skip_exit
            }
        )
    };
    assert_eq!(
        *fake.calls.borrow(),
        [drain(true, true, false), drain(false, false, true)]
    );
}

#[tokio::test]
async fn levels_are_changed_for_all_some_or_one() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let list = (200, "active loggers:\n  admin: info\n".to_owned());
    for target in [
        "/logging",
        "/logging?level=debug",
        "/logging?paths=admin:trace",
        "/logging?admin=off&level=",
    ] {
        assert_eq!(post(&admin, target), list, "{target}");
    }
    let one = |level: &str| LogLevels::Some(vec![("admin".into(), level.into())]);
    assert_eq!(
        *fake.calls.borrow(),
        [LogLevels::All("debug".into()), one("trace"), one("off")].map(|c| format!("{c:?}"))
    );
    for (target, error) in [
        ("/logging?level=loud", "unknown logger level"),
        ("/logging?nope=debug", "unknown logger name"),
        (
            "/logging?paths=admin",
            "empty logger name or empty logger level",
        ),
        ("/logging?a=b&c=d", "invalid number of parameters"),
    ] {
        let (status, body) = post(&admin, target);
        assert_eq!(status, 400);
        assert!(
            body.starts_with(&format!("error: {error}\n\nusage: ")),
            "{body}"
        );
        assert!(body.ends_with(&list.1));
    }
}

#[tokio::test]
async fn runtime_values_can_be_overridden_and_freed() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let values = [("a.b".to_owned(), "1".to_owned())];
    fake.server.runtime.set_layer("s", values.into());
    fake.server.runtime.set_layer("admin", Default::default());
    assert_eq!(post(&admin, "/runtime_modify").0, 400);
    assert_eq!(post(&admin, "/runtime_modify?a.b=2&c=x").0, 200);
    let (_, shown) = get(&admin, "/runtime");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        shown,
        serde_json::json!({"layers": ["s", "admin"], "entries": {
            "a.b": {"final_value": "2", "layer_values": ["1", "2"]},
            "c": {"final_value": "x", "layer_values": ["", "x"]},
        }})
    );
    post(&admin, "/runtime_modify?a.b=");
    assert_eq!(fake.server.runtime.get("a.b"), Some("1".into()));
}

#[tokio::test]
async fn runtime_cannot_be_modified_without_an_admin_layer() {
    let (_, fake) = admin_with(&AdminConfig::default());
    let fake = Fake {
        admin_layer: None,
        server: fake.server.clone(),
        started: fake.started,
        state: Cell::new(State::Live),
        calls: RefCell::default(),
    };
    let admin = Admin::new(Rc::new(fake), &AdminConfig::default());
    assert_eq!(
        post(&admin, "/runtime_modify?a=1"),
        (503, "No admin layer specified\n".into())
    );
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

#[tokio::test]
async fn only_allowed_paths_are_answered() {
    let (admin, _) = admin_with(&AdminConfig {
        allow_paths: vec![StringMatcher::exact("/ready")],
        ..AdminConfig::default()
    });
    assert_eq!(get(&admin, "/ready").0, 200);
    assert_eq!(
        get(&admin, "/quitquitquit"),
        (403, "request to path /quitquitquit not allowed".into())
    );
}

/// Sends bytes on a connection of its own, and reads until the admin closes it.
async fn exchange(admin: Admin, bytes: &[u8]) -> String {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    let (_, read) = tokio::join!(
        Rc::new(admin).connection(
            server,
            PeerAddress::Pipe("".into()),
            PeerAddress::Pipe("".into())
        ),
        client.read_to_string(&mut answer)
    );
    read.unwrap();
    answer
}

#[tokio::test]
async fn an_answer_has_the_headers_of_envoy() {
    let (admin, _) = admin_with(&AdminConfig::default());
    let answer = exchange(
        admin,
        b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    for header in [
        "content-type: text/plain; charset=UTF-8",
        "cache-control: no-cache, max-age=0",
        "x-content-type-options: nosniff",
        "server: envoy",
    ] {
        assert!(answer.contains(&format!("\r\n{header}\r\n")), "{header}");
    }
    assert!(answer.ends_with("\r\n\r\nLIVE\n"));
}

#[tokio::test]
async fn the_process_ends_after_the_answer_was_sent() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let answer = exchange(admin, b"POST /quitquitquit HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nOK\n"));
    assert_eq!(*fake.calls.borrow(), ["quit"]);
}

#[tokio::test]
async fn a_form_sends_its_parameters_in_the_body_and_may_not_be_huge() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    fake.server.runtime.set_layer("admin", Default::default());
    let form = "host: a\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded";
    let request =
        format!("POST /runtime_modify HTTP/1.1\r\n{form}\r\ncontent-length: 5\r\n\r\nk=v%31");
    let answer = exchange(admin, request.replace("length: 5", "length: 6").as_bytes()).await;
    assert!(answer.ends_with("OK\n"), "{answer}");
    assert_eq!(fake.server.runtime.get("k"), Some("v1".into()));
    let (admin, _) = admin_with(&AdminConfig::default());
    let long = "x".repeat(100_000);
    let request =
        format!("POST /runtime_modify HTTP/1.1\r\n{form}\r\ncontent-length: 100000\r\n\r\n{long}");
    let answer = exchange(admin, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn admin_connections_count_against_the_global_limit_unless_told_not_to() {
    let request = b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for (ignore, answered) in [(false, false), (true, true)] {
        let (admin, fake) = admin_with(&AdminConfig {
            ignore_global_conn_limit: ignore,
            ..AdminConfig::default()
        });
        fake.server.overload.connections.set_limit(0);
        let answer = exchange(admin, request).await;
        assert_eq!(!answer.is_empty(), answered);
    }
}

#[tokio::test]
async fn each_request_has_an_entry_in_the_access_log() {
    let (admin, source) = admin_with(&AdminConfig::default());
    let server = &source.server;
    let file = std::env::temp_dir().join(format!("outrigger-admin-{}.log", std::process::id()));
    let report = ConfigReport::new();
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let name = file.to_str().unwrap();
    let log = AccessLog::to_file(name, &cx, &ConfigPath::root(&report, "admin")).unwrap();
    let main = Worker::on_main(server.clone(), WorkerClusters::default(), 1);
    let admin = admin.with_access_log(AccessLogs::on_worker(&[log], &main));
    let request =
        b"GET /ready?a=b HTTP/1.1\r\nhost: a\r\nuser-agent: me\r\nconnection: close\r\n\r\n";
    exchange(admin, request).await;
    server.access_logs.flush();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let (_, entry) = text.split_once("] ").unwrap();
    assert_eq!(
        entry,
        "\"GET /ready?a=b HTTP/1.1\" 200 - 0 5 0 - \"-\" \"me\" \"-\" \"a\" \"-\"\n"
    );
}
