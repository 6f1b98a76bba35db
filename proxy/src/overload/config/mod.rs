//! `envoy.config.overload.v3.OverloadManager`.

mod actions;
mod resources;
#[cfg(test)]
mod tests;
mod trigger;

use std::time::Duration;

use outrigger_proto::pb::envoy::config::overload::v3 as pb;

use self::actions::{ActionConfig, action};
use self::resources::Resource;
use self::trigger::triggers;
use super::manager::{OverloadManager, Trigger};
use super::monitors::Monitor;
use super::state::Action;
use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;

const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

impl OverloadManager {
    /// Converts the bootstrap's `overload_manager`. What it asks of the data path takes effect at once.
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
        let has_minimum = buffer_factory_config.is_some();
        let minimum_account = minimum_account(buffer_factory_config, path);
        let mut names = Vec::new();
        let resources = path.each("resource_monitors", resource_monitors, |monitor, path| {
            let name = path.non_empty("name", monitor.name.clone())?;
            if names.contains(&name) {
                return Err(path
                    .field("name")
                    .reject(format!("\"{name}\" is there twice")));
            }
            names.push(name.clone());
            Ok((name, Resource::from_proto(monitor, server, path)?))
        });
        let mut seen = Vec::new();
        let actions = path.each("actions", actions, |proto, path| {
            let (action, triggers, config) = action(proto, &names, has_minimum, path)?;
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
        let (points, minimum_account) = (points?, minimum_account?);

        let mut manager = Self::new(refresh_interval.unwrap_or(DEFAULT_REFRESH_INTERVAL), server);
        for (name, resource) in resources {
            let monitor = match resource {
                Resource::Connections(limit) => {
                    let connections = &server.overload.connections;
                    connections.set_limit(limit);
                    Monitor::Connections(connections.clone())
                }
                Resource::Measured(monitor) => *monitor,
            };
            manager.add_monitor(&name, monitor, server);
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
            if action == Action::ResetHighMemoryStream
                && let Some(power) = minimum_account
            {
                server.overload.resets.track(power);
            }
            manager.add_action(action, triggers, shrink, server);
        }
        for (name, triggers) in points {
            manager.add_point(&name, triggers, server);
        }
        Ok(manager)
    }
}

/// The power of two of the least that a stream holds for its bytes to matter.
fn minimum_account(
    proto: Option<pb::BufferFactoryConfig>,
    path: &ConfigPath<'_>,
) -> Result<Option<u32>, Rejected> {
    let Some(pb::BufferFactoryConfig {
        minimum_account_to_track_power_of_two: power,
    }) = proto
    else {
        return Ok(None);
    };
    let path = path.field("buffer_factory_config");
    if (10..=56).contains(&power) {
        return Ok(Some(power));
    }
    Err(path
        .field("minimum_account_to_track_power_of_two")
        .reject(format!("{power} is not in 10..=56")))
}

fn load_shed_point(
    proto: pb::LoadShedPoint,
    monitors: &[String],
    path: &ConfigPath<'_>,
) -> Result<(String, Vec<Trigger>), Rejected> {
    let pb::LoadShedPoint {
        name,
        triggers: protos,
    } = proto;
    let name = path.non_empty("name", name);
    let triggers = triggers(protos, monitors, false, path);
    Ok((name?, triggers?))
}
