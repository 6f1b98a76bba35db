//! Named secrets: certificates with their keys, what peers are validated by, and keys of session tickets.
//!
//! A [`SecretCell`] is one secret under its name. It may be empty, and it may change: whoever uses it watches it, and builds
//! anew what depends on it. A new value that somebody cannot use is refused with the reason, and the old one stays.
//! Who delivers secrets from elsewhere is a [`SecretProvider`]. The messages in cells hold private keys: they are never
//! logged, printed or put into errors.
//! Deviations: files of secrets are looked at once a second, not by inotify.

mod certificate;
mod file;
mod inventory;
mod pem;
mod private_key;
mod store;

pub use certificate::TlsCertificate;
pub(crate) use certificate::source_name;
pub use inventory::{CertificateInventory, ContextCertificates, InUse, days_until};
pub use pem::{PemBlock, pem_blocks};
pub use private_key::PrivateKeyError;
pub(crate) use private_key::unhex;
pub use store::{SecretCell, SecretKind, SecretProvider, SecretStore, SecretWatcher};
