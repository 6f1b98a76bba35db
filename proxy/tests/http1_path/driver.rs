//! Drives the bytes of an HTTP/1 client and of an HTTP/1 upstream through the whole data path, in memory and on a clock that
//! does not run: connection manager, route, router, pool.
//!
//! The upstream reads what is forwarded with a parser of its own that knows one reading of HTTP/1 only. What it cannot read,
//! or a head that the proxy did not write, is a desync.

#[path = "../data_path/mod.rs"]
mod data_path;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger::LocalBoxFuture;
use outrigger::server::{LocalInfo, ServerContext};
use outrigger::upstream::pool::{ConnectError, Connected, Connector, SocketSettings};
use outrigger::upstream::{ClusterManager, Host};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use data_path::{DataPath, NoResolver, connected};

/// What a client and an upstream do.
#[derive(Debug, Clone)]
pub(crate) struct Input<'a> {
    /// Options of the connection manager, by bits.
    pub(crate) options: u8,
    /// How many bytes either side sends at once. At least 1.
    pub(crate) step: usize,
    /// What the client sends before it ends its side.
    pub(crate) request: &'a [u8],
    /// What the upstream answers to the first request; to all others it answers well.
    pub(crate) response: &'a [u8],
}

/// What has happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Requests that the upstream has read.
    pub(crate) requests: usize,
    /// What the client has got.
    pub(crate) answer: Vec<u8>,
}

impl<'a> Input<'a> {
    /// Takes the bytes of a fuzzer apart: options, step, two bytes of length, request, response.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(4)?;
        let length = usize::from(head[2]) << 8 | usize::from(head[3]);
        let (request, response) = rest.split_at(length.min(rest.len()));
        Some(Self {
            options: head[0],
            step: usize::from(head[1]) * 16 + 1,
            request,
            response,
        })
    }
}

/// Runs one connection to its end. Panics at a desync and at a hang.
pub(crate) fn drive(input: &Input<'_>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let run = local.run_until(async {
        timeout(Duration::from_secs(24 * 3600), connection(input))
            .await
            .expect("the connection ends")
    });
    runtime.block_on(run)
}

async fn connection(input: &Input<'_>) -> Outcome {
    let upstream = Rc::new(Upstream {
        response: input.response.to_vec(),
        step: input.step,
        ids: RefCell::default(),
        requests: Cell::new(0),
    });
    let path = data_path(input.options, &upstream);
    let (client, serving) = path.connect();
    let served = spawn_local(serving);
    let (mut read, mut write) = tokio::io::split(client);
    let pieces: Vec<Vec<u8>> = input
        .request
        .chunks(input.step)
        .map(<[u8]>::to_vec)
        .collect();
    let sending = spawn_local(async move {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        // Time for what was asked to be answered.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = write.shutdown().await;
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    sending.abort();
    drop(read);
    served.await.expect("the connection manager does not panic");
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "the answer is no response: {:?}",
        String::from_utf8_lossy(&answer)
    );
    Outcome {
        requests: upstream.requests.get(),
        answer,
    }
}

/// The data path in front of an upstream.
fn data_path(options: u8, upstream: &Rc<Upstream>) -> DataPath {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let clusters = ClusterManager::new(server.clone(), 1, Rc::new(NoResolver));
    let connector = Rc::new(InMemory(upstream.clone()));
    let texts = [&cluster_yaml(options)[..], &manager_yaml(options)];
    DataPath::new(server, clusters, connector, 1, texts)
}

fn cluster_yaml(options: u8) -> String {
    let trailers = options & 1 != 0;
    format!(
        "{{ name: c, connect_timeout: 1s, load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 10.0.0.1, port_value: 80 }} }} }} }}] }}] }},
           typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http_protocol_options: {{ enable_trailers: {trailers} }} }} }} }} }}"
    )
}

fn manager_yaml(options: u8) -> String {
    let on = |bit: u8| options & bit != 0;
    format!(
        "stat_prefix: s
codec_type: HTTP1
use_remote_address: true
proxy_100_continue: {}
request_timeout: 60s
upgrade_configs: {}
normalize_path: {}
http_protocol_options: {{ enable_trailers: {}, accept_http_10: {}, default_host_for_http_10: h, allow_chunked_length: {}, allow_custom_methods: {} }}
stream_error_on_invalid_http_message: {}
http_filters: [{{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
route_config:
  virtual_hosts:
  - name: v
    domains: [\"*\"]
    routes:
    - match: {{ prefix: /local }}
      direct_response: {{ status: 200, body: {{ inline_string: here }} }}
    - match: {{ connect_matcher: {{}} }}
      route: {{ cluster: c }}
    - match: {{ prefix: / }}
      route: {{ cluster: c }}
",
        on(2),
        if on(4) { "[{ upgrade_type: websocket }, { upgrade_type: CONNECT }]" } else { "[]" },
        on(8),
        on(1),
        on(16),
        on(32),
        on(64),
        on(128),
    )
}

/// The upstream, and what it has seen.
#[derive(Debug)]
struct Upstream {
    response: Vec<u8>,
    step: usize,
    /// The ids that the proxy gave to requests: each of them comes once.
    ids: RefCell<HashSet<Vec<u8>>>,
    requests: Cell<usize>,
}

/// What a strict reader finds at the start of what was forwarded.
enum Read {
    /// Not all of a request is there.
    More,
    /// A request of this many bytes; whether it asks for a tunnel.
    Request(usize, bool),
}

impl Upstream {
    async fn serve(self: Rc<Self>, mut stream: DuplexStream) {
        let mut bytes = Vec::new();
        let mut noted = false;
        loop {
            match strict(&bytes, |id| {
                if !std::mem::replace(&mut noted, true) {
                    let mut ids = self.ids.borrow_mut();
                    assert!(
                        ids.insert(id.to_vec()),
                        "a request came twice: {:?}",
                        String::from_utf8_lossy(&bytes)
                    );
                    self.requests.set(self.requests.get() + 1);
                }
            }) {
                Read::More => {}
                Read::Request(length, tunnel) => {
                    bytes.drain(..length);
                    noted = false;
                    let first = self.requests.get() == 1;
                    let good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    let answer = if first { &self.response[..] } else { good };
                    for piece in answer.chunks(self.step) {
                        if stream.write_all(piece).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    if first || tunnel {
                        // Whatever that answer was, nobody can tell where it ended.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        return;
                    }
                    continue;
                }
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
    }
}

/// Reads one request as RFC 9112 writes it, without any leniency. `head` is told the id of a head that is whole.
fn strict(bytes: &[u8], mut head: impl FnMut(&[u8])) -> Read {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Read::More;
    };
    let text = &bytes[..end];
    let wrong = |what: &str| -> ! { panic!("{what}: {:?}", String::from_utf8_lossy(bytes)) };
    let mut lines = Lines(text);
    let Some(first) = lines.next() else {
        wrong("no first line")
    };
    let parts: Vec<&[u8]> = first.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else {
        wrong("a first line that is none")
    };
    if method.is_empty() || target.is_empty() || !first.iter().all(|b| (0x20..0x7f).contains(b)) {
        wrong("a first line with what does not belong there")
    }
    let (mut length, mut chunked, mut hosts, mut upgrade) = (None, false, 0, false);
    let mut id = None;
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            wrong("a line without colon")
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) {
            wrong("a name that is none")
        }
        if line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            wrong("a field with what ends one")
        }
        match &name.to_ascii_lowercase()[..] {
            b"content-length" => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(value).unwrap_or_default();
                match (digits, text.parse::<u64>(), length) {
                    (true, Ok(value), None) => length = Some(value),
                    _ => wrong("a length that is none, or a second one"),
                }
            }
            b"transfer-encoding" if value == b"chunked" && !chunked => chunked = true,
            b"transfer-encoding" => wrong("a coding other than chunked"),
            b"host" => hosts += 1,
            b"upgrade" => upgrade = true,
            b"x-request-id" if id.is_none() => id = Some(value),
            b"x-request-id" => wrong("two ids"),
            _ => {}
        }
    }
    if hosts != 1 {
        wrong("not one host")
    }
    if chunked && length.is_some() {
        wrong("two framings")
    }
    match id {
        Some(id) if id.len() == 36 => head(id),
        _ => wrong("a head that the proxy did not write"),
    }
    let body = &bytes[end + 4..];
    if upgrade || method == b"CONNECT" {
        // Nothing may follow before it is granted.
        assert!(
            body.is_empty(),
            "bytes behind a tunnel that nobody has granted: {:?}",
            String::from_utf8_lossy(bytes)
        );
        return Read::Request(end + 4, true);
    }
    if chunked {
        return match chunks(body) {
            Some(length) => Read::Request(end + 4 + length, false),
            None => Read::More,
        };
    }
    let length = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX);
    if body.len() < length {
        Read::More
    } else {
        Read::Request(end + 4 + length, false)
    }
}

/// The length of a chunked body; none: not all of it is there.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).unwrap_or("not text");
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| plain);
        let size = size.unwrap_or_else(|| panic!("a chunk size that is none: {digits:?}"));
        at += line + 2;
        if size == 0 {
            // Trailers end with an empty line.
            if bytes[at..].starts_with(b"\r\n") {
                return Some(at + 2);
            }
            return find(&bytes[at..], b"\r\n\r\n").map(|end| at + end + 4);
        }
        let end = at.checked_add(size).and_then(|end| end.checked_add(2))?;
        let rest = bytes.get(at + size..end)?;
        assert_eq!(rest, b"\r\n", "a chunk that does not end");
        at = end;
    }
}

struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let end = find(self.0, b"\r\n").unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(2..).unwrap_or_default();
        Some(line)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Connects to the upstream.
#[derive(Debug)]
struct InMemory(Rc<Upstream>);

impl Connector for InMemory {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let upstream = self.0.clone();
        Box::pin(async move {
            let (near, far) = duplex(64 * 1024);
            spawn_local(upstream.serve(far));
            Ok(connected(near))
        })
    }
}
