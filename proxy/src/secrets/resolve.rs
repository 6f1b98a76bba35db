//! The files that a secret names, and what stands in them.

use std::path::PathBuf;

use core::data_source::Specifier;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use crate::files::directory_of;

/// The secret with the content of its files in their place. Read until two readings agree, so that a certificate and its key
/// are of one state of the files even while these are replaced.
pub(super) fn resolved(secret: &pb::Secret) -> Result<pb::Secret, String> {
    if directories(secret).is_empty() {
        return Ok(secret.clone());
    }
    let mut last = read(secret)?;
    for _ in 0..ATTEMPTS {
        let again = read(secret)?;
        if again == last {
            return Ok(again);
        }
        last = again;
    }
    Err("its files change while they are read".to_owned())
}

/// The directories whose changes may change the secret: the watched one, or those of the files.
pub(super) fn directories(secret: &pb::Secret) -> Vec<PathBuf> {
    let mut secret = secret.clone();
    let watched = match &secret.r#type {
        Some(pb::secret::Type::TlsCertificate(certificate)) => &certificate.watched_directory,
        Some(pb::secret::Type::ValidationContext(context)) => &context.watched_directory,
        _ => &None,
    };
    let watched = watched.as_ref().map(|watched| PathBuf::from(&watched.path));
    let mut directories: Vec<_> = sources(&mut secret)
        .into_iter()
        .filter_map(|source| match source.as_ref()?.specifier.as_ref()? {
            Specifier::Filename(name) => Some(directory_of(name.as_ref())),
            _ => None,
        })
        .collect();
    if let (false, Some(watched)) = (directories.is_empty(), watched) {
        directories = vec![watched];
    }
    directories.sort();
    directories.dedup();
    directories
}

fn read(secret: &pb::Secret) -> Result<pb::Secret, String> {
    let mut secret = secret.clone();
    for source in sources(&mut secret) {
        let Some(core::DataSource { specifier, .. }) = source else {
            continue;
        };
        if let Some(Specifier::Filename(name)) = specifier {
            let bytes =
                std::fs::read(&*name).map_err(|error| format!("cannot read {name:?}: {error}"))?;
            *specifier = Some(Specifier::InlineBytes(bytes));
        }
    }
    Ok(secret)
}

/// Every data source of the secret that may be a file.
fn sources(secret: &mut pb::Secret) -> Vec<&mut Option<core::DataSource>> {
    match &mut secret.r#type {
        Some(pb::secret::Type::TlsCertificate(certificate)) => vec![
            &mut certificate.certificate_chain,
            &mut certificate.private_key,
            &mut certificate.password,
            &mut certificate.ocsp_staple,
        ],
        Some(pb::secret::Type::ValidationContext(context)) => {
            vec![&mut context.trusted_ca, &mut context.crl]
        }
        _ => Vec::new(),
    }
}

/// How often files are read again before they are given up.
const ATTEMPTS: usize = 10;
