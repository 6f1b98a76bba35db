//! What is refused, and what takes effect at once.

use outrigger_proto::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use outrigger_proto::pb::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use outrigger_proto::pb::google::protobuf::Any;
use prost::Name;

use super::*;
use crate::config::ConfigReport;
use crate::server::LocalInfo;

const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";
const FIXED_HEAP: &str = "envoy.resource_monitors.fixed_heap";

fn any<M: Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn monitor<M: Name>(name: &str, message: &M) -> pb::ResourceMonitor {
    pb::ResourceMonitor {
        name: name.into(),
        config_type: Some(pb::resource_monitor::ConfigType::TypedConfig(any(message))),
    }
}

fn threshold(monitor: &str, value: f64) -> pb::Trigger {
    pb::Trigger {
        name: monitor.into(),
        trigger_oneof: Some(pb::trigger::TriggerOneof::Threshold(pb::ThresholdTrigger {
            value,
        })),
    }
}

fn act(name: &str, triggers: Vec<pb::Trigger>) -> pb::OverloadAction {
    pb::OverloadAction {
        name: name.into(),
        triggers,
        typed_config: None,
    }
}

fn errors(proto: pb::OverloadManager) -> Vec<String> {
    let server = ServerContext::new(0, LocalInfo::default());
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "overload_manager");
    assert!(OverloadManager::from_proto(proto, &server, &path).is_err());
    report.take().iter().map(ToString::to_string).collect()
}

#[test]
fn the_limit_of_connections_takes_effect() {
    let server = ServerContext::new(0, LocalInfo::default());
    let report = ConfigReport::new();
    let proto = pb::OverloadManager {
        resource_monitors: vec![monitor(
            CONNECTIONS,
            &DownstreamConnectionsConfig {
                max_active_downstream_connections: 1,
            },
        )],
        ..Default::default()
    };
    OverloadManager::from_proto(proto, &server, &ConfigPath::root(&report, "o")).unwrap();
    let _one = server.overload.connections.try_acquire().unwrap();
    assert!(server.overload.connections.try_acquire().is_none());
}

#[test]
fn every_error_of_an_overload_manager_is_found() {
    let heap = FixedHeapConfig {
        max_heap_size_bytes: 0,
        max_heap_size_bytes_runtime: None,
    };
    let found = errors(pb::OverloadManager {
        resource_monitors: vec![
            monitor(FIXED_HEAP, &heap),
            monitor(
                "envoy.resource_monitors.cpu",
                &pb::ThresholdTrigger { value: 0.5 },
            ),
        ],
        actions: vec![
            act(
                "envoy.overload_actions.reset_high_memory_stream",
                vec![threshold("x", 2.0)],
            ),
            act(Action::ShrinkHeap.name(), vec![threshold(FIXED_HEAP, 2.0)]),
            act("mine", vec![threshold(FIXED_HEAP, 0.5)]),
            act(Action::DisableHttpKeepalive.name(), vec![]),
        ],
        loadshed_points: vec![
            pb::LoadShedPoint {
                name: "envoy.load_shed_points.tcp_proxy_on_data".into(),
                triggers: vec![threshold(CONNECTIONS, 0.5)],
            },
            pb::LoadShedPoint {
                name: "mine".into(),
                triggers: vec![threshold("x", 0.5)],
            },
        ],
        buffer_factory_config: Some(pb::BufferFactoryConfig {
            minimum_account_to_track_power_of_two: 9,
        }),
        ..Default::default()
    });
    let starts = [
        "overload_manager / buffer_factory_config / minimum_account_to_track_power_of_two: 9 is not",
        "overload_manager / resource_monitors[0] / typed_config / max_heap_size_bytes: 0 is not",
        "overload_manager / resource_monitors[1] / typed_config: envoy.config.overload.v3.Thre",
        "overload_manager / actions[0] / triggers[0] / threshold / value: 2 is not in",
        "overload_manager / actions[1] / triggers[0] / threshold / value: 2 is not in",
        "overload_manager / actions[2] / name: \"mine\" is an unknown overload manager action",
        "overload_manager / actions[3] / triggers: must not be empty",
        "overload_manager / loadshed_points[0] / triggers[0] / name: unknown trigger resource \"envoy",
        "overload_manager / loadshed_points[1] / triggers[0] / name: unknown trigger resource \"x\"",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found} / {start}");
    }
}

#[test]
fn resets_of_streams_need_the_least_that_counts() {
    let name = Action::ResetHighMemoryStream.name();
    let manager = |power: Option<u32>| pb::OverloadManager {
        actions: vec![act(name, vec![threshold(CONNECTIONS, 0.5)])],
        buffer_factory_config: power.map(|power| pb::BufferFactoryConfig {
            minimum_account_to_track_power_of_two: power,
        }),
        ..Default::default()
    };
    let found = errors(manager(None));
    assert_eq!(
        found,
        [format!(
            "overload_manager / actions[0] / name: \"{name}\" requires buffer_factory_config"
        )]
    );
    let server = ServerContext::new(0, LocalInfo::default());
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "o");
    assert!(server.overload.resets.accounts().is_none());
    OverloadManager::from_proto(manager(Some(20)), &server, &path).unwrap();
    assert!(server.overload.resets.accounts().is_some());
}
