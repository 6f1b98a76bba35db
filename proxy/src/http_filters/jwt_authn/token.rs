//! A JSON web token, taken apart.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::claims::Claims;
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
#[derive(Debug)]
pub(super) struct Token {
    /// As it was sent.
    text: Box<str>,
    /// Where the payload is in `text`.
    payload_at: Range<usize>,
    pub(super) header: Rc<Header>,
    pub(super) claims: Claims,
    /// The payload as JSON.
    json: Vec<u8>,
    /// The payload, once somebody asks for more than what every token is looked at for.
    payload: OnceCell<Map<String, Value>>,
    pub(super) signature: Vec<u8>,
}

/// The part that says how a token is signed.
#[derive(Debug)]
pub(super) struct Header {
    /// As it was sent.
    text: Box<str>,
    pub(super) algorithm: Algorithm,
    /// Empty: none.
    pub(super) kid: String,
    pub(super) fields: Map<String, Value>,
}

/// The header that came last. All tokens that one key signs have the same.
#[derive(Debug, Default)]
pub(super) struct LastHeader(RefCell<Option<Rc<Header>>>);

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

impl LastHeader {
    fn parse(&self, text: &str) -> Result<Rc<Header>, Fault> {
        let mut last = self.0.borrow_mut();
        if let Some(header) = last.as_ref().filter(|last| *last.text == *text) {
            return Ok(header.clone());
        }
        let header = Rc::new(Header::parse(text)?);
        *last = Some(header.clone());
        Ok(header)
    }
}

impl Header {
    fn parse(text: &str) -> Result<Self, Fault> {
        let json = decode(text).ok_or(Fault::HeaderBase64)?;
        let fields = object(&json).ok_or(Fault::HeaderJson)?;
        let Some(Value::String(algorithm)) = fields.get("alg") else {
            return Err(Fault::HeaderAlg);
        };
        let algorithm = Algorithm::from_name(algorithm).ok_or(Fault::HeaderAlgUnknown)?;
        let kid = match fields.get("kid") {
            None => String::new(),
            Some(Value::String(kid)) => kid.clone(),
            Some(_) => return Err(Fault::HeaderKid),
        };
        Ok(Self {
            text: text.into(),
            algorithm,
            kid,
            fields,
        })
    }
}

impl Token {
    /// Takes a token apart.
    pub(super) fn parse(text: Vec<u8>, headers: &LastHeader) -> Result<Self, Fault> {
        let text = String::from_utf8(text).map_err(|_| Fault::BadFormat)?;
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::BadFormat);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Fault::BadFormat);
        }
        let payload_at = header.len() + 1..header.len() + 1 + payload.len();
        let header = headers.parse(header)?;
        let json = decode(payload).ok_or(Fault::PayloadBase64)?;
        let claims = Claims::read(&json)?;
        let signature = decode(signature).ok_or(Fault::SignatureBase64)?;
        Ok(Self {
            text: text.into(),
            payload_at,
            header,
            claims,
            json,
            payload: OnceCell::new(),
            signature,
        })
    }

    /// As it was sent.
    pub(super) fn text(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Header and payload as they are signed.
    pub(super) fn signed(&self) -> &[u8] {
        &self.text.as_bytes()[..self.payload_at.end]
    }

    /// The payload as it was sent.
    pub(super) fn payload_base64(&self) -> &str {
        &self.text[self.payload_at.clone()]
    }

    /// All claims.
    pub(super) fn payload(&self) -> &Map<String, Value> {
        // It was read as an object before.
        let read = || serde_json::from_slice(&self.json).unwrap_or_default();
        self.payload.get_or_init(read)
    }

    /// The claim at a path, if the payload has it.
    pub(super) fn claim<'a>(&'a self, path: &[Box<str>]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        let first = self.payload().get(&**first)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Token, Fault> {
        Token::parse(text.into(), &LastHeader::default())
    }

    fn token(header: &str, payload: &str) -> Result<Token, Fault> {
        let encode = |text: &str| BASE64_URL.encode(text);
        parse(&format!("{}.{}.c2ln", encode(header), encode(payload)))
    }

    const HEADER: &str = r#"{"alg":"RS256","kid":"k"}"#;

    #[test]
    fn a_token_is_taken_apart() {
        let payload = r#"{"iss":"i","n":{"x":[1]}}"#;
        let token = token(HEADER, payload).unwrap();
        assert_eq!((&*token.claims.issuer, &*token.header.kid), ("i", "k"));
        assert_eq!(token.header.algorithm, Algorithm::Rs256);
        assert_eq!(token.signature, b"sig");
        assert_eq!(token.payload_base64(), BASE64_URL.encode(payload));
        assert_eq!([token.signed(), b".c2ln"].concat(), token.text());
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
            ("eyJhbGciOiJIUzI1NiJ9.e30.?", Fault::SignatureBase64),
        ] {
            assert_eq!(parse(text).err(), Some(fault), "{text}");
        }
        for (header, payload, fault) in [
            ("{}", "{}", Fault::HeaderAlg),
            (r#"{"alg":"none"}"#, "{}", Fault::HeaderAlgUnknown),
            (r#"{"alg":"RS256","kid":1}"#, "{}", Fault::HeaderKid),
            (HEADER, "[]", Fault::PayloadJson),
        ] {
            let found = token(header, payload).err();
            assert_eq!(found, Some(fault), "{header} {payload}");
        }
    }

    #[test]
    fn a_header_is_read_again_once_it_is_another() {
        let headers = LastHeader::default();
        for (header, kid) in [(HEADER, "k"), (HEADER, "k"), (r#"{"alg":"RS256"}"#, "")] {
            let header = BASE64_URL.encode(header);
            assert_eq!(headers.parse(&header).unwrap().kid, kid);
        }
        assert_eq!(headers.parse("e30").err(), Some(Fault::HeaderAlg));
        let header = BASE64_URL.encode(HEADER);
        assert_eq!(headers.parse(&header).unwrap().kid, "k");
    }
}
