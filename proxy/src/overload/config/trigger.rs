//! What makes an action or a load-shed point hold, as it is configured.

use outrigger_proto::pb::envoy::config::overload::v3 as pb;

use super::super::manager::{Heat, Trigger};
use crate::config::{ConfigPath, Rejected};

/// The monitor of the global limit of connections. It is known even where it is not configured.
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// `by_connections`: whether the count of connections may trigger it.
pub(super) fn triggers(
    protos: Vec<pb::Trigger>,
    monitors: &[String],
    by_connections: bool,
    path: &ConfigPath<'_>,
) -> Result<Vec<Trigger>, Rejected> {
    if protos.is_empty() {
        return Err(path.field("triggers").reject("must not be empty"));
    }
    let mut seen = Vec::new();
    path.each("triggers", protos, |proto, path| {
        let trigger = trigger(proto, path)?;
        let is_known = match trigger.monitor == CONNECTIONS {
            true => by_connections,
            false => monitors.contains(&trigger.monitor),
        };
        if !is_known {
            return Err(path
                .field("name")
                .reject(format!("unknown trigger resource \"{}\"", trigger.monitor)));
        }
        if seen.contains(&trigger.monitor) {
            return Err(path.field("name").reject("the monitor triggers it already"));
        }
        seen.push(trigger.monitor.clone());
        Ok(trigger)
    })
}

fn trigger(proto: pb::Trigger, path: &ConfigPath<'_>) -> Result<Trigger, Rejected> {
    let pb::Trigger {
        name,
        trigger_oneof,
    } = proto;
    let name = path.non_empty("name", name);
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
        monitor: name?,
        heat,
    })
}
