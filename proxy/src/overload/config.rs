//! `envoy.config.overload.v3.OverloadManager`.

use std::path::Path;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::RuntimeUInt64;
use outrigger_proto::pb::envoy::config::overload::v3 as pb;
use outrigger_proto::pb::envoy::extensions::resource_monitors::{
    cgroup_memory::v3::CgroupMemoryConfig,
    cpu_utilization::v3::{
        CpuUtilizationConfig, cpu_utilization_config::UtilizationComputeStrategy,
    },
    downstream_connections::v3::DownstreamConnectionsConfig,
    fixed_heap::v3::FixedHeapConfig,
    injected_resource::v3::InjectedResourceConfig,
};

use super::manager::{Heat, OverloadManager, Shrink, Trigger};
use super::monitors::{CGROUP_ROOT, CPU_TIMES, CgroupMemory, HostCpu, InjectedResource, Monitor};
use super::scaled_timers::{ScaledTimer, ShortestTimeout};
use super::shed_points::LoadShedPoint;
use super::state::Action;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::ServerContext;

const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";
const CONNECTIONS_TYPE: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const FIXED_HEAP_TYPE: &str = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
const INJECTED_TYPE: &str =
    "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig";
const CGROUP_TYPE: &str = "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig";
const CPU_TYPE: &str = "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig";
const SCALE_TIMERS_TYPE: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";
/// Points that Envoy has and that turn nothing away here.
const UNSUPPORTED_POINTS: &[&str] = &[
    "envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch",
    "envoy.load_shed_points.tcp_proxy_on_data",
    "envoy.load_shed_points.tcp_proxy_upstream_connect",
];
const SHRINK_HEAP_TYPE: &str = "envoy.config.overload.v3.ShrinkHeapConfig";

const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_SHRINK_INTERVAL: Duration = Duration::from_secs(10);
/// Free memory that is not worth giving back, in bytes.
const DEFAULT_MAX_UNFREED: u64 = 100 * 1024 * 1024;

/// A monitor as configured.
enum Resource {
    Connections(u64),
    Measured(Box<Monitor>),
}

/// What an action does beside being there.
enum ActionConfig {
    Plain,
    Shrink(Shrink),
    Timers([Option<ShortestTimeout>; ScaledTimer::ALL.len()]),
}

impl OverloadManager {
    /// Converts the bootstrap's `overload_manager`. The limit of connections takes effect at once.
    pub fn from_proto(
        proto: pb::OverloadManager,
        server: &ServerContext,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::OverloadManager {
            refresh_interval,
            resource_monitors,
            actions,
            loadshed_points,
            buffer_factory_config,
        } = proto;
        let refresh_interval = path.positive_duration("refresh_interval", refresh_interval);
        // Of `reset_high_memory_stream` alone, which is refused by its name.
        let factory = path.unsupported_if_set("buffer_factory_config", buffer_factory_config);
        let mut names = Vec::new();
        let resources = path.each("resource_monitors", resource_monitors, |monitor, path| {
            let name = path.non_empty("name", monitor.name.clone())?;
            if names.contains(&name) {
                return Err(path
                    .field("name")
                    .reject(format!("\"{name}\" is there twice")));
            }
            names.push(name.clone());
            Ok((name, resource(monitor, server, path)?))
        });
        let mut seen = Vec::new();
        let actions = path.each("actions", actions, |proto, path| {
            let (action, triggers, config) = action(proto, &names, path)?;
            if seen.contains(&action) {
                return Err(path.field("name").reject("the action is there twice"));
            }
            seen.push(action);
            Ok((action, triggers, config))
        });
        let mut seen = Vec::new();
        let points = path.each("loadshed_points", loadshed_points, |proto, path| {
            let (name, triggers) = load_shed_point(proto, &names, path)?;
            if seen.contains(&name) {
                return Err(path.field("name").reject("the point is there twice"));
            }
            seen.push(name.clone());
            Ok((name, triggers))
        });
        let (refresh_interval, resources, actions) = (refresh_interval?, resources?, actions?);
        let points = points?;
        factory?;

        let mut manager = Self::new(refresh_interval.unwrap_or(DEFAULT_REFRESH_INTERVAL), server);
        for (name, resource) in resources {
            match resource {
                Resource::Connections(limit) => {
                    server.overload.connections.set_limit(limit);
                    manager.add_monitor(&name, None, server);
                }
                Resource::Measured(monitor) => {
                    manager.add_monitor(&name, Some(*monitor), server);
                }
            }
        }
        for (action, triggers, config) in actions {
            let shrink = match config {
                ActionConfig::Shrink(shrink) => Some(shrink),
                ActionConfig::Timers(timers) => {
                    server.overload.timers.set(timers);
                    None
                }
                ActionConfig::Plain => None,
            };
            manager.add_action(action, triggers, shrink, server);
        }
        for (name, triggers) in points {
            manager.add_point(&name, triggers, server);
        }
        Ok(manager)
    }
}

fn resource(
    proto: pb::ResourceMonitor,
    server: &ServerContext,
    path: &ConfigPath<'_>,
) -> Result<Resource, Rejected> {
    let pb::ResourceMonitor {
        name: _,
        config_type,
    } = proto;
    let any = config_type.map(|pb::resource_monitor::ConfigType::TypedConfig(any)| any);
    let config = TypedConfig::required("typed_config", any, path)?;
    let path = &path.field("typed_config");
    match config.type_name.as_str() {
        CONNECTIONS_TYPE => {
            let DownstreamConnectionsConfig {
                max_active_downstream_connections: limit,
            } = config.decode(path)?;
            let positive = u64::try_from(limit).ok().filter(|limit| *limit > 0);
            positive.map(Resource::Connections).ok_or_else(|| {
                path.field("max_active_downstream_connections")
                    .reject(format!("{limit} is not greater than 0"))
            })
        }
        FIXED_HEAP_TYPE => {
            let FixedHeapConfig {
                max_heap_size_bytes,
                max_heap_size_bytes_runtime,
            } = config.decode(path)?;
            // With the runtime field, the plain one is not read, in Envoy neither.
            let (key, limit, field) = match max_heap_size_bytes_runtime {
                Some(RuntimeUInt64 {
                    default_value,
                    runtime_key,
                }) => (runtime_key, default_value, "max_heap_size_bytes_runtime"),
                None => (String::new(), max_heap_size_bytes, "max_heap_size_bytes"),
            };
            if limit == 0 {
                return Err(path.field(field).reject("0 is not greater than 0"));
            }
            let limit = server.runtime.integer(&key, limit);
            Ok(measured(Monitor::FixedHeap(limit)))
        }
        INJECTED_TYPE => {
            let InjectedResourceConfig { filename } = config.decode(path)?;
            let filename = path.non_empty("filename", filename)?;
            let resource = InjectedResource::new(filename.into());
            Ok(measured(Monitor::Injected(resource)))
        }
        CGROUP_TYPE => {
            let CgroupMemoryConfig { max_memory_bytes } = config.decode(path)?;
            let memory = CgroupMemory::find(Path::new(CGROUP_ROOT), max_memory_bytes);
            memory
                .map(|memory| measured(Monitor::CgroupMemory(memory)))
                .ok_or_else(|| path.reject("No supported cgroup memory implementation found"))
        }
        CPU_TYPE => {
            let CpuUtilizationConfig { mode } = config.decode(path)?;
            match path.enumeration("mode", mode)? {
                UtilizationComputeStrategy::Host => HostCpu::new(CPU_TIMES.into())
                    .map(|cpu| measured(Monitor::Cpu(cpu)))
                    .ok_or_else(|| path.reject(format!("{CPU_TIMES} cannot be read"))),
                UtilizationComputeStrategy::Container => Err(path
                    .field("mode")
                    .reject("CONTAINER is not supported, HOST is")),
            }
        }
        _ => Err(config.unknown(
            path,
            &[
                CONNECTIONS_TYPE,
                FIXED_HEAP_TYPE,
                INJECTED_TYPE,
                CGROUP_TYPE,
                CPU_TYPE,
            ],
        )),
    }
}

fn measured(monitor: Monitor) -> Resource {
    Resource::Measured(Box::new(monitor))
}

fn load_shed_point(
    proto: pb::LoadShedPoint,
    monitors: &[String],
    path: &ConfigPath<'_>,
) -> Result<(String, Vec<Trigger>), Rejected> {
    let pb::LoadShedPoint { name, triggers } = proto;
    let name = path.non_empty("name", name);
    let triggers = self::triggers(triggers, monitors, path);
    let name = name?;
    if UNSUPPORTED_POINTS.contains(&name.as_str()) {
        let supported = LoadShedPoint::ALL.map(LoadShedPoint::name).join(", ");
        return Err(path.field("name").reject(format!(
            "\"{name}\" is not supported; supported are {supported}"
        )));
    }
    Ok((name, triggers?))
}

fn triggers(
    protos: Vec<pb::Trigger>,
    monitors: &[String],
    path: &ConfigPath<'_>,
) -> Result<Vec<Trigger>, Rejected> {
    if protos.is_empty() {
        return Err(path.field("triggers").reject("must not be empty"));
    }
    let mut seen = Vec::new();
    path.each("triggers", protos, |proto, path| {
        let trigger = trigger(proto, monitors, path)?;
        if seen.contains(&trigger.monitor) {
            return Err(path.field("name").reject("the monitor triggers it already"));
        }
        seen.push(trigger.monitor.clone());
        Ok(trigger)
    })
}

fn action(
    proto: pb::OverloadAction,
    monitors: &[String],
    path: &ConfigPath<'_>,
) -> Result<(Action, Vec<Trigger>, ActionConfig), Rejected> {
    let pb::OverloadAction {
        name,
        triggers,
        typed_config,
    } = proto;
    let action = Action::ALL.into_iter().find(|action| action.name() == name);
    let action = action.ok_or_else(|| {
        let supported = Action::ALL.map(Action::name).join(", ");
        path.field("name").reject(format!(
            "\"{name}\" is not supported; supported are {supported}"
        ))
    });
    let triggers = self::triggers(triggers, monitors, path);
    let (action, triggers) = (action?, triggers?);
    let path = &path.field("typed_config");
    let config = match (action, typed_config) {
        (Action::ShrinkHeap, None) => ActionConfig::Shrink(Shrink {
            interval: DEFAULT_SHRINK_INTERVAL,
            max_unfreed: DEFAULT_MAX_UNFREED,
        }),
        (Action::ShrinkHeap, Some(any)) => {
            ActionConfig::Shrink(shrink(&TypedConfig::from_any(any, path)?, path)?)
        }
        (Action::ReduceTimeouts, Some(any)) => {
            ActionConfig::Timers(timers(&TypedConfig::from_any(any, path)?, path)?)
        }
        (Action::ReduceTimeouts, None) => {
            return Err(path.reject(format!(
                "Overload action \"{}\" requires typed_config",
                action.name()
            )));
        }
        (_, None) => ActionConfig::Plain,
        (_, Some(_)) => return Err(path.reject("this action takes no configuration")),
    };
    Ok((action, triggers, config))
}

fn timers(
    config: &TypedConfig,
    path: &ConfigPath<'_>,
) -> Result<[Option<ShortestTimeout>; ScaledTimer::ALL.len()], Rejected> {
    use pb::scale_timers_overload_action_config::{
        ScaleTimer, TimerType, scale_timer::OverloadAdjust,
    };
    if config.type_name != SCALE_TIMERS_TYPE {
        return Err(config.unknown(path, &[SCALE_TIMERS_TYPE]));
    }
    let pb::ScaleTimersOverloadActionConfig {
        timer_scale_factors,
    } = config.decode(path)?;
    let mut timers = [None; ScaledTimer::ALL.len()];
    path.each("timer_scale_factors", timer_scale_factors, |proto, path| {
        let ScaleTimer {
            timer,
            overload_adjust,
        } = proto;
        let kind: TimerType = path.enumeration("timer", timer)?;
        let timer = match kind {
            TimerType::HttpDownstreamConnectionIdle => ScaledTimer::ConnectionIdle,
            TimerType::HttpDownstreamConnectionMax => ScaledTimer::ConnectionMax,
            TimerType::HttpDownstreamStreamIdle => ScaledTimer::StreamIdle,
            TimerType::TransportSocketConnect => ScaledTimer::TransportSocketConnect,
            TimerType::HttpDownstreamStreamFlush | TimerType::Unspecified => {
                let name = kind.as_str_name();
                return Err(path
                    .field("timer")
                    .reject(format!("{name} is not supported")));
            }
        };
        let shortest = match path.required("overload_adjust", overload_adjust)? {
            OverloadAdjust::MinTimeout(time) => {
                let time = path.duration("min_timeout", Some(time))?;
                ShortestTimeout::Time(time.unwrap_or_default())
            }
            OverloadAdjust::MinScale(share) => {
                let share = path.percent("min_scale", Some(share))?;
                ShortestTimeout::Share(share.unwrap_or_default())
            }
        };
        if timers[timer as usize].replace(shortest).is_some() {
            return Err(path.field("timer").reject(format!(
                "Found duplicate entry for timer type {}",
                kind.as_str_name()
            )));
        }
        Ok(())
    })?;
    Ok(timers)
}

fn shrink(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Shrink, Rejected> {
    if config.type_name != SHRINK_HEAP_TYPE {
        return Err(config.unknown(path, &[SHRINK_HEAP_TYPE]));
    }
    let pb::ShrinkHeapConfig {
        timer_interval,
        max_unfreed_memory_bytes,
    } = config.decode(path)?;
    let interval = path.positive_duration("timer_interval", timer_interval)?;
    Ok(Shrink {
        interval: interval.unwrap_or(DEFAULT_SHRINK_INTERVAL),
        max_unfreed: max_unfreed_memory_bytes.map_or(DEFAULT_MAX_UNFREED, |v| v.value),
    })
}

fn trigger(
    proto: pb::Trigger,
    monitors: &[String],
    path: &ConfigPath<'_>,
) -> Result<Trigger, Rejected> {
    let pb::Trigger {
        name,
        trigger_oneof,
    } = proto;
    let name = path.non_empty("name", name)?;
    if name == CONNECTIONS {
        return Err(path.field("name").reject(format!(
            "{CONNECTIONS} refuses connections by itself and triggers no action"
        )));
    }
    if !monitors.contains(&name) {
        return Err(path
            .field("name")
            .reject(format!("\"{name}\" is no configured monitor")));
    }
    let share =
        |field: &str, value: f64, path: &ConfigPath<'_>| path.in_range(field, value, 0.0..=1.0);
    let heat = match trigger_oneof {
        Some(pb::trigger::TriggerOneof::Threshold(pb::ThresholdTrigger { value })) => {
            Heat::Threshold(share("value", value, &path.field("threshold"))?)
        }
        Some(pb::trigger::TriggerOneof::Scaled(pb::ScaledTrigger {
            scaling_threshold,
            saturation_threshold,
        })) => {
            let path = &path.field("scaled");
            let from = share("scaling_threshold", scaling_threshold, path);
            let to = share("saturation_threshold", saturation_threshold, path);
            let (from, to) = (from?, to?);
            if from >= to {
                return Err(path.reject("scaling_threshold must be less than saturation_threshold"));
            }
            Heat::Scaled { from, to }
        }
        None => return Err(path.reject("needs one of threshold, scaled")),
    };
    Ok(Trigger {
        monitor: name,
        heat,
    })
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::config::ConfigReport;

    const FIXED_HEAP: &str = "envoy.resource_monitors.fixed_heap";

    use crate::server::LocalInfo;
    use outrigger_proto::pb::google::protobuf::Any;

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
                act(Action::ShrinkHeap.name(), vec![threshold(CONNECTIONS, 0.5)]),
                act(Action::DisableHttpKeepalive.name(), vec![]),
            ],
            loadshed_points: vec![
                pb::LoadShedPoint {
                    name: "envoy.load_shed_points.tcp_proxy_on_data".into(),
                    triggers: vec![threshold(FIXED_HEAP, 0.5)],
                },
                pb::LoadShedPoint {
                    name: "mine".into(),
                    triggers: vec![threshold("x", 0.5)],
                },
            ],
            ..Default::default()
        });
        let starts = [
            "overload_manager / resource_monitors[0] / typed_config / max_heap_size_bytes: 0 is not",
            "overload_manager / resource_monitors[1] / typed_config: envoy.config.overload.v3.Thre",
            "overload_manager / actions[0] / name: \"envoy.overload_actions.reset_high_memory_stream",
            "overload_manager / actions[0] / triggers[0] / name: \"x\" is no configured monitor",
            "overload_manager / actions[1] / triggers[0] / threshold / value: 2 is not in",
            "overload_manager / actions[2] / triggers[0] / name: envoy.resource_monitors.global_",
            "overload_manager / actions[3] / triggers: must not be empty",
            "overload_manager / loadshed_points[0] / name: \"envoy.load_shed_points.tcp_proxy_on_data",
            "overload_manager / loadshed_points[1] / triggers[0] / name: \"x\" is no configured mon",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found} / {start}");
        }
    }
}
