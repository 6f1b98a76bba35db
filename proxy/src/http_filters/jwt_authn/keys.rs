//! Public keys (JWKS), and what they say about a signature.

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};
use x509_parser::pem::Pem;

use super::json::object;
use super::status::Fault;
use super::token::{Algorithm, Token, decode};

/// A set of keys.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    /// Empty: any.
    kid: String,
    /// Empty: any of its type.
    alg: String,
    material: Material,
}

enum Material {
    Rsa(RsaKey),
    Ec(Curve, Box<ParsedPublicKey>),
    Ed25519(Box<ParsedPublicKey>),
    Secret(Vec<u8>),
}

/// The encoded key, and what each of the algorithms made of it when it was first used.
struct RsaKey {
    encoded: Vec<u8>,
    parsed: [OnceLock<Option<Box<ParsedPublicKey>>>; RSA_ALGORITHMS.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl KeySet {
    /// Reads a JWKS, or a map of key identifiers to certificates. Keys that cannot be used are left out while there are others.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Fault> {
        let object = object(json).ok_or(Fault::JwksJson)?;
        let Some(list) = object.get("keys") else {
            return Self::of_certificates(&object);
        };
        let list = list.as_array().ok_or(Fault::JwksBadKeys)?;
        let mut first_fault = None;
        let mut keys = Vec::new();
        for value in list {
            let Some(object) = value.as_object() else {
                continue;
            };
            match Key::parse(object) {
                Ok(key) => keys.push(key),
                Err(fault) => drop(first_fault.get_or_insert(fault)),
            }
        }
        if keys.is_empty() {
            return Err(first_fault.unwrap_or(Fault::JwksNoValidKeys));
        }
        Ok(Self { keys })
    }

    fn of_certificates(object: &Map<String, Value>) -> Result<Self, Fault> {
        let texts: Option<Vec<(&String, &str)>> = object
            .iter()
            .map(|(kid, value)| Some((kid, value.as_str()?)))
            .filter(|entry| entry.is_none_or(|(kid, text)| !kid.is_empty() && !text.is_empty()))
            .collect();
        let texts = texts.filter(|texts| !texts.is_empty() && texts.len() == object.len());
        let texts = texts.ok_or(Fault::JwksNoKeys)?;
        let keys = texts.into_iter().map(|(kid, text)| {
            let key = rsa_of_certificate(text).ok_or(Fault::JwkField("X509 parse pubkey fails"))?;
            Ok(Key {
                kid: kid.clone(),
                alg: String::new(),
                material: Material::Rsa(RsaKey::new(key)),
            })
        });
        Ok(Self {
            keys: keys.collect::<Result<_, Fault>>()?,
        })
    }

    /// Whether one of the keys has signed the token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Fault> {
        let mut matched = false;
        for key in &self.keys {
            let kid = &*token.header.kid;
            let other_kid = !kid.is_empty() && !key.kid.is_empty() && key.kid != kid;
            if other_kid || (!key.alg.is_empty() && key.alg != token.header.algorithm.name()) {
                continue;
            }
            matched = true;
            if matches!(key.material, Material::Ed25519(_))
                && token.signature.len() != ED25519_SIGNATURE
            {
                return Err(Fault::Ed25519SignatureLength);
            }
            if key.material.has_signed(token) {
                return Ok(());
            }
        }
        Err(if matched {
            Fault::VerificationFail
        } else {
            Fault::JwksKidAlgMismatch
        })
    }
}

const ED25519_SIGNATURE: usize = 64;

impl Key {
    fn parse(object: &Map<String, Value>) -> Result<Self, Fault> {
        let kty = required(
            object,
            "kty",
            ["[kty] is missing in [keys]", "[kty] is bad in [keys]"],
        )?;
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let alg = text("alg").to_owned();
        let material = match kty {
            "EC" => ec(object, &alg),
            "RSA" => rsa(object, &alg),
            "oct" => secret(object, &alg),
            "OKP" => okp(object, &alg),
            _ => Err(Fault::JwkField("[kty] is not supported in [keys]")),
        }?;
        Ok(Self {
            kid: text("kid").to_owned(),
            alg,
            material,
        })
    }
}

impl Material {
    fn has_signed(&self, token: &Token) -> bool {
        let (message, signature) = (token.signed(), &token.signature[..]);
        let algorithm = token.header.algorithm;
        match self {
            Self::Rsa(key) => key
                .parsed(algorithm)
                .is_some_and(|key| key.verify_sig(message, signature).is_ok()),
            Self::Ec(curve, key) => {
                let curve_of_token = match algorithm {
                    Algorithm::Es256 => Curve::P256,
                    Algorithm::Es384 => Curve::P384,
                    Algorithm::Es512 => Curve::P521,
                    _ => return false,
                };
                *curve == curve_of_token && key.verify_sig(message, signature).is_ok()
            }
            Self::Ed25519(key) => {
                algorithm == Algorithm::EdDsa && key.verify_sig(message, signature).is_ok()
            }
            Self::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::Hs256 => hmac::HMAC_SHA256,
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                let key = hmac::Key::new(hash, secret);
                hmac::verify(&key, message, signature).is_ok()
            }
        }
    }
}

impl std::fmt::Debug for Material {
    /// The kind of the key alone: one kind is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "Rsa",
            Self::Ec(..) => "Ec",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

impl RsaKey {
    fn new(encoded: Vec<u8>) -> Self {
        Self {
            encoded,
            parsed: Default::default(),
        }
    }

    fn parsed(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let index = RSA_ALGORITHMS
            .iter()
            .position(|(known, _)| *known == algorithm)?;
        let parse = || ParsedPublicKey::new(RSA_ALGORITHMS[index].1, &self.encoded).ok();
        let parsed = self.parsed[index].get_or_init(|| parse().map(Box::new));
        parsed.as_deref()
    }
}

static RSA_ALGORITHMS: [(Algorithm, &dyn VerificationAlgorithm); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// A string that must be there; the texts say that it is missing, and that it is no string.
fn required<'a>(
    object: &'a Map<String, Value>,
    name: &str,
    [missing, bad]: [&'static str; 2],
) -> Result<&'a str, Fault> {
    match object.get(name) {
        None => Err(Fault::JwkField(missing)),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Fault::JwkField(bad)),
    }
}

fn rsa(object: &Map<String, Value>, alg: &str) -> Result<Material, Fault> {
    if !alg.is_empty() && !alg.starts_with("RS") && !alg.starts_with("PS") {
        return Err(Fault::JwkField(
            "[alg] is not started with [RS] or [PS] for an RSA key",
        ));
    }
    let n = [
        "[n] field is missing for a RSA key",
        "[n] field is not string for a RSA key",
    ];
    let e = [
        "[e] field is missing for a RSA key",
        "[e] field is not string for a RSA key",
    ];
    let (n, e) = (required(object, "n", n)?, required(object, "e", e)?);
    let (n, e) = decode(n).zip(decode(e)).ok_or(Fault::JwksRsa)?;
    let e = without_zeros(&e);
    // Envoy takes only these two exponents.
    if e != [3] && e != [1, 0, 1] {
        return Err(Fault::JwksRsa);
    }
    let key = rsa_public_key(without_zeros(&n), e);
    Ok(Material::Rsa(RsaKey::new(key)))
}

fn ec(object: &Map<String, Value>, alg: &str) -> Result<Material, Fault> {
    if !alg.is_empty() && !alg.starts_with("ES") {
        return Err(Fault::JwkField(
            "[alg] is not started with [ES] for an EC key",
        ));
    }
    let crv = match object.get("crv") {
        None => "",
        Some(Value::String(crv)) => crv,
        Some(_) => return Err(Fault::JwkField("[crv] field is not string for an EC key")),
    };
    let curve = match (alg, crv) {
        ("ES256" | "", "P-256") | ("ES256" | "", "") => Curve::P256,
        ("ES384" | "", "P-384") | ("ES384", "") => Curve::P384,
        ("ES512" | "", "P-521") | ("ES512", "") => Curve::P521,
        ("", _) | (_, "") => {
            return Err(Fault::JwkField(
                "[crv] or [alg] field is not supported for an EC key",
            ));
        }
        _ => {
            return Err(Fault::JwkField(
                "[crv] field specified is not compatible with [alg] for an EC key",
            ));
        }
    };
    let x = [
        "[x] field is missing for an EC key",
        "[x] field is not string for an EC key",
    ];
    let y = [
        "[y] field is missing for an EC key",
        "[y] field is not string for an EC key",
    ];
    let (x, y) = (required(object, "x", x)?, required(object, "y", y)?);
    let (x, y) = decode(x).zip(decode(y)).ok_or(Fault::JwksEcBase64)?;
    let (length, algorithm): (_, &'static dyn VerificationAlgorithm) = match curve {
        Curve::P256 => (32, &signature::ECDSA_P256_SHA256_FIXED),
        Curve::P384 => (48, &signature::ECDSA_P384_SHA384_FIXED),
        Curve::P521 => (66, &signature::ECDSA_P521_SHA512_FIXED),
    };
    let mut point = vec![4];
    for coordinate in [without_zeros(&x), without_zeros(&y)] {
        let zeros = usize::checked_sub(length, coordinate.len()).ok_or(Fault::JwksEcParse)?;
        point.resize(point.len() + zeros, 0);
        point.extend_from_slice(coordinate);
    }
    let key = ParsedPublicKey::new(algorithm, point).map_err(|_| Fault::JwksEcParse)?;
    Ok(Material::Ec(curve, Box::new(key)))
}

fn secret(object: &Map<String, Value>, alg: &str) -> Result<Material, Fault> {
    if !matches!(alg, "" | "HS256" | "HS384" | "HS512") {
        return Err(Fault::JwkField(
            "[alg] does not start with [HS] for an HMAC key",
        ));
    }
    let k = [
        "[k] field is missing for an HMAC key",
        "[k] field is not string for an HMAC key",
    ];
    let key = decode(required(object, "k", k)?).filter(|key| !key.is_empty());
    key.map(Material::Secret).ok_or(Fault::JwksOctBase64)
}

fn okp(object: &Map<String, Value>, alg: &str) -> Result<Material, Fault> {
    if !matches!(alg, "" | "EdDSA") {
        return Err(Fault::JwkField("[alg] is not [EdDSA] for an OKP key"));
    }
    let crv = [
        "[crv] field is missing for an OKP key",
        "[crv] field is not string for an OKP key",
    ];
    if required(object, "crv", crv)? != "Ed25519" {
        return Err(Fault::JwkField(
            "[crv] field is not supported for an OKP key",
        ));
    }
    let x = [
        "[x] field is missing for an OKP key",
        "[x] field is not string for an OKP key",
    ];
    let key = decode(required(object, "x", x)?).ok_or(Fault::JwksOkpBase64)?;
    let key = ParsedPublicKey::new(&signature::ED25519, key).map_err(|_| Fault::JwksOkpLength)?;
    Ok(Material::Ed25519(Box::new(key)))
}

/// The key of a certificate in PEM.
fn rsa_of_certificate(text: &str) -> Option<Vec<u8>> {
    let pem = Pem::iter_from_buffer(text.as_bytes()).next()?.ok()?;
    let certificate = pem.parse_x509().ok()?;
    let key = &certificate.public_key().subject_public_key.data;
    Some(key.to_vec())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// `RSAPublicKey` of RFC 8017: a sequence of two positive integers.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut numbers = integer(modulus);
    numbers.extend(integer(exponent));
    element(0x30, numbers)
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let negative = bytes.first().is_none_or(|first| first & 0x80 != 0);
    let mut value = vec![0; usize::from(negative)];
    value.extend_from_slice(bytes);
    element(2, value)
}

fn element(tag: u8, value: Vec<u8>) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length = without_zeros(&length);
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            // A length has eight bytes at most.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    out.extend(value);
    out
}
