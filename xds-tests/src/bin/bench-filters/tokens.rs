//! Signed tokens, and the keys to verify them.

use std::fmt::Write;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};

/// A key that signs tokens.
pub(crate) enum Issuer {
    Rs256(Box<RsaKeyPair>),
    Es256(Box<EcdsaKeyPair>),
    /// The secret.
    Hs256([u8; 32]),
}

impl Issuer {
    pub(crate) fn rs256() -> Self {
        Self::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::Es256(Box::new(pair.unwrap()))
    }

    pub(crate) fn hs256() -> Self {
        Self::Hs256([7; 32])
    }

    /// The set with its public key, or with the secret.
    pub(crate) fn jwks(&self) -> String {
        let key = match self {
            Self::Rs256(pair) => {
                let PublicKeyComponents { n, e } =
                    PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                let (n, e) = (base64_url(&n), base64_url(&e));
                format!(r#""kty":"RSA","alg":"RS256","n":"{n}","e":"{e}""#)
            }
            Self::Es256(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = (base64_url(&point[..32]), base64_url(&point[32..]));
                format!(r#""kty":"EC","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}""#)
            }
            Self::Hs256(secret) => {
                format!(r#""kty":"oct","alg":"HS256","k":"{}""#, base64_url(secret))
            }
        };
        format!(r#"{{"keys":[{{{key},"kid":"one"}}]}}"#)
    }

    /// The token of a user.
    pub(crate) fn token(&self, user: usize) -> String {
        let algorithm = match self {
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::Hs256(_) => "HS256",
        };
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"one"}}"#);
        let payload = format!(
            r#"{{"iss":"https://issuer.example.com","sub":"user-{user:06}","aud":"shop","iat":1700000000,"exp":4000000000,"scope":"orders:read orders:write","email":"user-{user:06}@example.com","groups":["staff","buyers"]}}"#
        );
        let mut token = base64_url(header.as_bytes());
        write!(token, ".{}", base64_url(payload.as_bytes())).unwrap();
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Self::Es256(pair) => {
                let signature = pair.sign(&random, token.as_bytes()).unwrap();
                signature.as_ref().to_vec()
            }
            Self::Hs256(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, token.as_bytes()).as_ref().to_vec()
            }
        };
        write!(token, ".{}", base64_url(&signature)).unwrap();
        token
    }
}

fn base64_url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=three.len()].copy_from_slice(three);
        let group = u32::from_be_bytes(group);
        for place in 0..=three.len() {
            let letter = (group >> (18 - 6 * place)) & 63;
            text.push(char::from(LETTERS[letter as usize]));
        }
    }
    text
}
