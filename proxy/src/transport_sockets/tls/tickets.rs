//! Session tickets: with keys that are configured, so that several proxies can resume each other's sessions, or with keys of the
//! process, which change by themselves.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::server::unix_now;
use crate::config::{ConfigPath, Rejected, data_source};

/// Makes tickets, and reads them while they are good.
pub(super) struct Tickets {
    keys: Keys,
    /// How long a ticket is good, in seconds.
    lifetime: u32,
    /// Whom clients are validated by. Tickets of clients that were validated otherwise are not taken: these shake hands anew,
    /// instead of being refused by what is asked of them now.
    trust: [u8; 32],
}

enum Keys {
    /// Tickets are made with the first key, and read with any.
    Configured(Vec<TicketKey>),
    Own(Arc<dyn ProducesTickets>),
}

/// 80 bytes: name, key of the digest, key of the cipher.
struct TicketKey {
    name: [u8; NAME],
    mac: hmac::Key,
    cipher: Zeroizing<Vec<u8>>,
}

impl Tickets {
    pub(super) fn from_proto(
        proto: pb::TlsSessionTicketKeys,
        lifetime: u32,
        trust: [u8; 32],
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TlsSessionTicketKeys { keys } = proto;
        let keys = path.each("keys", keys, |source, path| {
            let bytes = data_source(source, path)?;
            TicketKey::new(&bytes).ok_or_else(|| {
                path.reject(format!(
                    "has {} bytes; a key has exactly {KEY}",
                    bytes.len()
                ))
            })
        })?;
        Ok(Self {
            keys: Keys::Configured(keys),
            lifetime,
            trust,
        })
    }

    /// With keys of the process. None: there is no randomness.
    pub(super) fn own(lifetime: u32, trust: [u8; 32]) -> Option<Self> {
        let keys = rustls::crypto::aws_lc_rs::Ticketer::new().ok()?;
        Some(Self {
            keys: Keys::Own(keys),
            lifetime,
            trust,
        })
    }

    fn encrypt_at(&self, plain: &[u8], now: i64) -> Option<Vec<u8>> {
        let bound = Zeroizing::new([&self.trust[..], &now.to_be_bytes(), plain].concat());
        match &self.keys {
            Keys::Configured(keys) => keys.first()?.encrypt(&bound),
            Keys::Own(own) => own.encrypt(&bound),
        }
    }

    fn decrypt_at(&self, cipher: &[u8], now: i64) -> Option<Vec<u8>> {
        let bound = Zeroizing::new(match &self.keys {
            Keys::Configured(keys) => {
                let name = cipher.get(..NAME)?;
                keys.iter().find(|key| key.name == name)?.decrypt(cipher)?
            }
            Keys::Own(own) => own.decrypt(cipher)?,
        });
        let rest = bound.strip_prefix(&self.trust)?;
        let (made, plain) = rest.split_first_chunk::<8>()?;
        let age = now.checked_sub(i64::from_be_bytes(*made))?;
        (age <= i64::from(self.lifetime)).then(|| plain.to_vec())
    }
}

impl TicketKey {
    fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY {
            return None;
        }
        Some(Self {
            name: bytes.get(..NAME)?.try_into().ok()?,
            mac: hmac::Key::new(hmac::HMAC_SHA256, bytes.get(NAME..NAME + 32)?),
            cipher: Zeroizing::new(bytes.get(NAME + 32..)?.to_vec()),
        })
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut iv = [0; IV];
        rand::fill(&mut iv).ok()?;
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).ok()?;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).ok()?;
        let mut content = plain.to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        key.less_safe_encrypt(&mut content, context).ok()?;
        let mut ticket = [&self.name[..], &iv, &content].concat();
        let tag = hmac::sign(&self.mac, &ticket);
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (signed, tag) = ticket.split_at_checked(ticket.len().checked_sub(32)?)?;
        hmac::verify(&self.mac, signed, tag).ok()?;
        let iv: [u8; IV] = signed.get(NAME..NAME + IV)?.try_into().ok()?;
        let mut content = signed.get(NAME + IV..)?.to_vec();
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        key.decrypt(&mut content, context)
            .ok()
            .map(|plain| plain.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        match &self.keys {
            Keys::Configured(keys) => !keys.is_empty(),
            Keys::Own(own) => own.enabled(),
        }
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, unix_now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, unix_now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

const NAME: usize = 16;
const IV: usize = 16;
const KEY: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(first: &[u8]) -> Tickets {
        Tickets {
            keys: Keys::Configured(
                first
                    .iter()
                    .map(|byte| TicketKey::new(&[*byte; KEY]).unwrap())
                    .collect(),
            ),
            lifetime: 3600,
            trust: [7; 32],
        }
    }

    #[test]
    fn a_ticket_of_a_client_that_was_validated_otherwise_is_not_taken() {
        let mut tickets = tickets(&[1]);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).unwrap(), b"session");
        tickets.trust = [8; 32];
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn tickets_of_older_keys_are_read_and_made_with_the_newest() {
        let old = tickets(&[1]).encrypt(b"session").unwrap();
        let rotated = tickets(&[2, 1]);
        assert_eq!(rotated.decrypt(&old).unwrap(), b"session");
        let new = rotated.encrypt(b"session").unwrap();
        assert_eq!(&new[..NAME], &[2; NAME]);
        assert_eq!(tickets(&[1]).decrypt(&new), None);
    }

    #[test]
    fn a_ticket_is_good_for_as_long_as_sessions_are() {
        for tickets in [tickets(&[1]), Tickets::own(3600, [7; 32]).unwrap()] {
            let ticket = tickets.encrypt_at(b"session", 1_000).unwrap();
            assert_eq!(tickets.decrypt_at(&ticket, 4_600).unwrap(), b"session");
            assert_eq!(tickets.decrypt_at(&ticket, 4_601), None);
            assert_eq!(tickets.lifetime(), 3600);
        }
    }

    #[test]
    fn a_changed_ticket_is_refused() {
        let tickets = tickets(&[1]);
        let ticket = tickets.encrypt(b"session").unwrap();
        for at in NAME..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None);
        }
        assert_eq!(tickets.decrypt(b""), None);
        assert_eq!(tickets.decrypt(&ticket[..20]), None);
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        assert!(TicketKey::new(&[0; 79]).is_none());
    }
}
