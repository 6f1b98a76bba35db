//! `envoy.filters.listener.http_inspector`: finds out which version of HTTP a plain-text connection speaks.
//! Type URLs: `envoy.extensions.filters.listener.http_inspector.v3.HttpInspector`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/http_inspector>
//! Stats: `http_inspector.{http10_found,http11_found,http2_found,http_not_found,read_error}`.
//! Deviations: a byte that no method can contain ends the inspection at once; Envoy reads on to the end of the line.

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::listener::http_inspector::v3 as pb;

use super::{ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerFilterStatus};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::syntax::is_token;
use crate::server::FactoryContext;
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl ListenerFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.listener.http_inspector"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let pb::HttpInspector {} = config.decode(path)?;
        Ok(Arc::new(Config {
            stats: Stats::new(&cx.scope.scope("http_inspector.")),
        }))
    }
}

stats_group! {
    /// What connections turned out to speak.
    pub struct Stats {
        counter http10_found;
        counter http11_found;
        counter http2_found;
        counter http_not_found;
        counter read_error;
    }
}

struct Config {
    stats: Stats,
}

impl ListenerFilterConfig for Config {
    fn new_connection(&self) -> Box<dyn ListenerFilter> {
        Box::new(HttpInspector {
            stats: self.stats.clone(),
            searched: 0,
        })
    }
}

struct HttpInspector {
    stats: Stats,
    /// How many bytes were looked at and hold no end of line.
    searched: usize,
}

impl ListenerFilter for HttpInspector {
    fn max_read_bytes(&self) -> usize {
        MAX_INSPECT_SIZE
    }

    fn inspect(&mut self, bytes: &[u8], connection: &mut ConnectionInfo) -> ListenerFilterStatus {
        let goes_on = ListenerFilterStatus::Continue { consumed: 0 };
        if connection
            .transport_protocol
            .is_some_and(|protocol| protocol != "raw_buffer")
        {
            return goes_on;
        }
        let found = inspect(bytes, self.searched);
        // What may still be the preface was compared with it, not searched.
        if !PREFACE.starts_with(bytes) {
            self.searched = bytes.len();
        }
        let (counter, protocol): (_, &[u8]) = match found {
            Inspection::Http10 => (self.stats.http10_found(), b"http/1.0"),
            Inspection::Http11 => (self.stats.http11_found(), b"http/1.1"),
            Inspection::Http2 => (self.stats.http2_found(), b"h2c"),
            Inspection::NotHttp => {
                self.stats.http_not_found().inc();
                return goes_on;
            }
            Inspection::NeedMore if bytes.len() >= MAX_INSPECT_SIZE => {
                self.stats.read_error().inc();
                return ListenerFilterStatus::Close("http_inspector: the request line is too long");
            }
            Inspection::NeedMore => return ListenerFilterStatus::NeedMore,
        };
        counter.inc();
        connection.application_protocols = vec![protocol.into()];
        goes_on
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspection {
    /// A request line of HTTP/1.0, or of a version that counts as such.
    Http10,
    /// A request line of HTTP/1.1.
    Http11,
    /// The preface of HTTP/2.
    Http2,
    /// Something else.
    NotHttp,
    /// Cannot be said yet.
    NeedMore,
}

/// Tells HTTP by the first bytes of a connection, of which the first `searched` hold no end of line.
pub fn inspect(bytes: &[u8], searched: usize) -> Inspection {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() {
            Inspection::Http2
        } else {
            Inspection::NeedMore
        };
    }
    let method = bytes
        .iter()
        .position(|byte| !is_token(*byte))
        .unwrap_or(bytes.len());
    if method == 0 || bytes.get(method).is_some_and(|byte| *byte != b' ') {
        return Inspection::NotHttp;
    }
    let end = bytes
        .get(searched..)
        .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'));
    let Some(end) = end else {
        return Inspection::NeedMore;
    };
    inspect_line(&bytes[method..searched + end])
}

/// What follows the method on the request line.
fn inspect_line(rest: &[u8]) -> Inspection {
    let rest = rest.trim_ascii();
    let Some(space) = rest
        .iter()
        .rposition(|byte| *byte == b' ' || *byte == b'\t')
    else {
        // Only a target, or nothing: HTTP/0.9 is none of those that are served.
        return Inspection::NotHttp;
    };
    match &rest[space + 1..] {
        b"HTTP/1.1" => Inspection::Http11,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Inspection::Http10
        }
        _ => Inspection::NotHttp,
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_INSPECT_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::Address;
    use crate::stats::Store;

    fn whole(bytes: &[u8]) -> Inspection {
        inspect(bytes, 0)
    }

    #[test]
    fn request_lines_and_the_preface_are_told_apart() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Inspection::Http11),
            (b"GET / HTTP/1.1\n", Inspection::Http11),
            (b"X-ODD /a%20b HTTP/1.0\r\n", Inspection::Http10),
            (b"GET / HTTP/2.0\r\n", Inspection::Http10),
            (PREFACE, Inspection::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Inspection::Http10),
            (b"GET / HTTP/11\r\n", Inspection::NotHttp),
            (b"GET /\r\n", Inspection::NotHttp),
            (b"\r\nGET / HTTP/1.1\r\n", Inspection::NotHttp),
            (b"\x16\x03\x01\x02\x00", Inspection::NotHttp),
            (b"GET / HT", Inspection::NeedMore),
            (b"PRI * ", Inspection::NeedMore),
            (b"", Inspection::NeedMore),
        ] {
            assert_eq!(
                whole(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_request_line_without_end_closes_the_connection() {
        let store = Store::new(0);
        let config = Config {
            stats: Stats::new(&store.scope("http_inspector.")),
        };
        let address = Address::Pipe("@a".into());
        let mut connection = ConnectionInfo::between(address.clone(), address);
        let mut filter = config.new_connection();
        let line = [b"GET /".as_slice(), &[b'a'; MAX_INSPECT_SIZE]].concat();
        assert_eq!(
            filter.inspect(&line[..100], &mut connection),
            ListenerFilterStatus::NeedMore
        );
        assert!(matches!(
            filter.inspect(&line, &mut connection),
            ListenerFilterStatus::Close(_)
        ));
        assert_eq!(config.stats.read_error().value(), 1);
    }

    #[test]
    fn a_line_that_began_like_the_preface_is_read_to_its_end() {
        let store = Store::new(0);
        let config = Config {
            stats: Stats::new(&store.scope("http_inspector.")),
        };
        let address = Address::Pipe("@a".into());
        let mut connection = ConnectionInfo::between(address.clone(), address);
        let mut filter = config.new_connection();
        let line = b"PRI * HTTP/2.0\r\n\r*";
        for end in 1..line.len() {
            assert_eq!(
                filter.inspect(&line[..end], &mut connection),
                ListenerFilterStatus::NeedMore
            );
        }
        assert_eq!(
            filter.inspect(line, &mut connection),
            ListenerFilterStatus::Continue { consumed: 0 }
        );
    }

    #[test]
    fn tls_is_not_inspected() {
        let store = Store::new(0);
        let config = Config {
            stats: Stats::new(&store.scope("http_inspector.")),
        };
        let address = Address::Pipe("@a".into());
        let mut connection = ConnectionInfo::between(address.clone(), address);
        connection.transport_protocol = Some("tls");
        assert_eq!(
            config.new_connection().inspect(b"\x16", &mut connection),
            ListenerFilterStatus::Continue { consumed: 0 }
        );
        assert!(!config.stats.http_not_found().is_used());
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_answer(line in "(GET|PRI) [ -~]{0,20}(HTTP/1.[01])?\r?\n", cut in 0usize..40) {
            let bytes = line.as_bytes();
            let cut = cut.min(bytes.len());
            let first = inspect(&bytes[..cut], 0);
            let both = if first == Inspection::NeedMore { inspect(bytes, cut) } else { first };
            prop_assert_eq!(both, whole(bytes));
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), searched in 0usize..300) {
            let _ = inspect(&bytes, searched);
        }
    }
}
