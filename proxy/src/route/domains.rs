//! Finds the virtual host of a request by its authority.
//!
//! The order is Envoy's: the exact name, the longest suffix wildcard (`*.example.com`), the longest prefix wildcard
//! (`example.*`), then `*`. Case does not matter.

use std::collections::HashMap;

use smallvec::SmallVec;

/// Virtual hosts by domain.
#[derive(Debug, Default)]
pub(super) struct Domains {
    exact: Texts,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<u32>,
    /// Takes no notice of the port of the authority.
    ignore_port: bool,
}

/// Texts without their asterisk by length, the longest first.
#[derive(Debug, Default)]
struct Wildcards(Vec<(usize, Texts)>);

/// Texts in lower case, each with its virtual host.
#[derive(Debug, Default)]
struct Texts(HashMap<Box<[u8]>, u32>);

/// The domain is there already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Duplicate;

impl Domains {
    pub(super) fn new(ignore_port: bool) -> Self {
        Self {
            ignore_port,
            ..Self::default()
        }
    }

    pub(super) fn insert(&mut self, domain: &str, virtual_host: u32) -> Result<(), Duplicate> {
        let domain = domain.to_ascii_lowercase().into_bytes();
        let old = match &*domain {
            b"*" => self.any.replace(virtual_host),
            [b'*', suffix @ ..] => self.suffixes.insert(suffix, virtual_host),
            [prefix @ .., b'*'] => self.prefixes.insert(prefix, virtual_host),
            _ => self.exact.0.insert(domain.into(), virtual_host),
        };
        old.map_or(Ok(()), |_| Err(Duplicate))
    }

    /// Gives back what growing took too much.
    pub(super) fn shrink(&mut self) {
        self.exact.0.shrink_to_fit();
        for (_, map) in self.suffixes.0.iter_mut().chain(&mut self.prefixes.0) {
            map.0.shrink_to_fit();
        }
    }

    /// The virtual host for an authority.
    pub(super) fn find(&self, authority: Option<&[u8]>) -> Option<u32> {
        if self.exact.0.is_empty() && self.suffixes.0.is_empty() && self.prefixes.0.is_empty() {
            return self.any;
        }
        let mut host = authority?;
        if self.ignore_port {
            host = without_port(host);
        }
        let lower: SmallVec<[u8; 128]>;
        if host.iter().any(u8::is_ascii_uppercase) {
            lower = host.iter().map(u8::to_ascii_lowercase).collect();
            host = &lower;
        }
        self.exact
            .0
            .get(host)
            .copied()
            .or_else(|| {
                self.suffixes
                    .find(|len| (len < host.len()).then(|| &host[host.len() - len..]))
            })
            .or_else(|| {
                self.prefixes
                    .find(|len| (len < host.len()).then(|| &host[..len]))
            })
            .or(self.any)
    }
}

impl Wildcards {
    fn insert(&mut self, text: &[u8], virtual_host: u32) -> Option<u32> {
        let at = self.0.partition_point(|(len, _)| *len > text.len());
        if self.0.get(at).is_none_or(|(len, _)| *len != text.len()) {
            self.0.insert(at, (text.len(), Texts::default()));
        }
        self.0[at].1.0.insert(text.into(), virtual_host)
    }

    /// `part` gives the part of the host with that length, if the host is longer than it.
    fn find<'h>(&self, part: impl Fn(usize) -> Option<&'h [u8]>) -> Option<u32> {
        self.0
            .iter()
            .find_map(|(len, texts)| texts.0.get(part(*len)?).copied())
    }
}

/// The host without the port after it; brackets stay around an IPv6 address.
pub(crate) fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| matches!(b, b':' | b']')) {
        Some(colon) if host[colon] == b':' => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(ignore_port: bool, list: &[&str]) -> Domains {
        let mut domains = Domains::new(ignore_port);
        for (number, domain) in (0..).zip(list) {
            domains.insert(domain, number).unwrap();
        }
        domains
    }

    #[test]
    fn exact_comes_before_suffix_before_prefix_before_any_and_longer_before_shorter() {
        let domains = domains(
            false,
            &[
                "*",
                "foo.*",
                "foo.bar.*",
                "*.example.com",
                "*-bar.example.com",
                "foo.example.com",
                "[::1]:80",
            ],
        );
        for (host, expected) in [
            ("foo.example.com", 5),
            ("FOO.Example.COM", 5),
            ("a.example.com", 3),
            ("a-bar.example.com", 4),
            (".example.com", 0),
            ("foo.bar.example.org", 2),
            ("foo.org", 1),
            ("foo.", 0),
            ("x", 0),
            ("", 0),
            ("foo.example.com:80", 1),
            ("[::1]:80", 6),
            ("[::1]", 0),
        ] {
            assert_eq!(
                domains.find(Some(host.as_bytes())),
                Some(expected),
                "{host}"
            );
        }
        assert_eq!(domains.find(None), None);
    }

    #[test]
    fn without_other_domains_any_needs_no_authority() {
        assert_eq!(domains(false, &["*"]).find(None), Some(0));
        assert_eq!(domains(false, &[]).find(Some(b"a")), None);
    }

    #[test]
    fn the_port_of_the_authority_can_be_ignored() {
        let domains = domains(true, &["a.com", "[::1]", "b.com:80"]);
        for (host, expected) in [
            ("a.com:8080", Some(0)),
            ("a.com", Some(0)),
            ("[::1]:80", Some(1)),
            ("[::1]", Some(1)),
            ("b.com:80", None),
        ] {
            assert_eq!(domains.find(Some(host.as_bytes())), expected, "{host}");
        }
    }

    #[test]
    fn a_domain_may_stand_once_whatever_its_case() {
        for domain in ["*", "a.com", "*.a.com", "a.*"] {
            let mut domains = domains(false, &[domain]);
            assert_eq!(
                domains.insert(&domain.to_uppercase(), 1),
                Err(Duplicate),
                "{domain}"
            );
        }
    }
}
