//! Resource monitors: each is a theme, since it measures the process or the machine. An action says that a monitor has measured.

use crate::case::{Case, case};

fn monitored(title: &'static str, name: &str, config: &str, trigger: &str) -> Case {
    let monitor = format!("envoy.resource_monitors.{name}");
    case(title)
        .bootstrap(&format!(
            "overload_manager:\n  refresh_interval: 0.1s\n  resource_monitors:\n  - name: {monitor}\n    typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.{config} }}\n  actions:\n  - name: envoy.overload_actions.stop_accepting_requests\n    triggers: [{{ name: {monitor}, {trigger} }}]\n"
        ))
        .wait(500)
        .get("/")
}

const ALL: &str = "threshold: { value: 1 }";
/// What holds as soon as something was measured, whatever it was.
const ANY: &str = "threshold: { value: 0 }";

pub fn heap() -> Vec<Case> {
    vec![
        monitored(
            "a heap that is larger than it may be stops requests",
            "fixed_heap",
            "fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1000",
            ALL,
        )
        .shows(["< 503", "log details=overload"]),
    ]
}

pub fn cgroup_memory() -> Vec<Case> {
    vec![
        monitored(
            "a control group with more memory than it may have stops requests",
            "cgroup_memory",
            "cgroup_memory.v3.CgroupMemoryConfig, max_memory_bytes: 1000",
            ALL,
        )
        .stats(["overload.envoy.resource_monitors.cgroup_memory.failed_updates"])
        .shows(["< 503", "log details=overload"]),
    ]
}

pub fn enough_cgroup_memory() -> Vec<Case> {
    vec![
        monitored(
            "a control group with less memory than it may have stops nothing",
            "cgroup_memory",
            "cgroup_memory.v3.CgroupMemoryConfig, max_memory_bytes: 1000000000000000",
            "threshold: { value: 0.9 }",
        )
        .stats(["overload.envoy.resource_monitors.cgroup_memory.failed_updates"])
        .shows(["< 200"]),
    ]
}

pub fn cpu() -> Vec<Case> {
    vec![
        monitored(
            "the processors of the machine are measured",
            "cpu_utilization",
            "cpu_utilization.v3.CpuUtilizationConfig",
            ANY,
        )
        .shows(["< 503", "log details=overload"]),
    ]
}

pub fn container_cpu() -> Vec<Case> {
    vec![
        monitored(
            "the processors of the control group are measured",
            "cpu_utilization",
            "cpu_utilization.v3.CpuUtilizationConfig, mode: CONTAINER",
            ANY,
        )
        .stats(["overload.envoy.resource_monitors.cpu_utilization.failed_updates"])
        .shows(["< 503", "log details=overload"]),
    ]
}

pub fn connections() -> Vec<Case> {
    let action = |name: &str, value: &str| {
        format!(
            "- name: envoy.overload_actions.{name}\n  triggers: [{{ name: envoy.resource_monitors.global_downstream_max_connections, threshold: {{ value: {value} }} }}]"
        )
    };
    vec![
        crate::overload_resets::counted(
            case("the count of connections triggers actions"),
            &format!("actions:\n{}", action("stop_accepting_requests", "0.2")),
        )
        .get("/alone")
        .on(1)
        .wait(400)
        .get("/first")
        .wait(400)
        .get("/second")
        .page("/stats", "overload.envoy.resource_monitors.global_")
        .shows(["< 200", "< 503"]),
    ]
}
