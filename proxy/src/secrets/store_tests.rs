use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use prost::Name;
use rcgen::{CertificateParams, KeyPair};
use tokio::time::Instant;

use super::super::cell::SecretWatcher;
use super::*;
use crate::config::ConfigReport;
use crate::server::{InitManager, LocalInfo, ServerContext};
use crate::xds::{Resource, Update};

#[derive(Default)]
struct Counting {
    told: AtomicU32,
    refuses: AtomicBool,
}

impl SecretWatcher for Counting {
    fn secret_changed(&self) -> Result<(), String> {
        self.told.fetch_add(1, Relaxed);
        match self.refuses.load(Relaxed) {
            true => Err("no good".to_owned()),
            false => Ok(()),
        }
    }
}

fn cell(kind: SecretKind) -> Arc<SecretCell> {
    SecretCell::new(kind, "k", Arc::default(), None)
}

fn keys(name: &str) -> pb::Secret {
    pb::Secret {
        name: name.to_owned(),
        r#type: Some(pb::secret::Type::SessionTicketKeys(
            pb::TlsSessionTicketKeys::default(),
        )),
    }
}

/// A process, its secrets and who waits for them.
struct Process {
    server: Arc<ServerContext>,
    init: InitManager,
    folder: PathBuf,
}

impl Process {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("outrigger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            server: Arc::new(ServerContext::new(0, LocalInfo::default())),
            init: InitManager::new("test"),
            folder,
        }
    }

    fn find(&self, source: ConfigSourceSpecifier) -> Result<Arc<SecretCell>, String> {
        let report = ConfigReport::new();
        let scope = self.server.stats.scope("");
        let cx = FactoryContext {
            server: &self.server,
            scope: &scope,
            init: &self.init,
        };
        let config = pb::SdsSecretConfig {
            name: "own".to_owned(),
            sds_config: Some(ConfigSource {
                config_source_specifier: Some(source),
                ..Default::default()
            }),
        };
        let path = ConfigPath::root(&report, "tls");
        let found = self
            .server
            .secrets
            .find(SecretKind::TlsCertificate, config, &cx, &path);
        found.map_err(|_| report.take()[0].to_string())
    }

    fn file(&self, watched: bool) -> Result<Arc<SecretCell>, String> {
        let folder = self.folder.display().to_string();
        self.find(ConfigSourceSpecifier::PathConfigSource(
            core::PathConfigSource {
                path: format!("{folder}/sds.yaml"),
                watched_directory: watched.then_some(core::WatchedDirectory {
                    path: folder,
                    watch_modify: false,
                }),
                poll_interval: None,
            },
        ))
    }

    /// The file that names a certificate and its key, which are in the folder `data`.
    fn write_sds(&self, name: &str) {
        let folder = self.folder.display();
        let text = format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: {name}\n  tls_certificate: {{ certificate_chain: {{ filename: {folder}/data/crt }}, private_key: {{ filename: {folder}/data/key }}, watched_directory: {{ path: {folder} }} }}\n"
        );
        std::fs::write(self.folder.join("sds.new"), text).unwrap();
        std::fs::rename(self.folder.join("sds.new"), self.folder.join("sds.yaml")).unwrap();
    }

    /// A certificate with its key, or with another, in a folder that the link `data` is turned to.
    fn rotate(&self, version: &str, own_key: bool) {
        let folder = self.folder.join(version);
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = certificate(version);
        let key = match own_key {
            true => key,
            false => KeyPair::generate().unwrap().serialize_pem(),
        };
        std::fs::write(folder.join("crt"), certificate).unwrap();
        std::fs::write(folder.join("key"), key).unwrap();
        std::os::unix::fs::symlink(version, self.folder.join("link")).unwrap();
        std::fs::rename(self.folder.join("link"), self.folder.join("data")).unwrap();
    }

    fn counter(&self, name: &str) -> u64 {
        let groups = self.server.stats.groups();
        let group = groups.iter().find(|group| group.prefix() == "sds.own.");
        let group = group.expect("the secret counts");
        let index = (0..group.len()).find(|index| group.stat(*index).0 == name);
        group.counter(index.expect("a known counter")).value()
    }
}

fn certificate(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The server name of the certificate that a secret has.
fn name_in(cell: &SecretCell) -> Option<String> {
    let secret = cell.get()?;
    let Some(pb::secret::Type::TlsCertificate(proto)) = &secret.r#type else {
        return None;
    };
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "secret");
    let converted = super::super::TlsCertificate::from_proto(proto.clone(), &path).ok()?;
    let name = converted
        .leaf
        .names(crate::x509::SubjectAltName::as_dns)
        .next();
    name.map(str::to_owned)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_value_that_somebody_refuses_leaves_the_old_one_in_place() {
    let cell = cell(SecretKind::SessionTicketKeys);
    let watcher = Arc::new(Counting::default());
    let dynamic: Arc<dyn SecretWatcher> = watcher.clone();
    cell.watch(Arc::downgrade(&dynamic));
    assert!(!cell.is_ready());
    cell.update(keys("first"), &"1".into()).unwrap();
    cell.ready().await;
    watcher.refuses.store(true, Relaxed);
    assert_eq!(
        cell.update(keys("second"), &"1".into()),
        Err("no good".to_owned())
    );
    assert_eq!(cell.get().unwrap().name, "first");
    assert_eq!(watcher.told.load(Relaxed), 3);
}

#[test]
fn a_value_of_another_kind_is_refused() {
    let cell = cell(SecretKind::TlsCertificate);
    assert!(
        cell.update(keys("k"), &"1".into())
            .unwrap_err()
            .contains("another kind")
    );
    assert!(!cell.is_ready());
}

#[test]
fn static_secrets_are_found_by_kind_and_name() {
    let process = Process::new("static");
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "secret");
    let store = &process.server.secrets;
    store.add_static(keys("k"), &path).unwrap();
    let scope = process.server.stats.scope("");
    let cx = FactoryContext {
        server: &process.server,
        scope: &scope,
        init: &process.init,
    };
    let find = |kind, name: &str| {
        let config = pb::SdsSecretConfig {
            name: name.to_owned(),
            sds_config: None,
        };
        store.find(kind, config, &cx, &path)
    };
    assert!(find(SecretKind::SessionTicketKeys, "k").is_ok());
    assert!(find(SecretKind::TlsCertificate, "k").is_err());
    assert!(find(SecretKind::SessionTicketKeys, "x").is_err());
    assert!(store.add_static(keys("k"), &path).is_err());
    assert_eq!(report.take().len(), 3);
    assert!(process.init.is_ready());
}

#[test]
fn a_file_without_the_secret_is_waited_for() {
    let process = Process::new("waits");
    assert!(process.file(false).unwrap_err().contains("cannot read"));
    process.rotate("one", true);
    process.write_sds("other");
    let cell = process.file(false).unwrap();
    assert_eq!(process.init.unready(), ["SdsApi own"]);
    assert_eq!(process.counter("update_failure"), 1);
    process.write_sds("own");
    until("the secret comes", || cell.is_ready());
    until("nobody waits", || process.init.is_ready());
    assert_eq!(name_in(&cell).unwrap(), "one.example");
    assert_eq!(process.counter("update_success"), 1);
}

#[test]
fn files_are_followed_through_links_and_bad_ones_leave_the_old_ones_in_use() {
    let process = Process::new("rotates");
    process.rotate("one", true);
    process.write_sds("own");
    let cell = process.file(true).unwrap();
    let same = process.file(true).unwrap();
    assert!(Arc::ptr_eq(&cell, &same));
    assert_eq!(name_in(&cell).unwrap(), "one.example");
    process.rotate("two", true);
    until("the second one comes", || {
        name_in(&cell).unwrap() == "two.example"
    });
    process.rotate("bad", false);
    until("the bad one is counted", || {
        process.counter("key_rotation_failed") > 0
    });
    assert_eq!(name_in(&cell).unwrap(), "two.example");
    process.rotate("three", true);
    until("the third one comes", || {
        name_in(&cell).unwrap() == "three.example"
    });
    assert_eq!(process.counter("update_success"), 1);
}

#[test]
fn a_server_delivers_what_is_subscribed_to() {
    let process = Process::new("server");
    let ads = ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    let cell = process.find(ads.clone()).unwrap();
    assert_eq!(process.init.unready(), ["SdsApi own"]);
    let (certificate, key) = certificate("served");
    let resource = |certificate: &str, key: &str| {
        let inline = |text: &str| {
            Some(core::DataSource {
                watched_directory: None,
                specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
            })
        };
        let secret = pb::Secret {
            name: "own".to_owned(),
            r#type: Some(pb::secret::Type::TlsCertificate(pb::TlsCertificate {
                certificate_chain: inline(certificate),
                private_key: inline(key),
                ..Default::default()
            })),
        };
        Resource {
            name: "own".into(),
            aliases: Vec::new(),
            version: "1".into(),
            body: Some(outrigger_proto::pb::google::protobuf::Any {
                type_url: pb::Secret::type_url(),
                value: prost::Message::encode_to_vec(&secret),
            }),
        }
    };
    let tell = |resource: Resource| {
        cell.on_update(&Update {
            version: &"1".into(),
            sent: &[resource],
            removed: &[],
        })
    };
    let refused = tell(resource(&certificate, "nothing")).unwrap_err();
    assert!(refused[0].reason.contains("private_key"), "{refused:?}");
    assert!(!process.init.is_ready());
    tell(resource(&certificate, &key)).unwrap();
    assert!(process.init.is_ready());
    assert!(tell(resource("nothing", &key)).is_err());
    assert_eq!(name_in(&cell).unwrap(), "served.example");
    assert_eq!(process.counter("update_rejected"), 2);
}

#[test]
fn a_secret_that_does_not_come_is_waited_for_no_longer_than_allowed() {
    let process = Process::new("timeout");
    let ads = ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    let cell = process.find(ads.clone()).unwrap();
    cell.on_fetch_failed(FetchFailure::Timeout);
    assert!(process.init.is_ready());
    assert!(!cell.is_ready());
    assert_eq!(process.counter("init_fetch_timeout"), 1);
    // Who comes later does not wait either.
    drop(process.find(ads).unwrap());
    assert!(process.init.is_ready());
}
