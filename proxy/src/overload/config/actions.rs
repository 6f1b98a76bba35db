//! The actions of an overload manager, as they are configured.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::overload::v3 as pb;

use super::super::manager::{Shrink, Trigger};
use super::super::scaled_timers::{ScaledTimer, ShortestTimeout};
use super::super::state::Action;
use super::trigger::triggers;
use crate::config::{ConfigPath, Rejected, TypedConfig};

const SCALE_TIMERS_TYPE: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";
const SHRINK_HEAP_TYPE: &str = "envoy.config.overload.v3.ShrinkHeapConfig";

const DEFAULT_SHRINK_INTERVAL: Duration = Duration::from_secs(10);
/// Free memory that is not worth giving back, in bytes.
const DEFAULT_MAX_UNFREED: u64 = 100 * 1024 * 1024;

/// What an action does beside being there.
pub(super) enum ActionConfig {
    Plain,
    Shrink(Shrink),
    Timers([Option<ShortestTimeout>; ScaledTimer::ALL.len()]),
}

/// `minimum_account`: whether `buffer_factory_config` is there.
pub(super) fn action(
    proto: pb::OverloadAction,
    monitors: &[String],
    minimum_account: bool,
    path: &ConfigPath<'_>,
) -> Result<(Action, Vec<Trigger>, ActionConfig), Rejected> {
    let pb::OverloadAction {
        name,
        triggers: protos,
        typed_config,
    } = proto;
    let action = Action::ALL.into_iter().find(|action| action.name() == name);
    let action = action.ok_or_else(|| {
        let known = Action::ALL.map(Action::name).join(", ");
        path.field("name").reject(format!(
            "\"{name}\" is an unknown overload manager action; known are {known}"
        ))
    });
    let triggers = triggers(protos, monitors, true, path);
    let (action, triggers) = (action?, triggers?);
    if action == Action::ResetHighMemoryStream && !minimum_account {
        return Err(path
            .field("name")
            .reject(format!("\"{name}\" requires buffer_factory_config")));
    }
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
            TimerType::HttpDownstreamStreamFlush => ScaledTimer::StreamFlush,
            TimerType::TransportSocketConnect => ScaledTimer::TransportSocketConnect,
            TimerType::Unspecified => {
                return Err(path.field("timer").reject("must be specified"));
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
