//! The claims that every token is looked at for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::json::{Names, Skipped, SkippedVisitor, Text, twice};
use super::status::Fault;

/// The registered claims of a payload.
#[derive(Debug, PartialEq)]
pub(super) struct Claims {
    /// Empty: none.
    pub(super) issuer: Box<str>,
    /// Empty: none.
    pub(super) subject: Box<str>,
    /// Seconds since 1970; 0: none.
    pub(super) not_before: u64,
    /// Seconds since 1970; 0: none.
    pub(super) expires: u64,
    pub(super) audiences: Vec<Box<str>>,
}

impl Claims {
    /// Reads them, and makes sure that the rest is JSON in which no name stands twice. Nothing else of it is kept.
    pub(super) fn read(json: &[u8]) -> Result<Self, Fault> {
        let Unchecked {
            iss,
            sub,
            aud,
            exp,
            nbf,
            iat,
            jti,
        } = serde_json::from_slice(json).map_err(|_| Fault::PayloadJson)?;
        // In the order in which Envoy looks at them: the first fault counts.
        let issuer = iss.text(Fault::IssNotString)?;
        let subject = sub.text(Fault::SubNotString)?;
        iat.seconds(Fault::IatNotInteger, Fault::IatNotPositive)?;
        let not_before = nbf.seconds(Fault::NbfNotInteger, Fault::NbfNotPositive)?;
        let expires = exp.seconds(Fault::ExpNotInteger, Fault::ExpNotPositive)?;
        jti.text(Fault::JtiNotString)?;
        Ok(Self {
            issuer: issuer.into(),
            subject: subject.into(),
            not_before,
            expires,
            audiences: aud.texts().ok_or(Fault::AudNotString)?,
        })
    }

    /// Whether they hold at `now`, in seconds since 1970, for clocks that are this many seconds apart.
    pub(super) fn check_time(&self, now: u64, skew: u64) -> Result<(), Fault> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Fault::NotYetValid);
        }
        if self.expires != 0 && now > self.expires.saturating_add(skew) {
            return Err(Fault::Expired);
        }
        Ok(())
    }
}

/// The claims as they stand there.
#[derive(Default)]
struct Unchecked<'a> {
    iss: Claim<'a>,
    sub: Claim<'a>,
    aud: Claim<'a>,
    exp: Claim<'a>,
    nbf: Claim<'a>,
    iat: Claim<'a>,
    jti: Claim<'a>,
}

#[derive(Default)]
enum Claim<'a> {
    #[default]
    Missing,
    Text(Cow<'a, str>),
    Texts(Vec<Box<str>>),
    Number(f64),
    /// What no registered claim can be.
    Other,
}

impl<'a> Claim<'a> {
    /// Empty where it is missing.
    fn text(self, fault: Fault) -> Result<Cow<'a, str>, Fault> {
        match self {
            Self::Missing => Ok(Cow::Borrowed("")),
            Self::Text(text) => Ok(text),
            _ => Err(fault),
        }
    }

    /// One text is a list of one, and none an empty list.
    fn texts(self) -> Option<Vec<Box<str>>> {
        match self {
            Self::Missing => Some(Vec::new()),
            Self::Text(text) => Some(vec![text.into()]),
            Self::Texts(texts) => Some(texts),
            Self::Number(_) | Self::Other => None,
        }
    }

    /// 0 where it is missing. Fractions are cut off.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked first"
    )]
    fn seconds(self, not_integer: Fault, not_positive: Fault) -> Result<u64, Fault> {
        match self {
            Self::Missing => Ok(0),
            Self::Number(number) if number < 0.0 || number >= u64::MAX as f64 => Err(not_positive),
            Self::Number(number) => Ok(number as u64),
            _ => Err(not_integer),
        }
    }
}

impl<'de> Deserialize<'de> for Unchecked<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PayloadVisitor)
    }
}

struct PayloadVisitor;

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Unchecked<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut claims = Unchecked::default();
        let mut names = Names::default();
        while let Some(Text(name)) = entries.next_key()? {
            let claim = match &*name {
                "iss" => &mut claims.iss,
                "sub" => &mut claims.sub,
                "aud" => &mut claims.aud,
                "exp" => &mut claims.exp,
                "nbf" => &mut claims.nbf,
                "iat" => &mut claims.iat,
                "jti" => &mut claims.jti,
                _ => {
                    let Skipped = entries.next_value()?;
                    if !names.insert(name) {
                        return Err(twice());
                    }
                    continue;
                }
            };
            if !matches!(claim, Claim::Missing) {
                return Err(twice());
            }
            *claim = entries.next_value()?;
        }
        Ok(claims)
    }
}

impl<'de> Deserialize<'de> for Claim<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ClaimVisitor)
    }
}

struct ClaimVisitor;

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = Claim<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Claim::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Claim::Other)
    }

    #[allow(clippy::cast_precision_loss, reason = "Envoy's numbers are floats")]
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Claim::Number(value as f64))
    }

    #[allow(clippy::cast_precision_loss, reason = "Envoy's numbers are floats")]
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Claim::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Claim::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Claim::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Claim::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut texts = Some(Vec::new());
        while let Some(item) = items.next_element()? {
            match (item, &mut texts) {
                (Claim::Text(text), Some(texts)) => texts.push(text.into()),
                _ => texts = None,
            }
        }
        Ok(texts.map_or(Claim::Other, Claim::Texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        let Skipped = SkippedVisitor.visit_map(entries)?;
        Ok(Claim::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_claims_are_read() {
        let json =
            br#"{"iss":"i","sub":"s\u0031","exp":20,"nbf":10.9,"aud":["a","b"],"n":{"x":[1]}}"#;
        let expected = Claims {
            issuer: "i".into(),
            subject: "s1".into(),
            not_before: 10,
            expires: 20,
            audiences: vec!["a".into(), "b".into()],
        };
        assert_eq!(Claims::read(json), Ok(expected));
        let one = Claims::read(br#"{"aud":"a"}"#).unwrap();
        assert_eq!(one.audiences, [Box::from("a")]);
    }

    #[test]
    fn each_wrong_claim_has_its_fault() {
        for (json, fault) in [
            ("[]", Fault::PayloadJson),
            ("{} x", Fault::PayloadJson),
            (r#"{"iss":1}"#, Fault::IssNotString),
            (r#"{"sub":null}"#, Fault::SubNotString),
            (r#"{"iat":"1"}"#, Fault::IatNotInteger),
            (r#"{"exp":"1"}"#, Fault::ExpNotInteger),
            (r#"{"exp":1e30}"#, Fault::ExpNotPositive),
            (r#"{"nbf":-1}"#, Fault::NbfNotPositive),
            (r#"{"jti":{}}"#, Fault::JtiNotString),
            (r#"{"aud":[1]}"#, Fault::AudNotString),
            (r#"{"aud":["a",[]]}"#, Fault::AudNotString),
            // The order is not that of the text.
            (r#"{"aud":1,"exp":"1","iss":1}"#, Fault::IssNotString),
        ] {
            assert_eq!(Claims::read(json.as_bytes()), Err(fault), "{json}");
        }
    }

    #[test]
    fn no_name_may_stand_twice() {
        let many: String = (0..100).map(|n| format!(r#""c{n}":{n},"#)).collect();
        assert!(Claims::read(format!(r#"{{{many}"x":1}}"#).as_bytes()).is_ok());
        for json in [
            r#"{"iss":"a","iss":"a"}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"x":1,"\u0078":1}"#,
            r#"{"x":[{"a":1,"a":1}]}"#,
            r#"{"aud":{"a":1,"a":1}}"#,
            r#"{"aud":[{"a":1,"a":1}]}"#,
            &format!(r#"{{{many}"c7":1}}"#),
            &format!(r#"{{{many}"c99":1}}"#),
        ] {
            assert_eq!(
                Claims::read(json.as_bytes()),
                Err(Fault::PayloadJson),
                "{json}"
            );
        }
    }

    #[test]
    fn times_are_checked_with_the_skew_of_clocks() {
        let claims = Claims::read(br#"{"nbf":100,"exp":200}"#).unwrap();
        assert_eq!(claims.check_time(39, 60), Err(Fault::NotYetValid));
        assert_eq!(claims.check_time(40, 60), Ok(()));
        assert_eq!(claims.check_time(260, 60), Ok(()));
        assert_eq!(claims.check_time(261, 60), Err(Fault::Expired));
    }
}
