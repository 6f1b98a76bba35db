//! The certificates that are in use, for `/certs` and for the stats of what expires first.

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
pub struct ContextCertificates(Mutex<Option<InUse>>);

/// What a context uses at the moment.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    /// The trusted certificates.
    pub authorities: Arc<[Certificate]>,
    /// Where they were found.
    pub ca_path: Box<str>,
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

    /// What is in use now, context by context, without those that still wait for secrets.
    pub fn all(&self) -> Vec<InUse> {
        let contexts = self.0.lock();
        contexts
            .iter()
            .filter_map(|context| context.upgrade()?.0.lock().clone())
            .collect()
    }

    /// How many days are left until the first certificate expires, 0 if one has. None: there are no certificates.
    /// `now`: seconds since 1970.
    pub fn days_until_first_expires(&self, now: i64) -> Option<u32> {
        let contexts = self.all();
        let ends = contexts.iter().flat_map(|used| {
            let trusted = used.authorities.iter().map(|ca| ca.not_after);
            let own = used.chains.iter().map(|chain| chain.leaf.not_after);
            trusted.chain(own)
        });
        ends.map(|end| days_until(end, now)).min()
    }

    /// How many seconds are left until the first OCSP response expires, 0 if one has. None: there are no OCSP responses.
    /// `now`: seconds since 1970.
    pub fn seconds_until_first_response_expires(&self, now: i64) -> Option<u64> {
        let contexts = self.all();
        let chains = contexts.iter().flat_map(|used| &used.chains);
        let responses = chains.filter_map(|chain| chain.ocsp.as_ref());
        responses.map(|response| response.seconds_left(now)).min()
    }
}

/// How many whole days are left until a moment, 0 if it has passed; both in seconds since 1970.
pub fn days_until(end: i64, now: i64) -> u32 {
    u32::try_from(end.saturating_sub(now) / 86_400).unwrap_or_default()
}

impl ContextCertificates {
    /// The context uses others now.
    pub fn replace(&self, used: InUse) {
        *self.0.lock() = Some(used);
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
        let until = |day| {
            make(|params| {
                params.not_after = rcgen::date_time_ymd(1970, 1, day);
                params.not_before = rcgen::date_time_ymd(1970, 1, 1);
            })
        };
        context.replace(InUse {
            authorities: [until(21), until(11)].into(),
            ca_path: "ca.crt".into(),
            chains: Vec::new(),
        });
        assert_eq!(inventory.days_until_first_expires(0), Some(10));
        assert_eq!(inventory.days_until_first_expires(86_400 * 3 + 1), Some(6));
        assert_eq!(inventory.days_until_first_expires(86_400 * 30), Some(0));
        drop(context);
        assert_eq!(inventory.days_until_first_expires(0), None);
    }
}
