//! The server of the pages: paths that are allowed, headers, forms, the end, the log.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use super::{admin_with, get};
use crate::access_loggers::AccessLog;
use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address as PeerAddress;
use crate::server::{FactoryContext, InitManager, Worker};
use crate::upstream::WorkerClusters;

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
pub(super) async fn exchange(admin: Admin, bytes: &[u8]) -> String {
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
