//! Private keys: PKCS#1, PKCS#8 and SEC1, plain or encrypted with a password.

use std::sync::Arc;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfo;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::SigningKey;
use zeroize::Zeroizing;

use super::pem::{PemBlock, pem_blocks};

/// Why a private key cannot be used. Says nothing of the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum PrivateKeyError {
    #[error("has no private key in PEM (PKCS#1, PKCS#8 or SEC1)")]
    Missing,
    #[error("is encrypted, and there is no password")]
    PasswordMissing,
    #[error("cannot be decrypted with the password")]
    WrongPassword,
    #[error(
        "is encrypted in a way that is not supported; AES-128, AES-192 and AES-256 in CBC mode are"
    )]
    UnknownEncryption,
    #[error(
        "is not a key that can be used: RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, Ed25519"
    )]
    Unusable,
}

/// Reads the first private key of a PEM text.
pub(super) fn private_key(
    text: &[u8],
    password: Option<&[u8]>,
) -> Result<Arc<dyn SigningKey>, PrivateKeyError> {
    let blocks = pem_blocks(text).ok_or(PrivateKeyError::Missing)?;
    let block = blocks
        .into_iter()
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or(PrivateKeyError::Missing)?;
    let der = if block.label == "ENCRYPTED PRIVATE KEY" {
        let password = password.ok_or(PrivateKeyError::PasswordMissing)?;
        decrypt_pkcs8(&block.der, password)?
    } else {
        decrypt_legacy(&block, password)?
    };
    let der = der.to_vec();
    let key = match block.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
        }
        _ => return Err(PrivateKeyError::Missing),
    };
    any_supported_type(&key).map_err(|_| PrivateKeyError::Unusable)
}

fn decrypt_pkcs8(der: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    let info = EncryptedPrivateKeyInfo::try_from(der).map_err(|_| PrivateKeyError::Missing)?;
    let key = info
        .decrypt(password)
        .map_err(|_| PrivateKeyError::WrongPassword)?;
    Ok(Zeroizing::new(key.as_bytes().to_vec()))
}

/// The older way: `DEK-Info: AES-256-CBC,<iv>`, with a key made of the password by MD5.
fn decrypt_legacy(
    block: &PemBlock,
    password: Option<&[u8]>,
) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    let header = |name: &str| {
        let found = block.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    };
    if !header("Proc-Type").is_some_and(|value| value.contains("ENCRYPTED")) {
        return Ok(block.der.clone());
    }
    let password = password.ok_or(PrivateKeyError::PasswordMissing)?;
    let (cipher, iv) = header("DEK-Info")
        .and_then(|value| value.split_once(','))
        .ok_or(PrivateKeyError::UnknownEncryption)?;
    let (algorithm, length): (&'static Algorithm, usize) = match cipher {
        "AES-128-CBC" => (&AES_128, 16),
        "AES-192-CBC" => (&AES_192, 24),
        "AES-256-CBC" => (&AES_256, 32),
        _ => return Err(PrivateKeyError::UnknownEncryption),
    };
    let iv: [u8; 16] = unhex(iv)
        .and_then(|iv| iv.try_into().ok())
        .ok_or(PrivateKeyError::UnknownEncryption)?;
    let key = derive_key(password, &iv[..8], length);
    let decrypt = || {
        let key = UnboundCipherKey::new(algorithm, &key).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut bytes = block.der.clone();
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let plain = key.decrypt(&mut bytes, context).ok()?;
        Some(Zeroizing::new(plain.to_vec()))
    };
    decrypt().ok_or(PrivateKeyError::WrongPassword)
}

fn derive_key(password: &[u8], salt: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
    let mut last: Option<[u8; 16]> = None;
    while key.len() < length {
        let mut digest = Md5::new();
        if let Some(last) = last {
            digest.update(last);
        }
        digest.update(password);
        digest.update(salt);
        let block: [u8; 16] = digest.finalize().into();
        key.extend_from_slice(&block);
        last = Some(block);
    }
    key.truncate(length);
    key
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| {
            let value = digit(pair[0])? << 4 | digit(pair[1])?;
            u8::try_from(value).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn a_pkcs8_key_is_read_after_comments() {
        let pem = KeyPair::generate().unwrap().serialize_pem();
        let key = private_key(format!("comment\n{pem}").as_bytes(), None);
        assert!(key.is_ok());
    }

    #[test]
    fn what_is_no_key_says_so_without_showing_it() {
        let error = |text: &str| private_key(text.as_bytes(), None).err().unwrap();
        assert_eq!(error("secret text"), PrivateKeyError::Missing);
        let wrong = "-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n";
        assert_eq!(error(wrong), PrivateKeyError::Unusable);
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nYWJj\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(error(encrypted), PrivateKeyError::PasswordMissing);
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\nYWJj\n-----END RSA PRIVATE KEY-----\n";
        assert_eq!(error(legacy), PrivateKeyError::PasswordMissing);
        assert_eq!(
            private_key(legacy.as_bytes(), Some(b"x")).err().unwrap(),
            PrivateKeyError::UnknownEncryption
        );
    }
}
