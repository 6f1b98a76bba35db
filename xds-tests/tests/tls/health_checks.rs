//! Health checks over TLS: HTTP, gRPC, TCP and Redis behind an Envoy that ends TLS and tells what was asked for.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Backend, Kind, Response, Script};
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use outrigger_xds_tests::{binaries, observation};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::feature::{ca, pair};
use crate::peers::file_log;
use crate::pki::Pki;

const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const DOWNSTREAM: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RAW: &str = "{ name: raw, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer } }";
const INSPECTOR: &str = "{ name: i, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector } }";
const REDIS: &str = "custom_health_check: { name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis } }";
const HTTP: &str = "http_health_check: { path: /hc }";
const PING: &str = "tcp_health_check: { send: { text: 70696e67 }, receive: [{ text: 706f6e67 }] }";

/// The hosts: what they speak behind TLS.
const HOSTS: [&str; 4] = ["web", "grpc", "pong", "redis"];

/// A cluster with a health check, whose name is the server name that it asks for.
struct Checked {
    name: &'static str,
    host: &'static str,
    /// Of the upstream context, and of its common context.
    context: (&'static str, String),
    /// Whether hosts without metadata are reached in plain, so that only a check that says so is encrypted.
    is_plain: bool,
    check: String,
    shows: &'static [&'static str],
}

const ALPN: &str = "tls_options: { alpn_protocols: [hc] }";
const ENCRYPTED: &str = "transport_socket_match_criteria: { wants: tls }";
const HEALTHY: &str = "flags healthy";
const LOST: &str = "flags /failed_active_hc";

#[allow(clippy::too_many_lines, reason = "a table of cases may be long")]
fn checked(pki: &Pki) -> Vec<Checked> {
    let good = |name, host, check: &str, shows| Checked {
        name,
        host,
        context: ("", format!("validation_context: {{ {} }}", ca(pki, ""))),
        is_plain: false,
        check: check.to_owned(),
        shows,
    };
    let wrong = |checked: Checked| Checked {
        context: (
            "",
            format!(
                "validation_context: {{ trusted_ca: {{ filename: {} }} }}",
                pki.crt("other_ca")
            ),
        ),
        ..checked
    };
    let offers = |checked: Checked, alpn: &str| {
        let (around, common) = &checked.context;
        Checked {
            context: (*around, format!("{common}, alpn_protocols: [{alpn}]")),
            ..checked
        }
    };
    let plain = |checked: Checked| Checked {
        is_plain: true,
        ..checked
    };
    let with = |check: &str, more: &str| format!("{check}, {more}");
    vec![
        good(
            "web",
            "web",
            HTTP,
            &[HEALTHY, "tls web alpn=none v=TLSv1.2"],
        ),
        wrong(good("web-distrusted", "web", HTTP, &[LOST])),
        offers(
            good(
                "web-offers",
                "web",
                HTTP,
                &["tls web-offers alpn=http/1.1 v=TLSv1.2"],
            ),
            "http/1.1",
        ),
        offers(
            good(
                "web-offers-other",
                "web",
                &with(HTTP, ALPN),
                &["tls web-offers-other alpn=hc v=TLSv1.2"],
            ),
            "http/1.1",
        ),
        plain(good("web-plain", "web", HTTP, &[LOST])),
        plain(good(
            "web-matched",
            "web",
            &with(HTTP, ENCRYPTED),
            &[HEALTHY, "tls web-matched alpn=none v=TLSv1.2"],
        )),
        offers(
            good(
                "http2",
                "grpc",
                "http_health_check: { path: /hc, codec_client_type: HTTP2 }",
                &[HEALTHY, "tls http2 alpn=h2 v=TLSv1.2"],
            ),
            "h2",
        ),
        good(
            "grpc",
            "grpc",
            "grpc_health_check: {}",
            &[HEALTHY, "tls grpc alpn=none v=TLSv1.2"],
        ),
        wrong(good(
            "grpc-distrusted",
            "grpc",
            "grpc_health_check: {}",
            &[LOST],
        )),
        good(
            "grpc-offers",
            "grpc",
            "grpc_health_check: {}, tls_options: { alpn_protocols: [h2] }",
            &[HEALTHY, "tls grpc-offers alpn=h2 v=TLSv1.2"],
        ),
        plain(good(
            "grpc-matched",
            "grpc",
            &with("grpc_health_check: {}", ENCRYPTED),
            &[HEALTHY],
        )),
        good(
            "pong",
            "pong",
            PING,
            &[HEALTHY, "tls pong alpn=none v=TLSv1.2"],
        ),
        good("pong-connects", "web", "tcp_health_check: {}", &[HEALTHY]),
        wrong(good(
            "pong-distrusted",
            "web",
            "tcp_health_check: {}",
            &[LOST],
        )),
        good(
            "pong-offers",
            "pong",
            &with(PING, ALPN),
            &["tls pong-offers alpn=hc v=TLSv1.2"],
        ),
        plain(good(
            "pong-matched",
            "pong",
            &with(PING, ENCRYPTED),
            &[HEALTHY],
        )),
        good(
            "redis",
            "redis",
            REDIS,
            &[HEALTHY, "tls redis alpn=none v=TLSv1.2"],
        ),
        good(
            "redis-offers",
            "redis",
            &with(REDIS, ALPN),
            &["tls redis-offers alpn=none v=TLSv1.2"],
        ),
        plain(good(
            "redis-matched",
            "redis",
            &with(REDIS, ENCRYPTED),
            &["failure 1"],
        )),
    ]
}

fn backend(host: &str) -> Kind {
    let answer = |response: Response| Script {
        early: false,
        acts: vec![Act::Respond(response)],
    };
    let response = |fields: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]| {
        let owned = |fields: &[(&str, &str)]| {
            let fields = fields.iter();
            fields
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect()
        };
        Response {
            status: 200,
            fields: owned(fields),
            body: body.to_vec(),
            trailers: owned(trailers),
            chunked: false,
        }
    };
    let says = |length, bytes: &[u8]| {
        let wait = Act::Wait(Duration::from_secs(3));
        Kind::Tcp(vec![vec![
            Act::Read(length),
            Act::Send(bytes.to_vec()),
            wait,
        ]])
    };
    match host {
        "web" => Kind::Http1(vec![answer(response(&[], b"well", &[]))]),
        "grpc" => Kind::Http2(vec![answer(response(
            &[("content-type", "application/grpc")],
            &[0, 0, 0, 0, 2, 8, 1],
            &[("grpc-status", "0")],
        ))]),
        "pong" => says(4, b"pong"),
        _ => says(14, b"+PONG\r\n"),
    }
}

/// An Envoy that ends TLS before these ports, and tells by the name of a filter chain which protocol was offered.
async fn terminator(pki: &Pki, ports: [u16; 4], folder: &Path) -> Proxy {
    let log = file_log(
        &folder.join("tls.log"),
        "%ACCESS_LOG_TYPE% %REQUESTED_SERVER_NAME% alpn=%FILTER_CHAIN_NAME% v=%DOWNSTREAM_TLS_VERSION%",
    );
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, port) in HOSTS.iter().zip(ports) {
        let chain = |alpn: &str, matched: &str, offered: &str| {
            format!(
                "    - name: {alpn}\n      {matched}\n      filters: [{{ name: t, typed_config: {{ \"@type\": {TCP_PROXY}, stat_prefix: t, cluster: {name}, access_log_options: {{ flush_access_log_on_connected: true }}, access_log: {log} }} }}]\n      transport_socket: {{ name: tls, typed_config: {{ \"@type\": {DOWNSTREAM}, common_tls_context: {{ tls_certificates: [{}]{offered} }} }} }}\n",
                pair(pki, "server", "server", "")
            )
        };
        let _ = write!(
            listeners,
            "  - name: {name}\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}\n    listener_filters: [{INSPECTOR}]\n    filter_chains:\n"
        );
        for alpn in ["hc", "h2", "http/1.1"] {
            listeners.push_str(&chain(
                alpn,
                &format!("filter_chain_match: {{ application_protocols: [{alpn}] }}"),
                &format!(", alpn_protocols: [{alpn}]"),
            ));
        }
        listeners.push_str(&chain("none", "filter_chain_match: {}", ""));
        let _ = write!(
            clusters,
            "  - name: {name}\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}\n"
        );
    }
    let bootstrap = format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}"
    );
    fs::create_dir_all(folder).unwrap();
    Proxy::start(&binaries::envoy().unwrap(), &bootstrap, folder)
        .await
        .unwrap()
}

fn bootstrap(pki: &Pki, terminator: &Proxy) -> String {
    let mut clusters = String::new();
    for cluster in checked(pki) {
        let Checked {
            name,
            host,
            context: (around, common),
            is_plain,
            check,
            shows: _,
        } = cluster;
        let port = terminator.listener(host).unwrap().port();
        let tls = format!(
            "{{ name: tls, typed_config: {{ \"@type\": {UPSTREAM}, sni: {name}, {around} common_tls_context: {{ {common} }} }} }}"
        );
        let socket = match is_plain {
            true => format!(
                "transport_socket_matches: [{{ name: tls, match: {{ wants: tls }}, transport_socket: {tls} }}, {{ name: plain, match: {{}}, transport_socket: {RAW} }}]"
            ),
            false => format!("transport_socket: {tls}"),
        };
        let http2 = match host {
            "grpc" => {
                "    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }\n"
            }
            _ => "",
        };
        let _ = write!(
            clusters,
            "  - name: {name}\n    connect_timeout: 10s\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}\n    {socket}\n{http2}    health_checks: [{{ timeout: 10s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, {check} }}]\n"
        );
    }
    format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\nstatic_resources:\n  clusters:\n{clusters}"
    )
}

/// What is seen of each cluster, and of the hosts.
async fn observe(binary: &Path, pki: &Pki, folder: &Path) -> Vec<String> {
    let mut backends = Vec::new();
    for host in HOSTS {
        backends.push(Backend::start(backend(host)).await.unwrap());
    }
    let mut ports = [0; 4];
    for (port, backend) in ports.iter_mut().zip(&backends) {
        *port = backend.address().port();
    }
    let terminator = terminator(pki, ports, &folder.join("terminator")).await;
    let proxy = Proxy::start(binary, &bootstrap(pki, &terminator), folder)
        .await
        .unwrap();
    let (_, stats) = admin_get(proxy.admin_address(), "/stats").await.unwrap();
    let (_, page) = admin_get(proxy.admin_address(), "/clusters").await.unwrap();
    let mut lines = Vec::new();
    for Checked { name, .. } in checked(pki) {
        let start = format!("{name}::127.0.0.1:");
        let flags = page
            .lines()
            .filter(|line| line.starts_with(&start))
            .find_map(|line| line.split_once("::health_flags::"));
        let flags = flags.map_or("none", |(_, flags)| flags);
        lines.push(format!("{name}: flags {flags}"));
        for stat in ["success", "failure", "network_failure"] {
            let start = format!("cluster.{name}.health_check.{stat}: ");
            let value = stats.lines().find_map(|line| line.strip_prefix(&start));
            lines.push(format!(
                "{name}: {stat} {}",
                value.unwrap_or("is not there")
            ));
        }
        for stat in ["ssl.handshake", "ssl.fail_verify_error"] {
            let start = format!("cluster.{name}.{stat}: ");
            let value = stats.lines().find_map(|line| line.strip_prefix(&start));
            lines.push(format!(
                "{name}: {stat} {}",
                value.unwrap_or("is not there")
            ));
        }
    }
    lines.extend(encrypted(&folder.join("terminator/tls.log"), lines_wanted(pki)).await);
    for (name, backend) in HOSTS.iter().zip(&backends) {
        let mut seen = Vec::new();
        observation::backend_lines(Some(name), &backend.seen(), false, &mut seen);
        let mut seen: Vec<String> = seen.iter().map(|line| without_connection(line)).collect();
        seen.sort();
        lines.extend(seen);
    }
    lines
}

fn without_connection(line: &str) -> String {
    match (line.split_once("connection "), line.split_once(": ")) {
        (Some((before, _)), Some((_, behind))) => format!("{before}{behind}"),
        _ => line.to_owned(),
    }
}

/// How many connections the hosts get.
fn lines_wanted(pki: &Pki) -> usize {
    let lost = |checked: &Checked| checked.shows.contains(&LOST) || checked.shows == ["failure 1"];
    checked(pki).iter().filter(|one| !lost(one)).count()
}

/// The connections that were encrypted.
async fn encrypted(log: &Path, wanted: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines();
        let lines = lines.filter_map(|line| line.strip_prefix("TcpUpstreamConnected "));
        // Whether the host has been reached by the time that its certificate is refused is chance.
        let lines = lines.filter(|line| !line.contains("-distrusted "));
        let mut lines: Vec<String> = lines.map(|line| format!("tls {line}")).collect();
        if lines.len() >= wanted || Instant::now() > deadline {
            lines.sort();
            return lines;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn hosts_are_checked_over_tls_as_envoy_checks_them() {
    let work = async {
        let scratch = binaries::scratch("tls_health_checks").unwrap();
        let pki = Pki::make(&scratch.join("pki"));
        let [envoy, ours] = [
            (binaries::envoy().unwrap(), scratch.join("envoy")),
            (binaries::outrigger().unwrap(), scratch.join("outrigger")),
        ];
        let envoy = observe(&envoy.0, &pki, &envoy.1).await;
        let ours = observe(&ours.0, &pki, &ours.1).await;
        let mut failed = Vec::new();
        for Checked { name, shows, .. } in checked(&pki) {
            for wanted in shows {
                let line = match wanted.starts_with("tls ") {
                    true => (*wanted).to_owned(),
                    false => format!("{name}: {wanted}"),
                };
                if !envoy.contains(&line) {
                    failed.push(format!("Envoy lacks {line}"));
                }
            }
        }
        failed.extend(observation::difference(&envoy, &ours));
        assert!(
            failed.is_empty(),
            "{}\nEnvoy shows:\n{}",
            failed.join("\n"),
            envoy.join("\n")
        );
    };
    LocalSet::new().run_until(work).await;
}
