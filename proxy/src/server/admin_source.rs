//! The process as the admin pages see it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::google::protobuf::Duration as DurationProto;
use pb::clusters_config_dump::StaticCluster;
use pb::server_info::State;
use pb::unready_targets_dumps::UnreadyTargetsDump;
use tokio::time::Instant;

use super::ServerContext;
use super::cli::{DrainStrategy, IpVersion, Mode};
use super::lifecycle::{Server, ServerEvent};
use crate::admin::{AdminSource, ConfigDumps, DrainListeners, LogLevels};
use crate::config::timestamp;
use crate::listener::ManagedListener;
use crate::net::Address;
use crate::xds::{LogEntry, ResourceStatus};

impl AdminSource for Server {
    fn server(&self) -> &Arc<ServerContext> {
        &self.context
    }

    fn admin_layer(&self) -> Option<String> {
        let layers = &self.bootstrap.runtime_layers;
        let layer = layers.iter().find(|(_, values)| values.is_none());
        layer.map(|(name, _)| name.clone())
    }

    fn init_state(&self) -> State {
        self.state.get()
    }

    fn started_at(&self) -> Instant {
        self.started_at
    }

    fn command_line_options(&self) -> pb::CommandLineOptions {
        use pb::command_line_options as options;
        let cli = &self.cli;
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default()
        };
        let seconds = |seconds: u32| Some(duration(Duration::from_secs(seconds.into())));
        pb::CommandLineOptions {
            concurrency: u32::try_from(cli.worker_count()).unwrap_or(u32::MAX),
            config_path: path(&cli.config_path),
            config_yaml: cli.config_yaml.join("\n"),
            allow_unknown_static_fields: cli.allow_unknown_static_fields,
            ignore_unknown_dynamic_fields: cli.ignore_unknown_dynamic_fields,
            reject_unknown_dynamic_fields: cli.reject_unknown_dynamic_fields,
            admin_address_path: path(&cli.admin_address_path),
            local_address_ip_version: match cli.local_address_ip_version {
                IpVersion::V4 => options::IpVersion::V4,
                IpVersion::V6 => options::IpVersion::V6,
            }
            .into(),
            log_level: cli.log_level.clone(),
            component_log_level: cli.component_log_level.clone().unwrap_or_default(),
            log_format: cli
                .log_format
                .clone()
                .unwrap_or_else(|| super::log_format::DEFAULT_PATTERN.to_owned()),
            log_format_escaped: cli.log_format_escaped,
            log_path: path(&cli.log_path),
            service_cluster: cli.service_cluster.clone().unwrap_or_default(),
            service_node: cli.service_node.clone().unwrap_or_default(),
            service_zone: cli.service_zone.clone().unwrap_or_default(),
            file_flush_interval: Some(duration(Duration::from_millis(
                cli.file_flush_interval_msec.into(),
            ))),
            file_flush_min_size: cli.file_flush_min_size_kb,
            drain_time: seconds(cli.drain_time_s),
            drain_strategy: match cli.drain_strategy {
                DrainStrategy::Gradual => options::DrainStrategy::Gradual,
                DrainStrategy::Immediate => options::DrainStrategy::Immediate,
            }
            .into(),
            parent_shutdown_time: seconds(cli.parent_shutdown_time_s()),
            mode: match cli.mode {
                Mode::Serve => options::Mode::Serve,
                Mode::Validate => options::Mode::Validate,
                Mode::InitOnly => options::Mode::InitOnly,
            }
            .into(),
            disable_hot_restart: true,
            restart_epoch: cli.restart_epoch(),
            stats_tag: cli.stats_tag.clone(),
            ..Default::default()
        }
    }

    fn node(&self) -> core::Node {
        self.bootstrap.node.clone()
    }

    fn clusters(&self) -> Vec<pb::ClusterStatus> {
        self.clusters.status()
    }

    fn success_rates(&self) -> HashMap<String, [f64; 4]> {
        self.clusters.success_rates()
    }

    fn listeners(&self) -> Vec<pb::ListenerStatus> {
        let status = |listener: &Rc<ManagedListener>| {
            let mut addresses = listener.addresses().into_iter().map(|a| address(&a));
            pb::ListenerStatus {
                name: listener.name().to_owned(),
                local_address: addresses.next(),
                additional_local_addresses: addresses.collect(),
            }
        };
        self.listeners.active().iter().map(status).collect()
    }

    fn config_dump(&self, with_endpoints: bool) -> ConfigDumps {
        let started = Some(timestamp(SystemTime::now() - self.started_at.elapsed()));
        let mut bootstrap = self.bootstrap_proto.clone();
        bootstrap.node = Some(self.node());
        let static_clusters = self.cluster_protos.iter().map(|cluster| StaticCluster {
            cluster: Some(pack(cluster)),
            last_updated: started,
        });
        ConfigDumps {
            bootstrap: pb::BootstrapConfigDump {
                bootstrap: Some(bootstrap),
                last_updated: started,
            },
            clusters: self.clusters.config_dump(static_clusters.collect()),
            endpoints: with_endpoints.then(|| self.clusters.endpoints_dump()),
            listeners: self.listeners.dump(),
            routes: self.context.routes.dump(),
            scoped_routes: self.context.routes.dump_scopes(),
            ecds_filters: self.context.extension_configs.dump(),
            secrets: self.context.secrets.dump(),
        }
    }

    fn unready_targets(&self) -> Vec<UnreadyTargetsDump> {
        let clusters = self.clusters.warming_clusters();
        let mut names: Vec<String> = clusters
            .iter()
            .map(|name| format!("cluster {name}"))
            .collect();
        names.extend(self.clusters.init().unready());
        names.extend(self.init.unready());
        let mut dumps = self.listeners.unready();
        if !names.is_empty() {
            let server = UnreadyTargetsDump {
                name: "init manager Server".to_owned(),
                target_names: names,
            };
            dumps.insert(0, server);
        }
        dumps
    }

    fn resource_statuses(&self) -> Vec<ResourceStatus> {
        self.xds.statuses()
    }

    fn xds_log(&self) -> Vec<LogEntry> {
        self.xds.log().entries()
    }

    fn drain_listeners(&self, request: DrainListeners) {
        // A queue that is full holds the same request already.
        let _ = self.events.try_send(ServerEvent::DrainListeners(request));
    }

    fn quit(&self) {
        let _ = self.events.try_send(ServerEvent::Quit);
    }

    fn reopen_logs(&self) {
        self.reopen_log_files();
    }

    fn log_levels(&self) -> Vec<(String, String)> {
        self.log.levels()
    }

    fn set_log_levels(&self, change: LogLevels) -> Result<(), String> {
        match change {
            LogLevels::All(level) => self.log.set_all(&level),
            LogLevels::Some(changes) => self.log.set_some(&changes),
        }
    }
}

fn address(address: &Address) -> core::Address {
    let kind = match address {
        Address::Ip(ip) => core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                ip.port().into(),
            )),
            ..Default::default()
        }),
        Address::Pipe(path) => core::address::Address::Pipe(core::Pipe {
            path: path.to_string(),
            mode: 0,
        }),
    };
    core::Address {
        address: Some(kind),
    }
}

fn duration(duration: Duration) -> DurationProto {
    DurationProto {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
