//! Secrets in files: a `DiscoveryResponse` in YAML or JSON, as `path_config_source` names it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use outrigger_proto::pb::envoy::config::core::v3::PathConfigSource;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tracing::{info, warn};

use super::store::SecretCell;
use crate::config::{ConfigPath, Rejected};

/// Reads the secret of `cell` from a file, and again whenever the file or what it names changes.
pub(super) fn follow(
    cell: &Arc<SecretCell>,
    source: PathConfigSource,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let PathConfigSource {
        path: file,
        // Every file is looked at again anyway.
        watched_directory: _,
        // As often as we look, nobody needs more.
        poll_interval: _,
    } = source;
    let path = path.field("path_config_source");
    let path = path.field("path");
    let file = PathBuf::from(file);
    let secret = read(&file, &cell.name).map_err(|error| path.reject(error))?;
    let mut watched = Watched::new(&file, &secret);
    cell.update(secret).map_err(|error| path.reject(error))?;
    let cell = Arc::downgrade(cell);
    // One thread for each file that holds secrets: there are few, and reading may block.
    std::thread::Builder::new()
        .name("secret_file".to_owned())
        .spawn(move || watch(&cell, &file, &mut watched))
        .map(drop)
        .map_err(|error| path.reject(format!("cannot be watched: {error}")))
}

fn watch(cell: &Weak<SecretCell>, file: &Path, watched: &mut Watched) {
    loop {
        std::thread::sleep(INTERVAL);
        let Some(cell) = cell.upgrade() else { return };
        if !watched.has_changed() {
            continue;
        }
        let result = read(file, &cell.name).and_then(|secret| {
            *watched = Watched::new(file, &secret);
            cell.update(secret)
        });
        match result {
            Ok(()) => info!(secret = %cell.name, "A secret was read again."),
            Err(error) => {
                warn!(secret = %cell.name, %error, "A secret cannot be used; the old one stays.");
            }
        }
    }
}

/// The files that a secret is made of, and when each was changed.
struct Watched(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Watched {
    fn new(file: &Path, secret: &pb::Secret) -> Self {
        let mut files = vec![file.to_owned()];
        files.extend(named_files(secret).into_iter().map(PathBuf::from));
        Self(
            files
                .into_iter()
                .map(|file| {
                    let state = state(&file);
                    (file, state)
                })
                .collect(),
        )
    }

    fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (file, seen) in &mut self.0 {
            let now = state(file);
            changed |= now != *seen;
            *seen = now;
        }
        changed
    }
}

fn state(file: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(file).ok()?;
    Some((data.modified().ok()?, data.len()))
}

/// The files that the data sources of a secret name.
fn named_files(secret: &pb::Secret) -> Vec<String> {
    use outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier;
    let sources = match &secret.r#type {
        Some(pb::secret::Type::TlsCertificate(certificate)) => vec![
            &certificate.certificate_chain,
            &certificate.private_key,
            &certificate.password,
            &certificate.ocsp_staple,
        ],
        Some(pb::secret::Type::ValidationContext(context)) => {
            vec![&context.trusted_ca, &context.crl]
        }
        _ => Vec::new(),
    };
    sources
        .into_iter()
        .filter_map(|source| match source.as_ref()?.specifier.as_ref()? {
            Specifier::Filename(name) => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// The secret called `name`, or the first of its kind, in a file.
fn read(file: &Path, name: &str) -> Result<pb::Secret, String> {
    let shown = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| format!("cannot read {shown:?}: {error}"))?;
    let source = Source {
        name: &shown,
        format: Format::of_path(file),
        bytes: &bytes,
    };
    // What the file holds is secret: errors do not show it.
    let response: DiscoveryResponse = load(&[source], UnknownFields::Ignore)
        .map_err(|_| format!("{shown:?} is not a DiscoveryResponse"))?;
    let secrets = response.resources.iter().filter_map(|any| {
        let (_, value) = outrigger_proto::any::unpack(any).ok()?;
        <pb::Secret as prost::Message>::decode(value).ok()
    });
    let mut found = None;
    for secret in secrets {
        if secret.name == name {
            return Ok(secret);
        }
        found.get_or_insert(secret);
    }
    match found {
        Some(secret) if name.is_empty() => Ok(secret),
        _ => Err(format!("{shown:?} has no secret \"{name}\"")),
    }
}

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
