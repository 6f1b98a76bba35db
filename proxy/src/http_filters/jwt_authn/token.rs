//! A JSON web token, taken apart.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::json::object;
use super::status::Fault;

/// base64url without padding, whose last digit may say more than is left to say.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A token of which nothing is verified yet.
#[derive(Debug, PartialEq)]
pub(super) struct Token {
    /// Header and payload as they are signed.
    pub(super) signed: Box<str>,
    /// Where the payload begins in `signed`.
    payload_at: usize,
    pub(super) header: Map<String, Value>,
    pub(super) payload: Map<String, Value>,
    pub(super) algorithm: Algorithm,
    /// Empty: none.
    pub(super) kid: String,
    pub(super) issuer: String,
    pub(super) subject: String,
    /// Seconds since 1970; 0: none.
    pub(super) not_before: u64,
    /// Seconds since 1970; 0: none.
    pub(super) expires: u64,
    pub(super) audiences: Vec<String>,
    pub(super) signature: Vec<u8>,
}

/// The algorithms that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

impl Algorithm {
    const ALL: [(&'static str, Self); 13] = [
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("EdDSA", Self::EdDsa),
    ];

    /// The algorithm of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, known)| *known == self);
        found.map_or("", |(name, _)| name)
    }
}

impl Token {
    /// Takes a token apart.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::BadFormat)?;
        let mut parts = text.split('.');
        let (Some(header_text), Some(payload_text), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::BadFormat);
        };
        if header_text.is_empty() || payload_text.is_empty() || signature.is_empty() {
            return Err(Fault::BadFormat);
        }
        let header = decode(header_text).ok_or(Fault::HeaderBase64)?;
        let header = object(&header).ok_or(Fault::HeaderJson)?;
        let Some(Value::String(algorithm)) = header.get("alg") else {
            return Err(Fault::HeaderAlg);
        };
        let algorithm = Algorithm::from_name(algorithm).ok_or(Fault::HeaderAlgUnknown)?;
        let kid = string(&header, "kid", Fault::HeaderKid)?;
        let payload = decode(payload_text).ok_or(Fault::PayloadBase64)?;
        let payload = object(&payload).ok_or(Fault::PayloadJson)?;
        let issuer = string(&payload, "iss", Fault::IssNotString)?;
        let subject = string(&payload, "sub", Fault::SubNotString)?;
        integer(
            &payload,
            "iat",
            [Fault::IatNotInteger, Fault::IatNotPositive],
        )?;
        let not_before = integer(
            &payload,
            "nbf",
            [Fault::NbfNotInteger, Fault::NbfNotPositive],
        )?;
        let expires = integer(
            &payload,
            "exp",
            [Fault::ExpNotInteger, Fault::ExpNotPositive],
        )?;
        string(&payload, "jti", Fault::JtiNotString)?;
        let audiences = strings(&payload, "aud").ok_or(Fault::AudNotString)?;
        let signed = &text[..header_text.len() + 1 + payload_text.len()];
        Ok(Self {
            signed: signed.into(),
            payload_at: header_text.len() + 1,
            algorithm,
            kid,
            issuer,
            subject,
            not_before,
            expires,
            audiences,
            signature: decode(signature).ok_or(Fault::SignatureBase64)?,
            header,
            payload,
        })
    }

    /// The payload as it was sent.
    pub(super) fn payload_base64(&self) -> &str {
        &self.signed[self.payload_at..]
    }

    /// Whether it is valid at `now`, in seconds since 1970, for clocks that are this many seconds apart.
    pub(super) fn check_time(&self, now: u64, skew: u64) -> Result<(), Fault> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Fault::NotYetValid);
        }
        if self.expires != 0 && now > self.expires.saturating_add(skew) {
            return Err(Fault::Expired);
        }
        Ok(())
    }

    /// The claim at a path, if the payload has it.
    pub(super) fn claim<'a>(&'a self, path: &[Box<str>]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        let first = self.payload.get(&**first)?;
        rest.iter().try_fold(first, |value, key| value.get(&**key))
    }
}

/// Decodes base64url, with all of its padding or none of it. As in Envoy, white space within does not count.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let end = digits.iter().rposition(|byte| *byte != b'=');
    let (digits, padding) = digits.split_at(end.map_or(0, |at| at + 1));
    if !padding.is_empty() && (digits.len() + padding.len()) % 4 != 0 {
        return None;
    }
    BASE64_URL.decode(digits).ok()
}

/// A string that may be missing; then it is empty.
fn string(object: &Map<String, Value>, name: &str, fault: Fault) -> Result<String, Fault> {
    match object.get(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(fault),
    }
}

/// A number that may be missing; then it is 0. Fractions are cut off.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked first"
)]
fn integer(
    object: &Map<String, Value>,
    name: &str,
    [not_integer, not_positive]: [Fault; 2],
) -> Result<u64, Fault> {
    let Some(value) = object.get(name) else {
        return Ok(0);
    };
    let Some(number) = value.as_f64() else {
        return Err(not_integer);
    };
    if number < 0.0 || number >= u64::MAX as f64 {
        return Err(not_positive);
    }
    Ok(number as u64)
}

/// A string, or a list of them; empty if it is missing.
fn strings(object: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    match object.get(name) {
        None => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> Result<Token, Fault> {
        let encode = |text: &str| BASE64_URL.encode(text);
        let text = format!("{}.{}.c2ln", encode(header), encode(payload));
        Token::parse(text.as_bytes())
    }

    const HEADER: &str = r#"{"alg":"RS256","kid":"k"}"#;

    #[test]
    fn a_token_is_taken_apart() {
        let payload = r#"{"iss":"i","sub":"s","exp":20,"nbf":10.9,"aud":"a","n":{"x":[1]}}"#;
        let token = token(HEADER, payload).unwrap();
        assert_eq!(
            (&*token.issuer, &*token.subject, &*token.kid),
            ("i", "s", "k")
        );
        assert_eq!((token.not_before, token.expires), (10, 20));
        assert_eq!(token.audiences, ["a"]);
        assert_eq!(token.signature, b"sig");
        assert_eq!(token.payload_base64(), BASE64_URL.encode(payload));
        let path = ["n".into(), "x".into()];
        assert_eq!(token.claim(&path), Some(&serde_json::json!([1])));
        assert_eq!(token.claim(&["n".into(), "y".into()]), None);
    }

    #[test]
    fn each_malformed_part_has_its_fault() {
        for (text, fault) in [
            ("a.b", Fault::BadFormat),
            ("a.b.c.d", Fault::BadFormat),
            ("..", Fault::BadFormat),
            ("a.b.c", Fault::HeaderBase64),
            ("YWJj.b.c", Fault::HeaderJson),
        ] {
            assert_eq!(Token::parse(text.as_bytes()), Err(fault), "{text}");
        }
        for (header, payload, fault) in [
            ("{}", "{}", Fault::HeaderAlg),
            (r#"{"alg":"none"}"#, "{}", Fault::HeaderAlgUnknown),
            (r#"{"alg":"RS256","kid":1}"#, "{}", Fault::HeaderKid),
            (HEADER, "[]", Fault::PayloadJson),
            (HEADER, r#"{"iss":1}"#, Fault::IssNotString),
            (HEADER, r#"{"exp":"1"}"#, Fault::ExpNotInteger),
            (HEADER, r#"{"nbf":-1}"#, Fault::NbfNotPositive),
            (HEADER, r#"{"aud":[1]}"#, Fault::AudNotString),
        ] {
            assert_eq!(token(header, payload), Err(fault), "{header} {payload}");
        }
    }

    #[test]
    fn times_are_checked_with_the_skew_of_clocks() {
        let token = token(HEADER, r#"{"nbf":100,"exp":200}"#).unwrap();
        assert_eq!(token.check_time(39, 60), Err(Fault::NotYetValid));
        assert_eq!(token.check_time(40, 60), Ok(()));
        assert_eq!(token.check_time(260, 60), Ok(()));
        assert_eq!(token.check_time(261, 60), Err(Fault::Expired));
    }
}
