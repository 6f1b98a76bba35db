//! `CommonTlsContext`: what both sides of a connection are configured with, and how it follows its secrets.

use std::sync::{Arc, Weak};

use aws_lc_rs::digest;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use parking_lot::Mutex;
use pb::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use prost::Message;

use super::parameters::{Parameters, Side};
use super::stats::TlsStats;
use super::verify::{Origin, Validation};
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::secrets::{InUse, SecretCell, SecretKind, SecretWatcher, TlsCertificate};
use crate::server::FactoryContext;

/// The converted message.
pub(super) struct CommonContext {
    pub(super) parameters: Parameters,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) key_log: Option<Arc<super::key_log::KeyLogFile>>,
    certificates: Vec<CertificateSource>,
    validation: ValidationSource,
    /// Held while a context is made: secrets may change on several threads.
    building: Mutex<()>,
}

enum CertificateSource {
    Own(Arc<TlsCertificate>),
    Secret(Arc<SecretCell>),
}

/// The dynamic part, if there is one, is laid over the other.
struct ValidationSource {
    own: Option<pb::CertificateValidationContext>,
    secret: Option<Arc<SecretCell>>,
}

/// What a context is made of at the moment.
pub(super) struct Materials {
    pub(super) certificates: Vec<Arc<TlsCertificate>>,
    pub(super) validation: Option<Validation>,
}

impl Materials {
    /// A digest of whom peers are validated by.
    pub(super) fn trust(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let trusted = self
            .validation
            .iter()
            .flat_map(|found| found.trusted.iter());
        trusted.for_each(|certificate| context.update(certificate.der()));
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }

    /// The same as `/certs` shows it.
    pub(super) fn in_use(&self) -> InUse {
        let shown = self.validation.as_ref();
        let shown = shown.filter(|validation| validation.origin != Origin::System);
        let (authorities, ca_path) = shown.map_or_else(Default::default, |validation| {
            (validation.trusted.clone(), validation.ca_path.clone())
        });
        InUse {
            authorities,
            ca_path,
            chains: self.certificates.clone(),
        }
    }
}

/// How a context of one side is made, whenever a secret changes.
pub(super) trait Rebuild: Send + Sync {
    /// Makes it and puts it in place of the one before. `None`: a secret is missing.
    fn rebuild(&self, materials: Option<Materials>) -> Result<(), String>;
    /// What both sides have in common.
    fn common(&self) -> &CommonContext;
    /// What is counted.
    fn stats(&self) -> &TlsStats;
}

/// Follows the secrets of a context.
pub(super) struct Follower<T: Rebuild>(pub(super) Weak<T>);

impl<T: Rebuild> SecretWatcher for Follower<T> {
    fn secret_changed(&self) -> Result<(), String> {
        let Some(context) = self.0.upgrade() else {
            return Ok(());
        };
        build(&*context)?;
        context.stats().factory.ssl_context_update_by_sds().inc();
        Ok(())
    }
}

/// Makes a context of what is there now. The error lists what is wrong with it.
pub(super) fn build<T: Rebuild>(context: &T) -> Result<(), String> {
    let _one_at_a_time = context.common().building.lock();
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "secret");
    match context.common().materials(&path) {
        Ok(materials) => {
            if let Some(materials) = &materials {
                count_expirations(context, materials);
            }
            context.rebuild(materials)
        }
        Err(_) => {
            let errors: Vec<_> = report.take().iter().map(ToString::to_string).collect();
            Err(errors.join("; "))
        }
    }
}

fn count_expirations<T: Rebuild>(context: &T, materials: &Materials) {
    let common = context.common();
    for (source, certificate) in common.certificates.iter().zip(&materials.certificates) {
        let name = match source {
            CertificateSource::Own(_) => format!("unnamed_cert_{UNNAMED}"),
            CertificateSource::Secret(cell) => cell.name.to_string(),
        };
        context.stats().expires(&name, certificate.leaf.not_after);
    }
    let Some(validation) = &materials.validation else {
        return;
    };
    let secret = common.validation.secret.as_ref().map(|cell| &*cell.name);
    let ends = validation.trusted.iter().map(|ca| ca.not_after);
    if validation.origin == Origin::TrustDomains {
        let name = secret.unwrap_or("unnamed_ca_cert");
        for (index, end) in ends.enumerate() {
            context.stats().expires(&format!("{name}_{index}"), end);
        }
        return;
    }
    match ends.min().filter(|_| validation.origin != Origin::System) {
        None => context.stats().expires("unnamed_ca_cert", i64::MAX),
        Some(end) => {
            let unnamed = format!("unnamed_ca_cert_{UNNAMED}");
            context.stats().expires(secret.unwrap_or(&unnamed), end);
        }
    }
}

impl CommonContext {
    #[allow(deprecated, reason = "every field is decided, also old ones")]
    pub(super) fn from_proto(
        proto: pb::CommonTlsContext,
        side: Side,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = proto;
        let refused = [
            path.unsupported_if_set(
                "tls_certificate_provider_instance",
                tls_certificate_provider_instance,
            ),
            path.unsupported_if_set(
                "custom_tls_certificate_selector",
                custom_tls_certificate_selector,
            ),
            path.unsupported_if_set(
                "tls_certificate_certificate_provider",
                tls_certificate_certificate_provider,
            ),
            path.unsupported_if_set(
                "tls_certificate_certificate_provider_instance",
                tls_certificate_certificate_provider_instance,
            ),
            path.unsupported_if_set("custom_handshaker", custom_handshaker),
        ];
        let parameters = Parameters::from_proto(tls_params, side, &path.field("tls_params"));
        let own = path.each("tls_certificates", tls_certificates, |proto, path| {
            TlsCertificate::from_proto(proto, path)
                .map(|certificate| CertificateSource::Own(Arc::new(certificate)))
        });
        let named = path.each(
            "tls_certificate_sds_secret_configs",
            tls_certificate_sds_secret_configs,
            |config, path| {
                let secrets = &cx.server.secrets;
                secrets
                    .find(SecretKind::TlsCertificate, config, cx, path)
                    .map(CertificateSource::Secret)
            },
        );
        let alpn = path.each("alpn_protocols", alpn_protocols, |name, path| {
            // Envoy takes lists in one entry as well.
            let names: Vec<Vec<u8>> = name
                .split(',')
                .map(|name| name.as_bytes().to_vec())
                .collect();
            match names.iter().all(|name| (1..256).contains(&name.len())) {
                true => Ok(names),
                false => Err(path.reject(format!("\"{name}\": Invalid ALPN protocol string"))),
            }
        });
        let validation = validation_source(validation_context_type, cx, path);
        let key_log = path.optional("key_log", key_log, super::key_log::KeyLogFile::from_proto);
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        let mut certificates = own?;
        certificates.extend(named?);
        Ok(Self {
            parameters: parameters?,
            alpn: alpn?.into_iter().flatten().collect(),
            key_log: key_log?.map(Arc::new),
            certificates,
            validation: validation?,
            building: Mutex::new(()),
        })
    }

    /// How many certificates are configured.
    pub(super) fn certificate_count(&self) -> usize {
        self.certificates.len()
    }

    /// The secrets that the context depends on.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Arc<SecretCell>> {
        let named = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Secret(cell) => Some(cell),
            CertificateSource::Own(_) => None,
        });
        named.chain(&self.validation.secret)
    }

    /// Everything converted; none: a secret is missing.
    pub(super) fn materials(&self, path: &ConfigPath<'_>) -> Result<Option<Materials>, Rejected> {
        let mut certificates = Vec::new();
        for source in &self.certificates {
            match source {
                CertificateSource::Own(certificate) => certificates.push(certificate.clone()),
                CertificateSource::Secret(cell) => {
                    let Some(secret) = cell.get() else {
                        return Ok(None);
                    };
                    if let Some(pb::secret::Type::TlsCertificate(proto)) = &secret.r#type {
                        let path = path.key("tls_certificate", &cell.name);
                        let converted = TlsCertificate::from_proto(proto.clone(), &path)?;
                        certificates.push(Arc::new(converted));
                    }
                }
            }
        }
        let ValidationSource { own, secret } = &self.validation;
        let dynamic = match secret {
            None => None,
            Some(cell) => match cell.get() {
                None => return Ok(None),
                Some(secret) => Some(secret),
            },
        };
        let dynamic = dynamic.as_ref().and_then(|secret| match &secret.r#type {
            Some(pb::secret::Type::ValidationContext(context)) => Some(context),
            _ => None,
        });
        let validation = match (own, dynamic) {
            (None, None) => None,
            (Some(own), None) => Some(own.clone()),
            (None, Some(dynamic)) => Some(dynamic.clone()),
            (Some(own), Some(dynamic)) => Some(merged(own, dynamic)),
        };
        let path = path.field("validation_context");
        let validation = validation
            .map(|proto| Validation::from_proto(proto, &path))
            .transpose()?;
        Ok(Some(Materials {
            certificates,
            validation,
        }))
    }
}

/// As protobuf merges messages: lists are appended, values replaced.
fn merged(
    own: &pb::CertificateValidationContext,
    dynamic: &pb::CertificateValidationContext,
) -> pb::CertificateValidationContext {
    let mut merged = own.clone();
    match merged.merge(dynamic.encode_to_vec().as_slice()) {
        Ok(()) => merged,
        // What was encoded a moment ago can be decoded.
        Err(_) => dynamic.clone(),
    }
}

#[allow(deprecated, reason = "every field is decided, also old ones")]
fn validation_source(
    proto: Option<ValidationContextType>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<ValidationSource, Rejected> {
    let mut source = ValidationSource {
        own: None,
        secret: None,
    };
    let secrets = &cx.server.secrets;
    match proto {
        None => {}
        Some(ValidationContextType::ValidationContext(context)) => {
            // What is wrong with it is to be found now, with its path.
            Validation::from_proto(context.clone(), &path.field("validation_context"))?;
            source.own = Some(context);
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let path = path.field("validation_context_sds_secret_config");
            source.secret = Some(secrets.find(SecretKind::ValidationContext, config, cx, &path)?);
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let path = path.field("combined_validation_context");
            let CombinedCertificateValidationContext {
                default_validation_context,
                validation_context_sds_secret_config,
                validation_context_certificate_provider,
                validation_context_certificate_provider_instance,
            } = combined;
            path.unsupported_if_set(
                "validation_context_certificate_provider",
                validation_context_certificate_provider,
            )?;
            path.unsupported_if_set(
                "validation_context_certificate_provider_instance",
                validation_context_certificate_provider_instance,
            )?;
            source.own =
                Some(path.required("default_validation_context", default_validation_context)?);
            let config = path.required(
                "validation_context_sds_secret_config",
                validation_context_sds_secret_config,
            )?;
            let path = path.field("validation_context_sds_secret_config");
            source.secret = Some(secrets.find(SecretKind::ValidationContext, config, cx, &path)?);
        }
        Some(ValidationContextType::ValidationContextCertificateProvider(_)) => {
            return Err(path
                .field("validation_context_certificate_provider")
                .reject("is not supported"));
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => {
            return Err(path
                .field("validation_context_certificate_provider_instance")
                .reject("is not supported"));
        }
    }
    Ok(source)
}

/// The beginning of the SHA-256 digest of nothing, which is the name of what has none.
const UNNAMED: &str = "e3b0c442";
