//! The certificates that are in use, for `/certs` and for the stat of the first one to expire.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::TlsCertificate;
use crate::x509::Certificate;

/// Every TLS context of the process.
#[derive(Default)]
pub struct CertificateInventory(Mutex<Vec<Weak<ContextCertificates>>>);

/// The certificates of one TLS context.
#[derive(Default)]
pub struct ContextCertificates(Mutex<InUse>);

/// What a context uses at the moment.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    /// The first trusted certificate, and where it was found.
    pub ca: Option<(Arc<Certificate>, Box<str>)>,
    /// Our own.
    pub chains: Vec<Arc<TlsCertificate>>,
}

impl CertificateInventory {
    /// A new context.
    pub fn add(&self) -> Arc<ContextCertificates> {
        let made = Arc::new(ContextCertificates::default());
        let mut contexts = self.0.lock();
        contexts.retain(|context| context.strong_count() > 0);
        contexts.push(Arc::downgrade(&made));
        made
    }

    /// What is in use now, context by context.
    pub fn all(&self) -> Vec<InUse> {
        let contexts = self.0.lock();
        let current = |context: &Weak<ContextCertificates>| {
            context.upgrade().map(|context| context.0.lock().clone())
        };
        contexts
            .iter()
            .filter_map(current)
            .filter(|used| used.ca.is_some() || !used.chains.is_empty())
            .collect()
    }

    /// How many days are left until the first certificate expires, 0 if one has. None: there are no certificates.
    /// `now`: seconds since 1970.
    pub fn days_until_first_expires(&self, now: i64) -> Option<u32> {
        let contexts = self.all();
        let ends = contexts.iter().flat_map(|used| {
            let ca = used.ca.as_ref().map(|(ca, _)| ca.not_after);
            let own = used.chains.iter().map(|chain| chain.leaf.not_after);
            ca.into_iter().chain(own)
        });
        ends.map(|end| days_until(end, now)).min()
    }
}

/// How many whole days are left until a moment, 0 if it has passed; both in seconds since 1970.
pub fn days_until(end: i64, now: i64) -> u32 {
    u32::try_from(end.saturating_sub(now) / 86_400).unwrap_or_default()
}

impl ContextCertificates {
    /// The context uses others now.
    pub fn replace(&self, used: InUse) {
        *self.0.lock() = used;
    }
}

impl fmt::Debug for CertificateInventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateInventory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::tests::make;

    #[test]
    fn the_first_certificate_to_expire_counts_as_long_as_its_context_lives() {
        let inventory = CertificateInventory::default();
        assert_eq!(inventory.days_until_first_expires(0), None);
        let context = inventory.add();
        let ca = Arc::new(make(|params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 11);
            params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        }));
        context.replace(InUse {
            ca: Some((ca, "ca.crt".into())),
            chains: Vec::new(),
        });
        assert_eq!(inventory.days_until_first_expires(0), Some(10));
        assert_eq!(inventory.days_until_first_expires(86_400 * 3 + 1), Some(6));
        assert_eq!(inventory.days_until_first_expires(86_400 * 30), Some(0));
        drop(context);
        assert_eq!(inventory.days_until_first_expires(0), None);
    }
}
