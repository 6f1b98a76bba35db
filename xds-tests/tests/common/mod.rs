//! What the stories with a proxy of their own share: one listener, one route, one cluster, an access log.
#![allow(
    unreachable_pub,
    reason = "a program exports nothing; `pub` marks what other files use"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_xds_tests::backend::{Backend, Kind};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// The longest time that one thing may take to happen, on a machine that does much else.
const SOON: Duration = Duration::from_secs(30);

/// Runs a story on a runtime of its own.
pub fn tell(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(120), story).await.unwrap()
    });
}

/// Envoy and Outrigger.
pub fn both() -> [PathBuf; 2] {
    [binaries::envoy().unwrap(), binaries::outrigger().unwrap()]
}

/// A proxy with a backend.
pub struct Running {
    pub proxy: Proxy,
    pub address: SocketAddr,
    pub log: PathBuf,
    _backend: Backend,
}

impl Running {
    /// Starts `binary` for a story, with a backend of this kind.
    pub async fn start(binary: &Path, story: &str, backend: Kind, flags: &[&str]) -> Self {
        let side = binary.file_name().unwrap().to_string_lossy().into_owned();
        let folder = binaries::scratch(&format!("{story}-{side}")).unwrap();
        let backend = Backend::start(backend).await.unwrap();
        let log = folder.join("access.log");
        let yaml = bootstrap(backend.address().port(), &log);
        let proxy = Proxy::start_with(binary, &yaml, &folder, flags)
            .await
            .unwrap();
        let address = proxy.listener("ingress").unwrap();
        Self {
            proxy,
            address,
            log,
            _backend: backend,
        }
    }

    /// The value of a counter or gauge.
    #[allow(dead_code, reason = "not every story reads stats")]
    pub async fn stat(&self, name: &str) -> u64 {
        let (_, page) = admin_get(self.proxy.admin_address(), "/stats")
            .await
            .unwrap();
        let start = format!("{name}: ");
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(start.as_str()));
        value
            .unwrap_or_else(|| panic!("no stat {name}"))
            .parse()
            .unwrap()
    }

    /// Waits until a stat has this value.
    #[allow(dead_code, reason = "not every story reads stats")]
    pub async fn settles(&self, name: &str, value: u64) {
        let deadline = Instant::now() + SOON;
        loop {
            let now = self.stat(name).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} and not {value}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the access log has this line.
    pub async fn logs(&self, line: &str) {
        let deadline = Instant::now() + SOON;
        let read = || std::fs::read_to_string(&self.log).unwrap_or_default();
        while !read().contains(line) {
            assert!(
                Instant::now() < deadline,
                "{} lacks {line}: {}",
                self.log.display(),
                read()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A bootstrap with a listener `ingress`, and a cluster with the backend on this port.
fn bootstrap(port: u16, log: &Path) -> String {
    let log = log.display();
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format:
                text_format_source: {{ inline_string: "%REQ(:path)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n" }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: backend }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: backend
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
"#
    )
}
