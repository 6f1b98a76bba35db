//! `envoy.config.route.v3.CookieMatcher`, and how cookies are read.

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use super::StringMatcher;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, Known};

/// A condition on one cookie of the request.
#[derive(Debug, Clone)]
pub struct CookieMatcher {
    name: Box<str>,
    text: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Converts a `CookieMatcher`.
    pub fn from_proto(proto: pb::CookieMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::CookieMatcher {
            name,
            string_match,
            invert_match,
        } = proto;
        let name = path.non_empty("name", name);
        let text = path
            .required("string_match", string_match)
            .and_then(|text| StringMatcher::from_proto(text, &path.field("string_match")));
        Ok(Self {
            name: name?.into(),
            text: text?,
            invert: invert_match,
        })
    }

    /// Whether the cookie meets the condition. A missing cookie does not, so that the inverted condition is met.
    pub fn matches(&self, fields: &Fields) -> bool {
        let met = cookie_value(fields, self.name.as_bytes())
            .is_some_and(|value| self.text.matches(value));
        met != self.invert
    }
}

/// The value of the first cookie called `name`, without the double quotes around it.
pub fn cookie_value<'a>(fields: &'a Fields, name: &[u8]) -> Option<&'a [u8]> {
    fields
        .get_all(&Known::Cookie)
        .flat_map(|header| header.split(|b| *b == b';'))
        .find_map(|cookie| {
            let equals = cookie.iter().position(|b| *b == b'=')?;
            let (key, value) = (&cookie[..equals], &cookie[equals + 1..]);
            (key.trim_ascii_start() == name).then(|| unquoted(value))
        })
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cookie_of_a_name_counts_in_any_of_the_headers() {
        let mut fields = Fields::new();
        fields.append(Known::Cookie, "broken; a=1;b=\"two\"");
        fields.append(Known::Cookie, "a=3; c=x=y");
        for (name, expected) in [
            ("a", Some("1")),
            ("b", Some("two")),
            ("c", Some("x=y")),
            ("broken", None),
            ("d", None),
        ] {
            assert_eq!(
                cookie_value(&fields, name.as_bytes()),
                expected.map(str::as_bytes),
                "{name}"
            );
        }
    }

    #[test]
    fn a_missing_cookie_meets_only_an_inverted_condition() {
        for (invert, value, expected) in [
            (false, None, false),
            (true, None, true),
            (false, Some("k=v"), true),
            (true, Some("k=v"), false),
            (true, Some("k=w"), true),
        ] {
            let matcher = CookieMatcher {
                name: "k".into(),
                text: StringMatcher::exact("v"),
                invert,
            };
            let mut fields = Fields::new();
            if let Some(value) = value {
                fields.append(Known::Cookie, value);
            }
            assert_eq!(matcher.matches(&fields), expected, "{invert} {value:?}");
        }
    }
}
