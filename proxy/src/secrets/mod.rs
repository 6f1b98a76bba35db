//! Named secrets: certificates with their keys, what peers are validated by, and keys of session tickets.
//!
//! A [`SecretCell`] is one secret under its name. It may be empty, and it may change: whoever uses it watches it, and builds
//! anew what depends on it. A new value that somebody cannot use is refused with the reason, and the old one stays.
//! Secrets come from the bootstrap, from files, or from a management server. The messages in cells hold private keys: they are
//! never logged, printed or put into errors.
//!
//! Files are read again when something changes in their directory, or in `watched_directory`. Who needs a secret that is not
//! there waits for it as for everything else that it needs ([`InitManager`](crate::server::InitManager)).
//!
//! Stats: `sds.<name>.{init_fetch_timeout,key_rotation_failed,update_attempt,update_failure,update_rejected,update_success}`.
//! Deviations: files that are written in place are read again as well, not only those that are moved there.

mod cell;
mod certificate;
mod file;
mod inventory;
mod ocsp;
mod pem;
mod private_key;
mod resolve;
mod store;

pub use cell::{SecretCell, SecretWatcher};
pub use certificate::TlsCertificate;
pub(crate) use certificate::source_name;
pub use inventory::{CertificateInventory, ContextCertificates, InUse, days_until};
pub use ocsp::OcspResponse;
pub use pem::{PemBlock, pem_blocks};
pub use private_key::PrivateKeyError;
pub(crate) use private_key::unhex;
pub use store::{SecretKind, SecretStore};
