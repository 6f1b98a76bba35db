//! A mesh of real proxies from one directory of YAML: a gateway and sidecars of A and B, and a second version of B.
//!
//! Told in one go, since each step needs the mesh of the one before: identities on each hop, a call that is not allowed,
//! files that change what happens, a wrong file, a thief, a refusing proxy, a restart, and new roots under load.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a story stops at what it did not expect"
)]

mod world;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use world::{Mesh, Plane, eventually, get};

#[test]
fn a_mesh_of_envoys_follows_its_files() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn a_mesh_of_outriggers_follows_its_files() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

fn tell(proxy: &Path, name: &str) {
    let folder = binaries::scratch(&format!("control-plane-{name}")).unwrap();
    let mut mesh = Mesh::start(proxy, &folder);
    identities_are_seen_and_checked(&mesh);
    a_canary_gets_its_share(&mesh);
    conflicts_go_by_the_gateway_api(&mesh);
    operators_see_before_and_after(&mesh);
    policies_take_effect(&mesh);
    a_wrong_file_changes_nothing(&mesh);
    a_token_serves_once(&mesh);
    a_thief_is_not_let_in(&mesh, proxy);
    a_refusal_is_shown_and_does_no_harm(&mesh);
    a_restart_sends_nothing_again(&mut mesh);
    new_roots_break_no_request(&mesh);
}

fn identities_are_seen_and_checked(mesh: &Mesh) {
    let (status, body) = eventually(|| {
        Some(get(mesh.gateway, "/a")).filter(|(status, body)| *status == 200 && body.contains("b1"))
    });
    assert_eq!(status, 200);
    let callers: Vec<_> = body
        .match_indices("URI=spiffe://mesh.local/ns/default/sa/")
        .map(|(at, found)| {
            body[at + found.len()..]
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect::<String>()
        })
        .collect();
    assert_eq!(
        callers,
        ["edge", "a"],
        "the gateway calls a, and a calls b: {body}"
    );
    assert_eq!(
        get(mesh.gateway, "/b"),
        (403, "RBAC: access denied".to_owned()),
        "the gateway may not call b"
    );
    // Nobody gets past mTLS without a certificate.
    assert_eq!(get(mesh.inbound_b, "/").0, 0);
}

fn a_canary_gets_its_share(mesh: &Mesh) {
    let route = |first, second| {
        format!("
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: canary}}
spec:
  parentRefs: [{{group: '', kind: Service, name: b}}]
  rules:
  - backendRefs: [{{name: b, port: 80, weight: {first}}}, {{name: b-v2, port: 80, weight: {second}}}]
")
    };
    mesh.write("canary.yaml", &route(1, 1));
    let mut seen = BTreeSet::new();
    eventually(|| {
        let (status, body) = get(mesh.gateway, "/a");
        assert_eq!(status, 200);
        seen.extend(["b1", "b2"].into_iter().filter(|name| body.contains(name)));
        (seen.len() == 2).then_some(())
    });
    mesh.write("canary.yaml", &route(0, 1));
    eventually(|| {
        (0..20)
            .all(|_| get(mesh.gateway, "/a").1.contains("b2"))
            .then_some(())
    });
    mesh.remove("canary.yaml");
    eventually(|| {
        (0..20)
            .all(|_| get(mesh.gateway, "/a").1.contains("b1"))
            .then_some(())
    });
}

/// The more specific route goes before the older, and the older before the first by name.
fn conflicts_go_by_the_gateway_api(mesh: &Mesh) {
    let route = |name: &str, created: &str, path: &str, to: &str| {
        format!(
            "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, creationTimestamp: '{created}'}}
spec:
  parentRefs: [{{group: '', kind: Service, name: b}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: {to}, port: 80}}]
"
        )
    };
    let through_a = |path: &str| get(mesh.outbound_b, path).1;
    let (old, new) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    mesh.write(
        "conflict.yaml",
        &[
            route("aaa", new, "/age", "b"),
            route("zzz", old, "/age", "b-v2"),
            route("a-name", old, "/name", "b-v2"),
            route("z-name", old, "/name", "b"),
            route("long", new, "/path/long", "b-v2"),
            route("short", old, "/path", "b"),
        ]
        .concat(),
    );
    // Some rounds of it: while the split that was there before goes, one may come out right by chance.
    let expected = [
        ("/age", "b2"),
        ("/name", "b2"),
        ("/path/long/er", "b2"),
        ("/path", "b1"),
    ];
    let holds = || {
        expected
            .iter()
            .all(|(path, process)| through_a(path).starts_with(process))
    };
    eventually(|| (0..5).all(|_| holds()).then_some(()));
    mesh.remove("conflict.yaml");
    eventually(|| through_a("/age").starts_with("b1").then_some(()));
}

/// What an edit would change, for whom, before it is made; and what is there after.
fn operators_see_before_and_after(mesh: &Mesh) {
    let planned = mesh.folder.join("planned");
    std::fs::create_dir(&planned).unwrap();
    for entry in std::fs::read_dir(mesh.folder.join("mesh")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), planned.join(entry.file_name())).unwrap();
    }
    let folder = planned.to_str().unwrap();
    let diff = || mesh.plane.command(&["diff", folder]);
    assert_eq!(diff(), (true, "Nothing would change.\n".to_owned()));
    assert!(world::validate(&planned).0);
    let policy = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: b}
spec: {service: {name: b}, timeout: 7s}
";
    std::fs::write(planned.join("planned.yaml"), policy).unwrap();
    let (_, text) = diff();
    let heads: Vec<_> = text.lines().filter(|line| line.starts_with('~')).collect();
    let port = mesh.gateway.port();
    assert_eq!(
        heads,
        [
            "~ sidecar/default/a routes default/b/80".to_owned(),
            format!("~ gateway/default/edge routes gateway/default/edge/{port}"),
        ],
        "those that call b: {text}"
    );
    assert!(text.contains("timeout: \"15s\" -> \"7s\""), "{text}");
    let resources = || mesh.plane.command(&["get", "sidecar/default/a"]).1;
    assert!(!resources().contains("\"7s\""), "a plan changes nothing");
    mesh.write("planned.yaml", policy);
    eventually(|| resources().contains("\"7s\"").then_some(()));
    assert_eq!(diff(), (true, "Nothing would change.\n".to_owned()));
    assert!(!resources().contains("PRIVATE KEY"), "no key is shown");
    mesh.remove("planned.yaml");
    std::fs::write(planned.join("wrong.yaml"), "kind: Nothing\n").unwrap();
    for (is_good, text) in [diff(), world::validate(&planned)] {
        assert!(!is_good && text.contains("wrong.yaml"), "{text}");
    }
    eventually(|| (!resources().contains("\"7s\"")).then_some(()));
}

fn policies_take_effect(mesh: &Mesh) {
    let policy = |spec: &str| {
        format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: b}}
spec: {{service: {{name: b}}, {spec}}}
"
        )
    };
    let through_a = |path: &str| get(mesh.outbound_b, path).0;
    let mut odd = 0;
    while odd < 2 {
        odd = if through_a("/flaky") == 503 {
            odd + 1
        } else {
            odd
        };
    }
    mesh.write(
        "policy.yaml",
        &policy("retries: {attempts: 2, on: [5xx], backoff: {base: 1ms}}"),
    );
    eventually(|| (0..10).all(|_| through_a("/flaky") == 200).then_some(()));
    mesh.write(
        "policy.yaml",
        &policy("fault: {abort: {status: 418, percent: 100}}"),
    );
    eventually(|| (through_a("/") == 418).then_some(()));
    mesh.write("policy.yaml", &policy("timeout: 100ms"));
    eventually(|| (through_a("/slow") == 504).then_some(()));
    mesh.write("policy.yaml", &policy("rateLimit: {requests: 3, per: 1h}"));
    eventually(|| (through_a("/") == 429).then_some(()));
    mesh.remove("policy.yaml");
    eventually(|| (0..10).all(|_| through_a("/") == 200).then_some(()));
}

fn a_wrong_file_changes_nothing(mesh: &Mesh) {
    let before = mesh.plane.metric("resources_total", "");
    mesh.write(
        "wrong.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  ports:\n  - prot: 80\n",
    );
    let status = eventually(|| {
        let status = mesh.plane.command(&["status"]).1;
        status.contains("is refused").then_some(status)
    });
    assert!(
        status.contains(
            "wrong.yaml:6: Service default/c: spec.ports[0].prot: there is no such field"
        ),
        "{status}"
    );
    assert_eq!(get(mesh.gateway, "/a").0, 200);
    assert_eq!(
        mesh.plane.metric("resources_total", ""),
        before,
        "nothing was sent"
    );
    mesh.remove("wrong.yaml");
    eventually(|| {
        mesh.plane
            .command(&["status"])
            .1
            .contains("is in force")
            .then_some(())
    });
}

fn a_token_serves_once(mesh: &Mesh) {
    let token = mesh.plane.token("sidecar/default/a", 600);
    assert!(mesh.enroll("sidecar/default/a", &token, "once"));
    assert!(
        !mesh.enroll("sidecar/default/a", &token, "twice"),
        "a token serves once"
    );
    let token = mesh.plane.token("sidecar/default/a", 1);
    thread::sleep(Duration::from_millis(2100));
    assert!(
        !mesh.enroll("sidecar/default/a", &token, "late"),
        "a token expires"
    );
}

/// B's certificate, and A's name.
fn a_thief_is_not_let_in(mesh: &Mesh, proxy: &Path) {
    let token = mesh.plane.token("sidecar/default/b", 600);
    assert!(mesh.enroll("sidecar/default/b", &token, "thief"));
    let file = mesh.folder.join("thief/bootstrap.yaml");
    let bootstrap = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        bootstrap.replace("sidecar/default/b", "sidecar/default/a"),
    )
    .unwrap();
    let before = mesh.plane.metric("identity_denied_total", "");
    let thief = world::proxy(proxy, &mesh.folder.join("thief"));
    eventually(|| (mesh.plane.metric("identity_denied_total", "") > before).then_some(()));
    drop(thief);
    let log = std::fs::read_to_string(mesh.folder.join("control-plane.log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("was not let in"))
        .unwrap();
    for identity in ["sa/a", "sa/b"] {
        assert!(line.contains(identity), "{line}");
    }
}

/// A port that is taken: the proxy refuses the listener, and serves on with the others.
fn a_refusal_is_shown_and_does_no_harm(mesh: &Mesh) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let call = format!("calls: [{{service: b, port: 80, listen: \"127.0.0.1:{port}\"}}]");
    let text = std::fs::read_to_string(mesh.folder.join("mesh/a.yaml")).unwrap();
    let (old, _) = text.split_once("  calls:").unwrap();
    mesh.write("a.yaml", &format!("{old}  {call}\n"));
    let status = eventually(|| {
        let status = mesh.plane.command(&["status"]).1;
        status.contains("refused:").then_some(status)
    });
    assert!(
        status.contains(&format!("{port}")) || status.contains("bind"),
        "{status}"
    );
    assert!(mesh.plane.metric("refusals_total", "listeners") > 0);
    drop(taken);
    mesh.write("a.yaml", &text);
    eventually(|| {
        (get(mesh.gateway, "/a").0 == 200
            && !mesh.plane.command(&["status"]).1.contains("refused:"))
        .then_some(())
    });
}

fn a_restart_sends_nothing_again(mesh: &mut Mesh) {
    mesh.plane.stop();
    assert_eq!(get(mesh.gateway, "/a").0, 200, "the proxies go on alone");
    mesh.plane = Plane::start(&mesh.folder, mesh.plane.address);
    eventually(|| (mesh.plane.metric("proxies", "") == 3).then_some(()));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        mesh.plane.metric("pushes_total", ""),
        0,
        "{}",
        mesh.plane.command(&["status"]).1
    );
    mesh.write(
        "canary.yaml",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: b}]
  rules: [{backendRefs: [{name: b-v2, port: 80}]}]
",
    );
    eventually(|| get(mesh.gateway, "/a").1.contains("b2").then_some(()));
    mesh.remove("canary.yaml");
}

fn new_roots_break_no_request(mesh: &Mesh) {
    let (ends, sent, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
    );
    let load = {
        let (ends, sent, failed, gateway) = (
            Arc::clone(&ends),
            Arc::clone(&sent),
            Arc::clone(&failed),
            mesh.gateway,
        );
        thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                sent.fetch_add(1, Ordering::Relaxed);
                if get(gateway, "/a").0 != 200 {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    for step in ["prepare", "switch", "finish"] {
        eventually(|| {
            let (is_done, text) = mesh.plane.command(&["rotate"]);
            is_done.then(|| assert!(text.contains(step), "{text}"))
        });
        thread::sleep(Duration::from_millis(1500));
    }
    eventually(|| (sent.load(Ordering::Relaxed) > 100).then_some(()));
    ends.store(true, Ordering::Relaxed);
    load.join().unwrap();
    let (sent, failed) = (sent.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    assert_eq!(failed, 0, "of {sent} requests");
}
