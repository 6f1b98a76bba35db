//! The bootstrap of gRPC's own clients and servers: `GRPC_XDS_BOOTSTRAP` names the file.

use std::path::Path;

use serde_json::json;

use super::Agent;
use crate::translate::grpc::SERVER_LISTENER;
use crate::translate::secret::PROVIDER;

/// How often gRPC looks for new certificates. The shortest certificate is renewed after five seconds.
const REFRESH: &str = "2s";

impl Agent {
    pub(super) fn grpc_bootstrap(&self) -> String {
        let files = json!({
            "certificate_file": self.path("certificate.pem"),
            "private_key_file": self.path("key.pem"),
            "ca_certificate_file": self.path("roots.pem"),
            "refresh_interval": REFRESH,
        });
        let (server, credentials) = match (&self.socket, &self.roots) {
            (Some(socket), _) => (unix_target(socket), json!({"type": "insecure"})),
            (None, None) => (self.server.clone(), json!({"type": "insecure"})),
            (None, Some(_)) => (self.server.clone(), json!({"type": "tls", "config": files})),
        };
        let mut bootstrap = json!({
            "xds_servers": [{
                "server_uri": server,
                "server_features": ["xds_v3"],
                "channel_creds": [credentials],
            }],
            // gRPC of Node asks for a locality.
            "node": {"id": self.node, "cluster": "outrigger", "locality": {}},
            "server_listener_resource_name_template": format!("{SERVER_LISTENER}%s"),
        });
        if self.roots.is_some() {
            bootstrap["certificate_providers"] = json!({
                PROVIDER: {"plugin_name": "file_watcher", "config": files},
            });
        }
        serde_json::to_string_pretty(&bootstrap).unwrap_or_default() + "\n"
    }
}

fn unix_target(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_takes_the_place_of_tls_towards_the_control_plane_alone() {
        let mut agent = Agent {
            server: "127.0.0.1:18000".to_owned(),
            roots: Some(String::new()),
            token: None,
            directory: "/a".into(),
            node: "sidecar/default/a".to_owned(),
            admin: None,
            socket: None,
        };
        let read = |agent: &Agent| -> serde_json::Value {
            serde_json::from_str(&agent.grpc_bootstrap()).unwrap()
        };
        let with_tls = read(&agent);
        let server = &with_tls["xds_servers"][0];
        assert_eq!(server["server_uri"], "127.0.0.1:18000");
        let credentials = &server["channel_creds"][0];
        assert_eq!(credentials["type"], "tls");
        assert_eq!(
            credentials["config"]["certificate_file"],
            "/a/certificate.pem"
        );
        agent.socket = Some("/a/xds.sock".into());
        let with_socket = read(&agent);
        let server = &with_socket["xds_servers"][0];
        assert_eq!(server["server_uri"], "unix:/a/xds.sock");
        assert_eq!(server["channel_creds"], json!([{"type": "insecure"}]));
        assert_eq!(
            with_socket["certificate_providers"],
            with_tls["certificate_providers"]
        );
    }
}
