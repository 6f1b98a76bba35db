//! A case: one behaviour, as a title, a configuration, two scripts and what Envoy shows.
//!
//! Every case has a listener, an access log and clusters of its own inside the bootstrap of its theme, so the cases
//! of a theme run at the same time. In YAML and in expectations these words stand for the case's own names:
//! `@NAME` is the cluster (and its backend) called NAME, `@port:NAME` that backend's port, `@stat` the stat prefix,
//! `@log` the access log's path. `@http/`, `@net/`, `@listen/` and `@up/` shorten the type URLs of filters:
//! `"@type": "@http/cors.v3.Cors"`. `@say(WORD)` is a direct response, by which a case tells which route was taken.

use std::time::Duration;

pub use outrigger_xds_tests::backend::{Act, Kind};
pub use outrigger_xds_tests::backend::{Response, Script};
pub use outrigger_xds_tests::client::{Protocol, Request, Step};
use outrigger_xds_tests::message::Field;

/// Which protocol runs a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downstream {
    Http1,
    Http2,
    /// The same body runs twice, over each protocol.
    Both,
    /// HTTP/2 frames, as bytes.
    Frames,
}

impl Downstream {
    pub fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Http1 => &[Protocol::Http1],
            Self::Http2 => &[Protocol::Http2],
            Self::Frames => &[Protocol::Frames],
            Self::Both => &[Protocol::Http1, Protocol::Http2],
        }
    }
}

/// What the listener of a case is made of.
#[derive(Clone, Debug)]
pub enum Listener {
    /// An HTTP connection manager.
    Http,
    /// Filter chains (and other fields of a listener) given in full.
    Custom(String),
}

/// One behaviour. Made by [`case`].
#[derive(Clone, Debug)]
pub struct Case {
    pub title: &'static str,
    pub listener: Listener,
    pub listener_fields: String,
    pub hcm: String,
    pub filters: String,
    pub router: String,
    pub route_config: String,
    pub vhosts: String,
    pub access_log: Option<String>,
    pub cluster_fields: String,
    pub more_clusters: String,
    pub backends: Vec<(&'static str, Kind)>,
    pub downstream: Downstream,
    pub steps: Vec<Step>,
    pub log_lines: Option<usize>,
    pub stats: Vec<String>,
    pub runtime: Vec<(&'static str, u32)>,
    pub bootstrap: String,
    pub shared_clusters: String,
    pub pages: Vec<(String, String)>,
    pub in_order: bool,
    pub any_order: bool,
    /// Whether requests are compared without the connection that they came on.
    pub connections_aside: bool,
    pub ends_somehow: bool,
    pub digits_aside: bool,
    pub shows: Vec<String>,
    pub lacks: Vec<String>,
    pub deviates: Option<&'static str>,
}

/// A case with an HTTP listener that sends everything to the cluster `@backend`, whose backend answers 200.
pub fn case(title: &'static str) -> Case {
    Case {
        title,
        listener: Listener::Http,
        listener_fields: String::new(),
        hcm: String::new(),
        filters: String::new(),
        router: String::new(),
        route_config: String::new(),
        vhosts: vhost("- match: { prefix: / }\n  route: { cluster: @backend }"),
        access_log: None,
        cluster_fields: String::new(),
        more_clusters: String::new(),
        backends: vec![("backend", Kind::Http1(vec![reply(ok("hello"))]))],
        downstream: Downstream::Http1,
        steps: Vec::new(),
        log_lines: None,
        runtime: vec![],
        bootstrap: String::new(),
        shared_clusters: String::new(),
        stats: Vec::new(),
        pages: Vec::new(),
        in_order: false,
        any_order: false,
        connections_aside: false,
        ends_somehow: false,
        digits_aside: false,
        shows: Vec::new(),
        lacks: Vec::new(),
        deviates: None,
    }
}

/// Configuration.
impl Case {
    /// Whether a stat is read that is of the whole proxy, and not of something with a name of the case.
    pub fn reads_stats_of_all(&self) -> bool {
        self.stats.iter().any(|name| !name.contains('@'))
    }

    /// The routes of the only virtual host.
    pub fn routes(mut self, yaml: &str) -> Self {
        self.vhosts = vhost(yaml);
        self
    }

    /// One route for everything, with these fields beside `cluster`, and these around it.
    pub fn route(self, action: &str, around: &str) -> Self {
        let mut yaml = String::from("- match: { prefix: / }\n  route:\n    cluster: @backend\n");
        yaml.push_str(&indent(action, 4));
        yaml.push_str(&indent(around, 2));
        self.routes(&yaml)
    }

    /// All virtual hosts.
    pub fn vhosts(mut self, yaml: &str) -> Self {
        self.vhosts = dedent(yaml);
        self
    }

    /// More fields of the route configuration.
    pub fn route_config(mut self, yaml: &str) -> Self {
        self.route_config.push_str(&dedent(yaml));
        self
    }

    /// More fields of the HTTP connection manager.
    pub fn hcm(mut self, yaml: &str) -> Self {
        self.hcm.push_str(&dedent(yaml));
        self
    }

    /// HTTP filters before the router.
    pub fn filters(mut self, yaml: &str) -> Self {
        self.filters.push_str(&dedent(yaml));
        self
    }

    /// Fields of the router.
    pub fn router(mut self, yaml: &str) -> Self {
        self.router.push_str(&dedent(yaml));
        self
    }

    /// Makes clients on the loopback interface internal ones, whose `x-envoy-` headers count.
    pub fn internal(self) -> Self {
        self.hcm("use_remote_address: true\ninternal_address_config: { cidr_ranges: [{ address_prefix: 127.0.0.0, prefix_len: 8 }] }")
    }

    /// Makes clients on the loopback interface external ones.
    pub fn external(self) -> Self {
        self.hcm("use_remote_address: true\ninternal_address_config: { cidr_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }")
    }

    /// More fields of the listener.
    pub fn listener(mut self, yaml: &str) -> Self {
        self.listener_fields.push_str(&dedent(yaml));
        self
    }

    /// A listener given in full, but for name and address.
    pub fn raw_listener(mut self, yaml: &str) -> Self {
        self.listener = Listener::Custom(dedent(yaml));
        self
    }

    /// The network filters of the only filter chain.
    pub fn network(self, yaml: &str) -> Self {
        let filters = indent(yaml, 2);
        self.raw_listener(&format!("filter_chains:\n- filters:\n{filters}"))
    }

    /// Access loggers in place of the one that all cases have. Without `@log` nothing is compared.
    pub fn access_log(mut self, yaml: &str) -> Self {
        self.access_log = Some(dedent(yaml));
        self
    }

    /// The usual access logger, with this text format and the text of a filter.
    pub fn log_format(self, format: &str, filter: &str) -> Self {
        let filter = if filter.is_empty() {
            String::new()
        } else {
            format!("  filter: {filter}\n")
        };
        self.access_log(&format!(
            "- name: file\n{filter}  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    \
             path: @log\n    log_format: {{ text_format_source: {{ inline_string: \"{format}\\n\" }} }}\n"
        ))
    }

    /// More fields of the cluster `@backend`.
    pub fn cluster(mut self, yaml: &str) -> Self {
        self.cluster_fields.push_str(&dedent(yaml));
        self
    }

    /// Whole clusters beside those of the backends.
    pub fn clusters(mut self, yaml: &str) -> Self {
        self.more_clusters.push_str(&dedent(yaml));
        self
    }

    /// Clusters for all cases of the theme: where several cases have the same ones, they are there once.
    pub fn shared_clusters(mut self, yaml: &str) -> Self {
        self.shared_clusters.push_str(&dedent(yaml));
        self
    }

    /// More fields of the bootstrap, for all cases of the theme: where several cases have the same ones, they are there once.
    pub fn bootstrap(mut self, yaml: &str) -> Self {
        self.bootstrap.push_str(&dedent(yaml));
        self
    }

    /// Makes the cluster `@backend` speak HTTP/2, and its backend too.
    pub fn upstream_http2(mut self) -> Self {
        for (_, kind) in &mut self.backends {
            if let Kind::Http1(scripts) = kind {
                *kind = Kind::Http2(std::mem::take(scripts));
            }
        }
        self.protocol_options("explicit_http_config: { http2_protocol_options: {} }")
    }

    /// `HttpProtocolOptions` of the cluster `@backend`.
    pub fn protocol_options(self, yaml: &str) -> Self {
        let fields = indent(yaml, 4);
        self.cluster(&format!(
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n{fields}"
        ))
    }
}

/// Backends.
impl Case {
    /// What the backend answers, request by request; the last answer serves all that follow.
    pub fn replies(mut self, scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts: Vec<_> = scripts.into_iter().collect();
        match &mut self.backends[0].1 {
            Kind::Http2(old) => *old = scripts,
            kind => *kind = Kind::Http1(scripts),
        }
        self
    }

    /// What the backend always answers.
    pub fn reply(self, script: Script) -> Self {
        self.replies([script])
    }

    /// Another kind of backend for `@backend`.
    pub fn backend(mut self, kind: Kind) -> Self {
        self.backends[0].1 = kind;
        self
    }

    /// A further backend, with its cluster `@NAME`.
    pub fn and_backend(mut self, name: &'static str, kind: Kind) -> Self {
        self.backends.push((name, kind));
        self
    }
}

/// The client.
impl Case {
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Sends a request and reads its response.
    pub fn send(self, request: Request) -> Self {
        self.step(Step::Request(request))
    }

    /// A GET without further fields.
    pub fn get(self, path: &str) -> Self {
        self.send(get(path))
    }

    /// Sends these bytes and reads a response.
    pub fn raw(self, bytes: &str) -> Self {
        self.bytes(bytes).step(Step::Read {
            to_head: bytes.starts_with("HEAD "),
        })
    }

    /// Sends these bytes.
    pub fn bytes(self, bytes: &str) -> Self {
        self.step(Step::Send(bytes.as_bytes().to_vec()))
    }

    pub fn read(self) -> Self {
        self.step(Step::Read { to_head: false })
    }

    pub fn wait(self, ms: u64) -> Self {
        self.step(Step::Wait(Duration::from_millis(ms)))
    }

    /// Waits before everything else.
    pub fn after(mut self, ms: u64) -> Self {
        let wait = Step::Wait(Duration::from_millis(ms));
        self.steps.insert(0, wait);
        self
    }

    /// The following steps are on the connection of this number.
    pub fn on(self, connection: usize) -> Self {
        self.step(Step::On(connection))
    }

    /// Runs over HTTP/2 instead of HTTP/1.
    pub fn http2(mut self) -> Self {
        self.downstream = Downstream::Http2;
        self
    }

    /// Runs over HTTP/1, and over HTTP/2 again.
    pub fn both(mut self) -> Self {
        self.downstream = Downstream::Both;
        self
    }
}

/// What is compared and expected.
impl Case {
    /// The number of access-log lines to wait for; else one for each final response.
    pub fn logs(mut self, lines: usize) -> Self {
        self.log_lines = Some(lines);
        self
    }

    /// Counters and gauges to compare, by their full names.
    pub fn stats<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.stats.extend(names.map(str::to_owned));
        self
    }

    /// Sets a runtime key, for all cases of the theme.
    pub fn runtime(mut self, key: &'static str, value: u32) -> Self {
        self.runtime.push((key, value));
        self
    }

    /// Compares the lines of an admin page that start so. Numbers that measure time or bytes are put aside.
    pub fn page(mut self, path: &str, start: &str) -> Self {
        self.pages.push((path.into(), start.into()));
        self
    }

    /// Compares fields in the order of the wire, where otherwise only the order within one name counts.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Compares requests without the number of the connection that they came on, where it depends on how fast a backend is.
    pub fn connections_aside(mut self) -> Self {
        self.connections_aside = true;
        self
    }

    /// Compares the lines without their order, where it is random by design.
    pub fn any_order(mut self) -> Self {
        self.any_order = true;
        self
    }

    /// Puts `N` in place of every number in the access log.
    pub fn digits_aside(mut self) -> Self {
        self.digits_aside = true;
        self
    }

    /// Takes a reset for a close, where it only says whether bytes were left unread when the proxy closed.
    pub fn ends_somehow(mut self) -> Self {
        self.ends_somehow = true;
        self
    }

    /// Lines that Envoy's side must have. A `*` at the end stands for anything.
    pub fn shows<const N: usize>(mut self, lines: [&str; N]) -> Self {
        self.shows.extend(lines.map(str::to_owned));
        self
    }

    /// Lines that Envoy's side must not have. A `*` at the end stands for anything.
    pub fn lacks<const N: usize>(mut self, lines: [&str; N]) -> Self {
        self.lacks.extend(lines.map(str::to_owned));
        self
    }

    /// Outrigger is known to differ, for this reason. The story fails when it does not differ any more.
    #[allow(dead_code, reason = "there may be no deviation at the moment")]
    pub fn deviates(mut self, reason: &'static str) -> Self {
        self.deviates = Some(reason);
        self
    }
}

/// A GET to `example.com`.
pub fn get(path: &str) -> Request {
    request("GET", path)
}

/// A request to `example.com` without body.
pub fn request(method: &str, path: &str) -> Request {
    Request {
        method: method.into(),
        path: path.into(),
        authority: "example.com".into(),
        fields: vec![],
        body: None,
        trailers: vec![],
        chunked: false,
    }
}

/// Changes to a request.
pub trait With: Sized {
    fn host(self, authority: &str) -> Self;
    fn field(self, name: &str, value: &str) -> Self;
    fn body(self, body: &str) -> Self;
    fn chunked(self) -> Self;
    fn trailer(self, name: &str, value: &str) -> Self;
}

impl With for Request {
    fn host(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    fn body(mut self, body: &str) -> Self {
        self.body = Some(body.into());
        self
    }

    fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.into(), value.into()));
        self
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> Response {
    status(200, body)
}

/// A response with this status and body.
pub fn status(status: u16, body: &str) -> Response {
    Response {
        status,
        fields: vec![],
        body: body.into(),
        trailers: vec![],
        chunked: false,
    }
}

/// A response with these fields, given as `name: value` lines.
pub fn with_fields(mut response: Response, fields: &str) -> Response {
    response.fields = fields_of(fields);
    response
}

/// A response with these trailers, given as `name: value` lines.
pub fn with_trailers(mut response: Response, fields: &str) -> Response {
    response.trailers = fields_of(fields);
    response
}

fn fields_of(lines: &str) -> Vec<Field> {
    lines
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, value)| (name.into(), value.trim().into()))
        .collect()
}

/// A script that answers in the backend's protocol.
pub fn reply(response: Response) -> Script {
    Script {
        early: false,
        acts: vec![Act::Respond(response)],
    }
}

/// A script that answers with these bytes.
pub fn raw(bytes: &str) -> Script {
    acts([send(bytes)])
}

/// A script of these acts.
pub fn acts<const N: usize>(acts: [Act; N]) -> Script {
    Script {
        early: false,
        acts: acts.into(),
    }
}

/// A script of these acts, which begins before the request's body has come.
pub fn early<const N: usize>(acts: [Act; N]) -> Script {
    Script {
        early: true,
        acts: acts.into(),
    }
}

pub fn send(bytes: &str) -> Act {
    Act::Send(bytes.as_bytes().to_vec())
}

pub fn pause(ms: u64) -> Act {
    Act::Wait(Duration::from_millis(ms))
}

/// A script that answers 200 after this time.
pub fn late(ms: u64, body: &str) -> Script {
    acts([pause(ms), Act::Respond(ok(body))])
}

/// A backend that always gives this answer.
pub fn http1(script: Script) -> Kind {
    Kind::Http1(vec![script])
}

fn vhost(routes: &str) -> String {
    format!(
        "- name: vhost\n  domains: [\"*\"]\n  routes:\n{}",
        indent(routes, 2)
    )
}

/// Takes away the indentation that all lines share, and blank lines; ends with a line end. A literal of several lines
/// starts with a line end.
pub fn dedent(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let shared = lines()
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    lines()
        .map(|line| format!("{}\n", &line[shared..]))
        .collect()
}

/// The text dedented, and then indented by this much.
pub fn indent(text: &str, by: usize) -> String {
    dedent(text)
        .lines()
        .map(|line| format!("{:by$}{line}\n", ""))
        .collect()
}
