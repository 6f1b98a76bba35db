//! The request that is asked about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::http::{Protocol, RequestHead};

/// A request that nobody has sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// `GET`.
    pub method: String,
    /// Whether it comes over TLS.
    pub https: bool,
    /// The host, with the port if one was given.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// More fields, in order.
    pub headers: Vec<(String, String)>,
    /// The listener that is asked, by its name; none: the one that has the port.
    pub listener: Option<String>,
    /// Who sends it. Default: `127.0.0.1:40000`.
    pub source: Option<SocketAddr>,
}

impl Question {
    /// Reads `GET https://shop.example/cart?x=1`; the method may be missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (method, url) = text.split_once(' ').unwrap_or(("GET", text));
        let url = url.trim();
        let (https, rest) = if let Some(rest) = url.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = url.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(format!(
                "\"{url}\" is no URL; legal is METHOD http://HOST[:PORT]/PATH, or https://"
            ));
        };
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            return Err(format!("\"{method}\" is no method"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err(format!("\"{url}\" has no host"));
        }
        let path = match path.as_bytes().first() {
            Some(b'/') => path.to_owned(),
            _ => format!("/{path}"),
        };
        Ok(Self {
            method: method.to_owned(),
            https,
            authority: authority.to_owned(),
            path,
            headers: Vec::new(),
            listener: None,
            source: None,
        })
    }

    /// Adds `name: value`.
    pub fn add_header(&mut self, line: &str) -> Result<(), String> {
        let (name, value) = line
            .split_once(':')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| format!("\"{line}\" is no header; legal is NAME: VALUE"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if name == "host" {
            self.authority = value;
        } else {
            self.headers.push((name, value));
        }
        Ok(())
    }

    /// Says who sends it: an address, with or without a port.
    pub fn set_source(&mut self, text: &str) -> Result<(), String> {
        let source = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 40_000)))
            .map_err(|_| format!("\"{text}\" is no address; legal is IP or IP:PORT"))?;
        self.source = Some(source);
        Ok(())
    }

    pub(super) fn source(&self) -> SocketAddr {
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);
        self.source.unwrap_or(local)
    }

    /// The host without its port and without the brackets of IPv6.
    pub(super) fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port that the URL leads to.
    pub(super) fn port(&self) -> u16 {
        let port = self.authority.rsplit_once(':');
        let port = port.and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// The head as the codec gives it to the connection manager.
    pub(super) fn head(&self) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, self.method.as_bytes());
        head.set_scheme(if self.https { b"https" } else { b"http" });
        head.set_authority(self.authority.as_bytes());
        if !self.method.eq_ignore_ascii_case("CONNECT") {
            head.set_path(self.path.as_bytes());
        }
        for (name, value) in &self.headers {
            head.fields.append(name.as_str(), value.as_bytes());
        }
        head
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let Self {
            method,
            authority,
            path,
            ..
        } = self;
        write!(f, "{method} {scheme}://{authority}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_method_and_a_url() {
        let question = Question::parse("POST https://[::1]:8443/a?b=c").unwrap();
        assert_eq!(
            (&*question.method, question.https, question.host()),
            ("POST", true, "::1")
        );
        assert_eq!((question.port(), &*question.path), (8443, "/a?b=c"));
        let question = Question::parse("http://shop.example?x").unwrap();
        assert_eq!(question.to_string(), "GET http://shop.example/?x");
        assert_eq!(question.port(), 80);
        for bad in ["GET shop.example/", "http:///x", "G T http://a/", ""] {
            assert!(Question::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_and_sources_are_read() {
        let mut question = Question::parse("http://a/").unwrap();
        question.add_header("X-Foo:  bar ").unwrap();
        question.add_header("Host: b").unwrap();
        assert_eq!(question.headers, [("x-foo".to_owned(), "bar".to_owned())]);
        assert_eq!(question.authority, "b");
        assert!(question.add_header("nothing").is_err());
        question.set_source("10.1.2.3").unwrap();
        assert_eq!(question.source().to_string(), "10.1.2.3:40000");
        assert!(question.set_source("here").is_err());
    }
}
