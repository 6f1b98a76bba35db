//! OCSP responses that are shown with a certificate of our own (RFC 6960).

use x509_parser::der_parser::asn1_rs::{
    Any, Class, FromDer, GeneralizedTime, Integer, Sequence, Tag,
};

/// What a response says of its certificate, as far as it matters to who shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcspResponse {
    serial: Box<[u8]>,
    /// Seconds since 1970, from which on the response is known to be right.
    this_update: i64,
    /// Seconds since 1970, from which on the response says nothing any more. None: it never did.
    next_update: Option<i64>,
}

impl OcspResponse {
    /// Takes a DER response apart. An error says what is wrong, in Envoy's words where it has some.
    pub fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        const BROKEN: &str = "OCSP Response is not a well-formed ASN.1 SEQUENCE";
        let body = sequence(der).ok_or(BROKEN)?;
        let (rest, status) = Any::from_der(body).map_err(|_| BROKEN)?;
        if status.tag() != Tag::Enumerated {
            return Err("OCSP ResponseStatus is not a well-formed ASN.1 ENUMERATED");
        }
        if status.data != [0] {
            return Err("OCSP response was unsuccessful");
        }
        if rest.is_empty() {
            return Err("OCSP response has no body");
        }
        Self::basic(rest).ok_or("OCSP ResponseBytes is not a well-formed SEQUENCE")?
    }

    /// `[0] { responseType, response OCTET STRING }`
    fn basic(tagged: &[u8]) -> Option<Result<Self, &'static str>> {
        let (_, outer) = Any::from_der(tagged).ok()?;
        let bytes = sequence(outer.data)?;
        let (rest, _kind) = Any::from_der(bytes).ok()?;
        let (_, response) = Any::from_der(rest).ok()?;
        let (_, data) = Any::from_der(sequence(response.data)?).ok()?;
        // version [0], responderID [1] or [2], producedAt, responses
        let mut rest = data.data;
        loop {
            let (next, part) = Any::from_der(rest).ok()?;
            rest = next;
            if part.tag() == Tag::Sequence && part.class() == Class::Universal {
                return Self::responses(part.data);
            }
        }
    }

    fn responses(responses: &[u8]) -> Option<Result<Self, &'static str>> {
        let (others, single) = Sequence::from_der(responses).ok()?;
        if !others.is_empty() {
            return Some(Err("OCSP Response must be for one certificate only"));
        }
        // certID { hash, name, key, serial }, status, thisUpdate, [0] nextUpdate
        let (rest, id) = Sequence::from_der(&single.content).ok()?;
        let mut fields: &[u8] = &id.content;
        for _ in 0..3 {
            fields = Any::from_der(fields).ok()?.0;
        }
        let (_, serial) = Any::from_der(fields).ok()?;
        Integer::try_from(serial.clone()).ok()?;
        let (rest, _status) = Any::from_der(rest).ok()?;
        let (rest, this_update) = GeneralizedTime::from_der(rest).ok()?;
        let next_update = match Any::from_der(rest) {
            Ok((_, next)) if next.class() == Class::ContextSpecific && next.tag() == Tag(0) => {
                let (_, time) = GeneralizedTime::from_der(next.data).ok()?;
                Some(time.utc_datetime().ok()?.unix_timestamp())
            }
            _ => None,
        };
        Some(Ok(Self {
            serial: trim(serial.data).into(),
            this_update: this_update.utc_datetime().ok()?.unix_timestamp(),
            next_update,
        }))
    }

    /// Whether it is about the certificate with this serial number.
    pub fn is_about(&self, serial: &[u8]) -> bool {
        *self.serial == *trim(serial)
    }

    /// From when on it is right, and until when, in seconds since 1970. No end: it has never said anything.
    pub fn validity(&self) -> (i64, Option<i64>) {
        (self.this_update, self.next_update)
    }

    /// How many seconds are left until it cannot be shown any more, 0 if that is so. `now`: seconds since 1970.
    pub fn seconds_left(&self, now: i64) -> u64 {
        let left = self.next_update.map_or(0, |next| next.saturating_sub(now));
        u64::try_from(left).unwrap_or_default()
    }

    /// Whether it can be shown. `now`: seconds since 1970.
    pub fn is_expired(&self, now: i64) -> bool {
        self.next_update.is_none_or(|next| next < now)
    }
}

fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (_, any) = Any::from_der(der).ok()?;
    (any.tag() == Tag::Sequence).then_some(any.data)
}

/// A number without leading zeros.
fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element with this tag.
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let mut out = vec![tag];
        match u8::try_from(body.len()) {
            Ok(length) if length < 128 => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => {
                let length = u16::try_from(body.len()).unwrap();
                out.push(0x82);
                out.extend(length.to_be_bytes());
            }
        }
        out.extend(body);
        out
    }

    fn single(serial: &[u8], next: Option<&str>) -> Vec<u8> {
        let id = der(
            0x30,
            &[
                &der(0x30, &[]),
                &der(4, &[b"n"]),
                &der(4, &[b"k"]),
                &der(2, &[serial]),
            ],
        );
        let next = next.map_or(Vec::new(), |time| {
            der(0xa0, &[&der(0x18, &[time.as_bytes()])])
        });
        der(
            0x30,
            &[
                &id,
                &der(0x80, &[]),
                &der(0x18, &[b"20260101000000Z"]),
                &next,
            ],
        )
    }

    fn response(singles: &[&[u8]]) -> Vec<u8> {
        let data = der(
            0x30,
            &[
                &der(0xa1, &[b"x"]),
                &der(0x18, &[b"20260101000000Z"]),
                &der(0x30, singles),
            ],
        );
        let basic = der(0x30, &[&data]);
        let bytes = der(0x30, &[&der(6, &[&[1, 2]]), &der(4, &[&basic])]);
        der(0x30, &[&der(10, &[&[0]]), &der(0xa0, &[&bytes])])
    }

    #[test]
    fn a_response_is_about_one_serial_number_until_its_time_is_over() {
        let text = response(&[&single(&[0, 0x81, 7], Some("20260201000000Z"))]);
        let parsed = OcspResponse::from_der(&text).unwrap();
        assert!(parsed.is_about(&[0x81, 7]));
        assert!(!parsed.is_about(&[7]));
        let until = 1_769_904_000;
        assert!(!parsed.is_expired(until));
        assert!(parsed.is_expired(until + 1));
        let endless = response(&[&single(&[1], None)]);
        assert!(OcspResponse::from_der(&endless).unwrap().is_expired(0));
    }

    #[test]
    fn what_is_no_good_response_says_so() {
        let error = |der: &[u8]| OcspResponse::from_der(der).unwrap_err();
        assert!(error(b"").contains("SEQUENCE"));
        assert_eq!(
            error(&der(0x30, &[&der(10, &[&[6]])])),
            "OCSP response was unsuccessful"
        );
        assert_eq!(
            error(&der(0x30, &[&der(10, &[&[0]])])),
            "OCSP response has no body"
        );
        let one = single(&[1], None);
        assert_eq!(
            error(&response(&[&one, &one])),
            "OCSP Response must be for one certificate only"
        );
        let good = response(&[&one]);
        for length in 0..good.len() {
            assert!(OcspResponse::from_der(&good[..length]).is_err());
        }
    }
}
