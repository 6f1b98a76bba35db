//! Counters of limits in a Redis that speaks TLS, and in a cluster of three.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outrigger_xds_tests::binaries;

use crate::ingress::certificate;
use crate::rate_limits::{bootstrap, limits};
use crate::scene::{Scene, get_host, process_at};
use crate::world::{Running, eventually, ports, proxy};

/// Starts a Redis in a folder of its own; None where there is none.
fn redis(folder: &Path, flags: &[String]) -> Option<Running> {
    fs::create_dir_all(folder).unwrap();
    let started = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(flags)
        .stdout(fs::File::create(folder.join("redis.log")).unwrap())
        .spawn();
    match started {
        Ok(child) => Some(Running(child)),
        Err(error) => {
            eprintln!(
                "NO redis-server ({error}): THIS STORY PROVES NOTHING. apt-get install redis-server"
            );
            None
        }
    }
}

fn flags(all: &[&str]) -> Vec<String> {
    all.iter().map(|&flag| flag.to_owned()).collect()
}

fn plane(folder: &Path, service: SocketAddr, text: &str, more: &[&str]) -> Scene {
    let service = service.to_string();
    let flags = ["--rate-limit-listen", &service];
    let flags = [&flags[..], &["--rate-limit-store", "redis"], more].concat();
    Scene::start(folder, text, &flags)
}

/// A proxy that refuses requests when it is not told how often one may call.
fn strict(folder: &Path, front: SocketAddr, yaml: &str) -> Running {
    let folder = folder.join(format!("proxy-{}", front.port()));
    fs::create_dir_all(&folder).unwrap();
    let yaml = yaml.replace(
        "timeout: 5s",
        "timeout: 5s\n              failure_mode_deny: true",
    );
    fs::write(folder.join("bootstrap.yaml"), yaml).unwrap();
    proxy(&binaries::outrigger().unwrap(), &folder)
}

fn status(at: SocketAddr, user: &str) -> u16 {
    get_host(at, user, "/").0
}

fn scratch(name: &str) -> PathBuf {
    let folder = binaries::scratch(name).unwrap();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_redis_behind_tls_is_known_by_its_certificate_and_asks_for_one() {
    let folder = scratch("edge-limits-tls");
    let file = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (roots, leaf, key) = certificate("127.0.0.1");
    let (other, foreign, foreign_key) = certificate("127.0.0.1");
    let [roots, other] = [file("roots.pem", &roots), file("other.pem", &other)];
    let own = [file("leaf.pem", &leaf), file("leaf.key", &key)];
    let foreign = [
        file("foreign.pem", &foreign),
        file("foreign.key", &foreign_key),
    ];
    let [store, process] = ports();
    let port = store.port().to_string();
    let listen = [
        "--port",
        "0",
        "--tls-port",
        &port,
        "--tls-auth-clients",
        "yes",
    ];
    let files = ["--tls-cert-file", &own[0], "--tls-key-file", &own[1]];
    let roots_of_clients = ["--tls-ca-cert-file", &roots];
    let all = [&listen[..], &files, &roots_of_clients].concat();
    let Some(_redis) = redis(&folder.join("redis"), &flags(&all)) else {
        return;
    };
    process_at(process, "process");

    let url = format!("rediss://{store}");
    let by_name = format!("rediss://localhost:{port}");
    let mut running = Vec::new();
    let mut call = |url: &str, roots: &str, shown: &[String]| {
        let [service, front] = ports();
        let folder = folder.join(service.port().to_string());
        let mut more = vec!["--rate-limit-redis", url, "--rate-limit-redis-roots", roots];
        if let [certificate, key] = shown {
            more.extend(["--rate-limit-redis-certificate", certificate]);
            more.extend(["--rate-limit-redis-key", key]);
        }
        let scene = plane(&folder, service, &limits(4), &more);
        let proxy = strict(&folder, front, &bootstrap(front, service, process));
        running.push((scene, proxy));
        front
    };
    let good = call(&url, &roots, &own);
    eventually(|| (status(good, "nobody") == 200).then_some(()));
    let told = [(); 5].map(|()| status(good, "ann"));
    assert_eq!(told, [200, 200, 200, 200, 429]);
    // Of another root, of another name, without a certificate, with one of another root: counters that are away.
    for (url, roots, shown) in [
        (&url, &other, &own[..]),
        (&by_name, &roots, &own[..]),
        (&url, &roots, &[]),
        (&url, &roots, &foreign[..]),
    ] {
        let front = call(url, roots, shown);
        eventually(|| (status(front, "bob") == 500).then_some(()));
        assert_eq!([(); 3].map(|()| status(front, "bob")), [500; 3]);
    }
    assert_eq!(status(good, "bob"), 200);
}

#[test]
fn a_cluster_of_redis_counts_all_limits_of_a_request_on_one_node() {
    let folder = scratch("edge-limits-cluster");
    let [first, second, third, one, two, three] = ports();
    let nodes = [(first, one), (second, two), (third, three)];
    let mut running = Vec::new();
    for (node, bus) in nodes {
        let (port, bus) = (node.port().to_string(), bus.port().to_string());
        let all = [
            "--port",
            &port,
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
        ];
        match redis(&folder.join(&port), &flags(&all)) {
            Some(node) => running.push(node),
            None => return,
        }
    }
    let names = nodes.map(|(node, _)| node.to_string());
    eventually(|| {
        let made = Command::new("redis-cli")
            .args(["--cluster", "create", &names[0], &names[1], &names[2]])
            .arg("--cluster-yes")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        made.unwrap().success().then_some(())
    });
    let [process, alone, both] = ports();
    process_at(process, "process");

    let text =
        limits(4) + "  - { name: all, match: [{ key: generic_key }], requests: 6, per: 1h }\n";
    let named = [
        names[1].clone(),
        format!("{},redis://{}", names[2], names[0]),
    ];
    let services = [ports::<1>()[0], ports::<1>()[0]];
    let _planes: Vec<_> = named
        .iter()
        .zip(services)
        .map(|(nodes, service)| {
            let more = ["--rate-limit-redis-cluster", "--rate-limit-redis"];
            let urls = format!("redis://{nodes}");
            let folder = folder.join(format!("plane-{}", service.port()));
            plane(&folder, service, &text, &[&more[..], &[&urls]].concat())
        })
        .collect();
    let two_limits = |yaml: String| {
        let more = "rate_limits: [{ actions: [{ generic_key: { descriptor_value: all } }] }, ";
        yaml.replace("rate_limits: [", more)
    };
    let yaml = two_limits(bootstrap(both, services[1], process));
    let _proxies = [
        strict(&folder, alone, &bootstrap(alone, services[0], process)),
        strict(&folder, both, &yaml),
    ];
    eventually(|| (status(alone, "nobody") == 200).then_some(()));
    eventually(|| (status(both, "somebody") == 200).then_some(()));
    // Four of ann's, whichever control plane is asked; a request that one limit refuses is counted by none.
    let told = [alone, both, alone, both, alone, both].map(|at| status(at, "ann"));
    assert_eq!(told, [200, 200, 200, 200, 429, 429]);
    // Three of six are counted: those of somebody and two of ann.
    let told = [(); 4].map(|()| status(both, "bob"));
    assert_eq!(told, [200, 200, 200, 429]);
    let keys: Vec<_> = nodes.iter().map(|(node, _)| keys(node.port())).collect();
    assert_eq!(
        keys.iter().filter(|keys| !keys.is_empty()).count(),
        1,
        "{keys:?}"
    );

    // Without its nodes the counters are away.
    drop(running);
    eventually(|| (status(alone, "eve") == 500).then_some(()));
}

/// The counters on a node.
fn keys(port: u16) -> Vec<String> {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "keys", "*"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}
