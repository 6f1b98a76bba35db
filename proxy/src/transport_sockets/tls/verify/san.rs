//! `SubjectAltNameMatcher`: which names a certificate must have.

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher;
use pb::subject_alt_name_matcher::SanType;

use crate::config::{ConfigPath, Rejected};
use crate::matchers::StringMatcher;
use crate::x509::{Certificate, SubjectAltName};

/// One name that is good.
#[derive(Debug)]
pub struct SanMatcher {
    kind: Kind,
    value: StringMatcher,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Email,
    Dns,
    Uri,
    Ip,
    Other { oid: Box<str> },
}

impl SanMatcher {
    /// Converts a `SubjectAltNameMatcher`.
    pub fn from_proto(
        proto: pb::SubjectAltNameMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = proto;
        let kind = match path.enumeration::<SanType>("san_type", san_type)? {
            SanType::Unspecified => {
                return Err(path
                    .field("san_type")
                    .reject("must be one of EMAIL, DNS, URI, IP_ADDRESS, OTHER_NAME"));
            }
            SanType::Email => Kind::Email,
            SanType::Dns => Kind::Dns,
            SanType::Uri => Kind::Uri,
            SanType::IpAddress => Kind::Ip,
            SanType::OtherName => Kind::Other {
                oid: path.non_empty("oid", oid)?.into(),
            },
        };
        let value = path.required("matcher", matcher)?;
        Ok(Self {
            kind,
            value: StringMatcher::from_proto(value, &path.field("matcher"))?,
        })
    }

    /// The older form: names of every kind but `otherName`.
    pub(super) fn any_kind(
        proto: matcher::StringMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Vec<Self>, Rejected> {
        [Kind::Dns, Kind::Uri, Kind::Email, Kind::Ip]
            .into_iter()
            .map(|kind| {
                let value = StringMatcher::from_proto(proto.clone(), path)?;
                Ok(Self { kind, value })
            })
            .collect()
    }

    /// Whether it asks for a URI.
    pub(super) fn is_uri(&self) -> bool {
        self.kind == Kind::Uri
    }

    /// Whether the certificate has such a name.
    pub fn matches(&self, certificate: &Certificate) -> bool {
        certificate
            .subject_alt_names
            .iter()
            .any(|name| self.matches_name(name))
    }

    fn matches_name(&self, name: &SubjectAltName) -> bool {
        match (&self.kind, name) {
            (Kind::Dns, SubjectAltName::Dns(name)) => match self.value.as_exact() {
                Some(wanted) => dns_name_matches(wanted, name),
                None => self.value.matches(name.as_bytes()),
            },
            (Kind::Email, SubjectAltName::Email(name)) | (Kind::Uri, SubjectAltName::Uri(name)) => {
                self.value.matches(name.as_bytes())
            }
            (Kind::Ip, SubjectAltName::Ip(address)) => {
                self.value.matches(address.to_string().as_bytes())
            }
            (Kind::Other { oid }, SubjectAltName::OtherName { oid: found, value }) => {
                oid == found && self.value.matches(value.as_bytes())
            }
            _ => false,
        }
    }
}

/// Whether the certificate has one of these names, of whatever kind.
pub(super) fn any_name_matches(certificate: &Certificate, wanted: &[Box<str>]) -> bool {
    certificate.subject_alt_names.iter().any(|name| {
        wanted.iter().any(|wanted| match name {
            SubjectAltName::Dns(name) => dns_name_matches(wanted.as_bytes(), name),
            other => other.to_text() == **wanted,
        })
    })
}

/// Whether the certificate is for the host.
pub(super) fn server_name_matches(certificate: &Certificate, host: &str) -> bool {
    certificate
        .names(SubjectAltName::as_dns)
        .any(|name| dns_name_matches(host.as_bytes(), name))
}

/// RFC 6125 as Envoy reads it: one star stands for the first label of the certificate's name, or for a part of it, unless that is
/// an A-label.
fn dns_name_matches(wanted: &[u8], name: &str) -> bool {
    let name = name.as_bytes();
    if wanted.eq_ignore_ascii_case(name) {
        return true;
    }
    let (Some((pattern, name)), Some((label, wanted))) = (labels(name), labels(wanted)) else {
        return false;
    };
    let is_ace = pattern
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"xn--"));
    !is_ace
        && !name.contains(&b'*')
        && wanted.eq_ignore_ascii_case(name)
        && label_matches(label, pattern)
}

/// The first label of a name, and the others.
fn labels(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = name.iter().position(|byte| *byte == b'.')?;
    Some((name.get(..dot)?, name.get(dot + 1..)?))
}

/// Whether a label fits one in which there is one star.
fn label_matches(label: &[u8], pattern: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let (Some(start), Some(end), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some(rest) = label.len().checked_sub(start.len() + end.len()) else {
        return false;
    };
    let (first, last) = (label.get(..start.len()), label.get(start.len() + rest..));
    first.is_some_and(|first| first.eq_ignore_ascii_case(start))
        && last.is_some_and(|last| last.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(dns_name_matches(b"a.example.com", "*.Example.com"));
        assert!(dns_name_matches(b"A.example.com", "a.example.com"));
        for wanted in ["example.com", "a.b.example.com", "aexample.com"] {
            assert!(
                !dns_name_matches(wanted.as_bytes(), "*.example.com"),
                "{wanted}"
            );
        }
        assert!(!dns_name_matches(b"*.example.com", "a.example.com"));
        assert!(!dns_name_matches(b"a.example.com", "*.*.com"));
        assert!(!dns_name_matches(b"example", "*"));
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_label() {
        for name in ["a*.example.com", "*B.example.com", "a*b.example.com"] {
            assert!(dns_name_matches(b"ab.example.com", name), "{name}");
        }
        for name in ["a*c.example.com", "ab*b.example.com", "*a*.example.com"] {
            assert!(!dns_name_matches(b"ab.example.com", name), "{name}");
        }
        assert!(!dns_name_matches(
            b"xn--ab.example.com",
            "xn--*.example.com"
        ));
    }

    #[test]
    fn kinds_do_not_match_each_other() {
        let dns = SanMatcher {
            kind: Kind::Dns,
            value: StringMatcher::prefix("a"),
        };
        assert!(dns.matches_name(&SubjectAltName::Dns("ab".into())));
        assert!(!dns.matches_name(&SubjectAltName::Uri("ab".into())));
        let ip = SanMatcher {
            kind: Kind::Ip,
            value: StringMatcher::exact("::1"),
        };
        assert!(ip.matches_name(&SubjectAltName::Ip("::1".parse().unwrap())));
        let other = SanMatcher {
            kind: Kind::Other {
                oid: "1.2.3".into(),
            },
            value: StringMatcher::exact("v"),
        };
        let name = |oid: &str| SubjectAltName::OtherName {
            oid: oid.into(),
            value: "v".into(),
        };
        assert!(other.matches_name(&name("1.2.3")));
        assert!(!other.matches_name(&name("1.2.4")));
    }
}
