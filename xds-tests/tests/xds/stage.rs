//! The stage: a control plane, backends, and a proxy that is told of nothing but the control plane.
#![allow(
    clippy::disallowed_methods,
    reason = "who works on a story says by the environment which side to play"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Backend, Kind as BackendKind, Response, Script};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::plane::{Kind, Plane};
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use serde_json::Value;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Connection, Reply};

/// The longest time that a story may take with one proxy.
const STORY: Duration = Duration::from_secs(180);
/// The longest time that one thing of a story may take to happen.
pub const SOON: Duration = Duration::from_secs(30);

/// How the proxy reaches the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One aggregated stream, state of the world.
    Ads,
    /// One aggregated stream, incremental.
    DeltaAds,
    /// A stream for each subscription, state of the world.
    Grpc,
    /// A stream for each subscription, incremental.
    DeltaGrpc,
    /// Polling.
    Rest,
}

/// Aggregated streams of both kinds.
pub const AGGREGATED: [Transport; 2] = [Transport::Ads, Transport::DeltaAds];
/// Streams of all kinds.
pub const STREAMS: [Transport; 4] = [
    Transport::Ads,
    Transport::DeltaAds,
    Transport::Grpc,
    Transport::DeltaGrpc,
];

/// Who is on the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Envoy,
    Outrigger,
}

/// Where a story plays with one proxy.
pub struct Stage {
    pub side: Side,
    pub plane: Plane,
    pub transport: Transport,
    /// Flags of the proxy.
    pub flags: Vec<String>,
    /// More YAML for the bootstrap, at its top.
    pub more: String,
    /// More YAML for `dynamic_resources.ads_config`, each field followed by a comma.
    pub ads_more: String,
    /// `dynamic_resources.ads_config.grpc_services`.
    pub ads_services: String,
    /// More clusters of the bootstrap: lines that start with two spaces and a dash.
    pub clusters: String,
    /// The story's files.
    pub folder: PathBuf,
    binary: PathBuf,
    proxy: Option<Proxy>,
    backends: Vec<Backend>,
    notes: Vec<String>,
}

/// Plays a story with both proxies over each transport, and compares the notes.
pub fn tell(name: &str, transports: &[Transport], story: impl AsyncFn(&mut Stage)) {
    for transport in transports {
        let envoy = play(name, *transport, Side::Envoy, &story);
        let outrigger = play(name, *transport, Side::Outrigger, &story);
        if let (Some(envoy), Some(outrigger)) = (envoy, outrigger) {
            let (envoy, outrigger) = (envoy.join("\n"), outrigger.join("\n"));
            assert!(
                envoy == outrigger,
                "{name} over {transport:?} differs\n--- Envoy\n{envoy}\n--- Outrigger\n{outrigger}"
            );
        }
    }
}

/// Plays a story with Outrigger alone; `why` says why Envoy cannot play it.
pub fn tell_alone(
    name: &str,
    transports: &[Transport],
    why: &str,
    story: impl AsyncFn(&mut Stage),
) {
    println!("{name}: not with Envoy: {why}");
    for transport in transports {
        play(name, *transport, Side::Outrigger, &story);
    }
}

fn play(
    name: &str,
    transport: Transport,
    side: Side,
    story: &impl AsyncFn(&mut Stage),
) -> Option<Vec<String>> {
    let only = std::env::var("XDS_SIDE").unwrap_or_default();
    if !only.is_empty() && !format!("{side:?}").eq_ignore_ascii_case(&only) {
        return None;
    }
    println!("{name}: {side:?} over {transport:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let notes = LocalSet::new().block_on(&runtime, async {
        let mut stage = Stage::set(name, transport, side).await;
        let told = timeout(STORY, story(&mut stage)).await;
        assert!(told.is_ok(), "{name} with {side:?} did not end in time");
        if let Some(proxy) = &mut stage.proxy
            && let Some(obituary) = proxy.obituary()
        {
            panic!("{obituary}");
        }
        assert_eq!(stage.plane.complaints(), Vec::<String>::new());
        stage.notes
    });
    Some(notes)
}

impl Stage {
    async fn set(name: &str, transport: Transport, side: Side) -> Self {
        let binary = match side {
            Side::Envoy => binaries::envoy(),
            Side::Outrigger => binaries::outrigger(),
        };
        Self {
            side,
            plane: Plane::start().await.unwrap(),
            transport,
            flags: vec!["--drain-time-s".into(), "1".into()],
            more: String::new(),
            ads_more: "set_node_on_first_message_only: true,".into(),
            ads_services: "[{ envoy_grpc: { cluster_name: plane } }]".into(),
            clusters: String::new(),
            folder: binaries::scratch(&format!("xds-{name}-{transport:?}-{side:?}")).unwrap(),
            binary: binary.unwrap(),
            proxy: None,
            backends: vec![],
            notes: vec![],
        }
    }

    /// A backend that answers everything with this text.
    pub async fn backend(&mut self, says: &str) -> SocketAddr {
        let response = Response {
            status: 200,
            fields: vec![],
            body: says.into(),
            trailers: vec![],
            chunked: false,
        };
        let script = Script {
            early: false,
            acts: vec![Act::Respond(response)],
        };
        self.backend_of(BackendKind::Http1(vec![script])).await
    }

    /// A backend of this kind.
    pub async fn backend_of(&mut self, kind: BackendKind) -> SocketAddr {
        let backend = Backend::start(kind).await.unwrap();
        let address = backend.address();
        self.backends.push(backend);
        address
    }

    /// The `ConfigSource` that leads to the control plane, in YAML.
    pub fn source(&self) -> String {
        self.source_with("")
    }

    /// The same with more fields, each followed by a comma.
    pub fn source_with(&self, more: &str) -> String {
        let specifier = match self.transport {
            Transport::Ads | Transport::DeltaAds => "ads: {}".into(),
            Transport::Grpc => api_source("GRPC"),
            Transport::DeltaGrpc => api_source("DELTA_GRPC"),
            Transport::Rest => "api_config_source: { api_type: REST, transport_api_version: V3, cluster_names: [plane-rest], refresh_delay: 0.2s }".into(),
        };
        format!("{{ {more} {specifier}, resource_api_version: V3 }}")
    }

    /// Starts the proxy, and does not wait for its configuration.
    pub async fn start(&mut self) {
        let bootstrap = self.bootstrap();
        self.start_on(&bootstrap).await;
    }

    /// The same with a bootstrap of the story's own.
    pub async fn start_on(&mut self, bootstrap: &str) {
        self.proxy = None;
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let proxy = Proxy::launch(&self.binary, bootstrap, &self.folder, &flags).await;
        self.proxy = Some(proxy.unwrap_or_else(|error| panic!("{:?}: {error}", self.side)));
    }

    /// Starts the proxy on a bootstrap that it refuses, and says how.
    pub async fn refuses_to_start(&mut self) -> String {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let bootstrap = self.bootstrap();
        match Proxy::launch(&self.binary, &bootstrap, &self.folder, &flags).await {
            Ok(_) => panic!("{:?} starts", self.side),
            Err(error) => error.to_string(),
        }
    }

    /// Starts the proxy, and waits until it is ready.
    pub async fn run(&mut self) {
        self.start().await;
        self.ready().await;
    }

    /// Waits until the proxy is ready.
    pub async fn ready(&mut self) {
        let proxy = self.proxy.as_mut().expect("the proxy was started");
        let ready = timeout(SOON, proxy.wait_ready()).await;
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{:?}: {error}", self.side),
            Err(_) => panic!(
                "{:?} is not ready: {}\n{}",
                self.side,
                proxy.last_words(),
                self.plane.minutes()
            ),
        }
    }

    /// Whether the proxy says that it is ready.
    pub async fn is_ready(&self) -> bool {
        matches!(admin_get(self.admin(), "/ready").await, Ok((200, _)))
    }

    /// The bootstrap: an admin interface, the way to the control plane, and where clusters and listeners come from.
    pub fn bootstrap(&self) -> String {
        let source = self.source();
        let ads = match self.transport {
            Transport::Ads => self.ads("GRPC"),
            Transport::DeltaAds => self.ads("DELTA_GRPC"),
            _ => String::new(),
        };
        let (grpc, rest) = (self.plane.address(), self.plane.rest_address());
        format!(
            "node: {{ id: story, cluster: stories }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  {ads}
  cds_config: {source}
  lds_config: {source}
static_resources:
  clusters:
{}
  - name: plane-rest
    connect_timeout: 1s
    load_assignment: {{ cluster_name: plane-rest, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}
{}
{}
",
            grpc_cluster("plane", grpc),
            rest.port(),
            self.clusters,
            self.more
        )
    }

    fn ads(&self, api_type: &str) -> String {
        format!(
            "ads_config: {{ api_type: {api_type}, {} transport_api_version: V3, grpc_services: {} }}",
            self.ads_more, self.ads_services
        )
    }

    pub fn admin(&self) -> SocketAddr {
        self.proxy().admin_address()
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the proxy was started")
    }

    /// The address of a listener, once it is there.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(address) = self.proxy().listener_by_now(name).await {
                return address;
            }
            assert!(
                Instant::now() < deadline,
                "no listener {name}; {}\n{}",
                self.proxy().last_words(),
                self.plane.minutes()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a listener has gone.
    pub async fn no_listener(&self, name: &str) {
        let deadline = Instant::now() + SOON;
        while self.proxy().listener_by_now(name).await.is_some() {
            assert!(Instant::now() < deadline, "the listener {name} stays");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A GET on a connection of its own.
    pub async fn get(&self, listener: &str) -> Reply {
        let address = self.listener(listener).await;
        let mut connection = Connection::open(address).await;
        let reply = connection.try_get("/").await;
        reply.unwrap_or_else(|error| Reply {
            status: 0,
            body: error,
        })
    }

    /// Waits until a listener answers with this.
    pub async fn answers(&self, listener: &str, status: u16, body: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let reply = self.get(listener).await;
            if reply.status == status && (body.is_empty() || reply.body == body) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{listener} answers {reply:?}, not {status} {body:?}\n{}\n{}",
                self.proxy().last_words(),
                self.plane.minutes()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A page of the admin interface.
    pub async fn page(&self, path: &str) -> String {
        let (status, page) = admin_get(self.admin(), path).await.unwrap();
        assert_eq!(status, 200, "{path}: {page}");
        page
    }

    /// A counter or gauge; `None` if there is none.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        let page = self.page("/stats").await;
        let start = format!("{name}: ");
        let value = page.lines().find_map(|line| line.strip_prefix(&start))?;
        value.parse().ok()
    }

    /// Waits until a stat has this value.
    pub async fn settles(&self, name: &str, value: u64) {
        let deadline = Instant::now() + SOON;
        loop {
            let now = self.stat(name).await;
            if now == Some(value) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} is {now:?} and not {value}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Notes what both sides must have the same.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Notes stats.
    pub async fn note_stats(&mut self, names: &[&str]) {
        for name in names {
            let value = self.stat(name).await;
            self.note(format!("{name}: {value:?}"));
        }
    }

    /// Notes all requests for a kind.
    pub fn note_asks(&mut self, kind: Kind) {
        for ask in self.plane.asks(kind) {
            self.note(ask.line());
        }
    }

    /// Notes what the configuration dump has of dynamic clusters, listeners and routes: names, versions, states.
    pub async fn note_dump(&mut self) {
        let dump: Value = serde_json::from_str(&self.page("/config_dump").await).unwrap();
        let mut lines = vec![];
        for section in dump["configs"].as_array().unwrap() {
            for field in ["dynamic_active_clusters", "dynamic_warming_clusters"] {
                for cluster in section[field].as_array().into_iter().flatten() {
                    // Ours tells what was refused, too; Envoy tells that of listeners alone.
                    let refused = cluster.get("error_state").is_some();
                    assert!(!refused || self.side == Side::Outrigger);
                    let name = &cluster["cluster"]["name"];
                    if !name.is_null() {
                        lines.push(format!("{field} {name} {}", cluster["version_info"]));
                    }
                }
            }
            for listener in section["dynamic_listeners"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let mut line = format!("listener {}", listener["name"]);
                for state in ["active_state", "warming_state", "draining_state"] {
                    if let Some(state_of) = listener.get(state) {
                        line += &format!(" {state} {}", state_of["version_info"]);
                    }
                }
                if let Some(error) = listener.get("error_state") {
                    line += &format!(" error_state {}", error["version_info"]);
                }
                lines.push(line);
            }
            let routes = section["dynamic_route_configs"].as_array();
            for route in routes.into_iter().flatten() {
                let name = &route["route_config"]["name"];
                lines.push(format!("route {name} {}", route["version_info"]));
            }
        }
        lines.sort();
        self.notes.extend(lines);
    }

    /// Writes a file where a watching proxy sees a whole new one: beside it first, then moved.
    pub fn move_into_place(&self, path: &Path, content: &str) {
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, path).unwrap();
    }
}

/// A static cluster that speaks HTTP/2, for [`Stage::clusters`].
pub fn grpc_cluster(name: &str, address: SocketAddr) -> String {
    format!(
        "  - name: {name}
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }}",
        address.ip(),
        address.port()
    )
}

fn api_source(api_type: &str) -> String {
    format!(
        "api_config_source: {{ api_type: {api_type}, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}"
    )
}
