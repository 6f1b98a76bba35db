//! The monitors of an overload manager, as they are configured.

use std::path::Path;

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

use super::super::container_cpu::ContainerCpu;
use super::super::monitors::{
    CGROUP_ROOT, CPU_TIMES, CgroupMemory, HostCpu, InjectedResource, Monitor,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::ServerContext;

const CONNECTIONS_TYPE: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const FIXED_HEAP_TYPE: &str = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
const INJECTED_TYPE: &str =
    "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig";
const CGROUP_TYPE: &str = "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig";
const CPU_TYPE: &str = "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig";

/// A monitor as configured.
pub(super) enum Resource {
    /// So many connections, which are counted as they come and go.
    Connections(u64),
    Measured(Box<Monitor>),
}

impl Resource {
    pub(super) fn from_proto(
        proto: pb::ResourceMonitor,
        server: &ServerContext,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ResourceMonitor {
            name: _,
            config_type,
        } = proto;
        let any = config_type.map(|pb::resource_monitor::ConfigType::TypedConfig(any)| any);
        let config = TypedConfig::required("typed_config", any, path)?;
        let path = &path.field("typed_config");
        match config.type_name.as_str() {
            CONNECTIONS_TYPE => connections(config.decode(path)?, path),
            FIXED_HEAP_TYPE => fixed_heap(config.decode(path)?, server, path),
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
            CPU_TYPE => cpu(config.decode(path)?, path),
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
}

fn measured(monitor: Monitor) -> Resource {
    Resource::Measured(Box::new(monitor))
}

fn connections(
    proto: DownstreamConnectionsConfig,
    path: &ConfigPath<'_>,
) -> Result<Resource, Rejected> {
    let DownstreamConnectionsConfig {
        max_active_downstream_connections: limit,
    } = proto;
    let positive = u64::try_from(limit).ok().filter(|limit| *limit > 0);
    positive.map(Resource::Connections).ok_or_else(|| {
        path.field("max_active_downstream_connections")
            .reject(format!("{limit} is not greater than 0"))
    })
}

fn fixed_heap(
    proto: FixedHeapConfig,
    server: &ServerContext,
    path: &ConfigPath<'_>,
) -> Result<Resource, Rejected> {
    let FixedHeapConfig {
        max_heap_size_bytes,
        max_heap_size_bytes_runtime,
    } = proto;
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

fn cpu(proto: CpuUtilizationConfig, path: &ConfigPath<'_>) -> Result<Resource, Rejected> {
    let CpuUtilizationConfig { mode } = proto;
    match path.enumeration("mode", mode)? {
        UtilizationComputeStrategy::Host => HostCpu::new(CPU_TIMES.into())
            .map(|cpu| measured(Monitor::Cpu(cpu)))
            .ok_or_else(|| path.reject(format!("{CPU_TIMES} cannot be read"))),
        UtilizationComputeStrategy::Container => ContainerCpu::of_this_process()
            .map(|cpu| measured(Monitor::ContainerCpu(cpu)))
            .ok_or_else(|| path.reject("No supported cgroup CPU implementation found")),
    }
}
