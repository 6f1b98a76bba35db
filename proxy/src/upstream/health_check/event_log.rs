//! The event log: a line of JSON for what becomes of a host, as `envoy.data.core.v3.HealthCheckEvent` has it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use serde_json::Value;

use crate::access_loggers::{Destination, LogFile};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::Address;
use crate::server::FactoryContext;
use crate::upstream::host::{Host, Locality};

/// Where events are written.
#[derive(Debug)]
pub(super) struct EventLog {
    files: Vec<Arc<LogFile>>,
    checker: HealthCheckerType,
}

/// `HealthCheckerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthCheckerType {
    Http,
    Tcp,
    Grpc,
    Redis,
}

/// `HealthCheckFailureType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureType {
    /// The host says that it is not well.
    Active,
    /// A response of ordinary traffic said so.
    Passive,
    /// The host could not be asked.
    Network,
    /// It did not answer in time.
    NetworkTimeout,
}

/// What has become of a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    EjectUnhealthy {
        failure: FailureType,
        http_status: u16,
    },
    AddHealthy {
        first_check: bool,
    },
    Failure {
        failure: FailureType,
        first_check: bool,
        http_status: u16,
    },
    Success,
    Degraded,
    NoLongerDegraded,
}

const FILE_SINK: &str =
    "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";

impl EventLog {
    /// None where nothing is logged.
    pub(super) fn from_proto(
        event_log_path: String,
        event_logger: Vec<core::TypedExtensionConfig>,
        checker: HealthCheckerType,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let mut files = path.each("event_logger", event_logger, |proto, path| {
            let (config, path) = TypedConfig::of_extension(proto, path)?;
            if config.type_name != FILE_SINK {
                return Err(config.unknown(&path, &[FILE_SINK]));
            }
            let HealthCheckEventFileSink { event_log_path } = config.decode(&path)?;
            let file = path.non_empty("event_log_path", event_log_path)?;
            open(&file, cx, &path.field("event_log_path"))
        })?;
        if !event_log_path.is_empty() {
            files.push(open(&event_log_path, cx, &path.field("event_log_path"))?);
        }
        Ok((!files.is_empty()).then_some(Self { files, checker }))
    }

    /// Writes what has become of a host of the cluster `cluster`.
    pub(super) fn log(&self, cluster: &str, host: &Host, event: Event) {
        let line = line(self.checker, cluster, host, event, SystemTime::now());
        for file in &self.files {
            file.append(0, |out| out.extend_from_slice(line.as_bytes()));
        }
    }
}

fn open(
    file: &str,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Arc<LogFile>, Rejected> {
    let destination = match file {
        "/dev/stdout" => Destination::Stdout,
        "/dev/stderr" => Destination::Stderr,
        file => Destination::File(file.into()),
    };
    let opened = cx.server.access_logs.open(&destination);
    opened.map_err(|error| path.reject(format!("unable to open file '{file}': {error}")))
}

impl FailureType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Passive => "PASSIVE",
            Self::Network => "NETWORK",
            Self::NetworkTimeout => "NETWORK_TIMEOUT",
        }
    }

    /// Whether the host could not be asked.
    pub(super) fn is_of_network(self) -> bool {
        matches!(self, Self::Network | Self::NetworkTimeout)
    }
}

// Writing to a string cannot fail.
fn line(
    checker: HealthCheckerType,
    cluster: &str,
    host: &Host,
    event: Event,
    now: SystemTime,
) -> String {
    let checker = match checker {
        HealthCheckerType::Http => "HTTP",
        HealthCheckerType::Tcp => "TCP",
        HealthCheckerType::Grpc => "GRPC",
        HealthCheckerType::Redis => "REDIS",
    };
    let mut out = format!("{{\"health_checker_type\":\"{checker}\",\"host\":");
    write_address(&mut out, &host.address);
    let _ = write!(out, ",\"cluster_name\":{}", Value::from(cluster));
    match event {
        Event::EjectUnhealthy {
            failure,
            http_status,
        } => {
            let failure = failure.as_str();
            let _ = write!(
                out,
                ",\"eject_unhealthy_event\":{{\"failure_type\":\"{failure}\",\"http_status_code\":{http_status}}}"
            );
        }
        Event::AddHealthy { first_check } => {
            let _ = write!(
                out,
                ",\"add_healthy_event\":{{\"first_check\":{first_check}}}"
            );
        }
        _ => {}
    }
    let _ = write!(out, ",\"timestamp\":\"{}\"", rfc3339(now));
    match event {
        Event::Failure {
            failure,
            first_check,
            http_status,
        } => {
            let failure = failure.as_str();
            let _ = write!(
                out,
                ",\"health_check_failure_event\":{{\"failure_type\":\"{failure}\",\"first_check\":{first_check},\"http_status_code\":{http_status}}}"
            );
        }
        Event::Degraded => out.push_str(",\"degraded_healthy_host\":{}"),
        Event::NoLongerDegraded => out.push_str(",\"no_longer_degraded_host\":{}"),
        _ => {}
    }
    write_metadata(&mut out, host);
    let Locality {
        region,
        zone,
        sub_zone,
    } = &*host.locality;
    let text = |text: &str| Value::from(text);
    let _ = write!(
        out,
        ",\"locality\":{{\"region\":{},\"zone\":{},\"sub_zone\":{}}}",
        text(region),
        text(zone),
        text(sub_zone)
    );
    if let Event::Success = event {
        out.push_str(",\"successful_health_check_event\":{}");
    }
    out.push_str("}\n");
    out
}

fn write_address(out: &mut String, address: &Address) {
    let _ = match address {
        Address::Ip(ip) => write!(
            out,
            "{{\"socket_address\":{{\"protocol\":\"TCP\",\"address\":\"{}\",\"port_value\":{},\"resolver_name\":\"\",\"ipv4_compat\":false,\"network_namespace_filepath\":\"\"}}}}",
            ip.ip(),
            ip.port()
        ),
        Address::Pipe(path) => write!(
            out,
            "{{\"pipe\":{{\"path\":{},\"mode\":0}}}}",
            Value::from(&**path)
        ),
    };
}

fn write_metadata(out: &mut String, host: &Host) {
    let mut namespaces: Vec<_> = host.metadata.iter().collect();
    if namespaces.is_empty() {
        return;
    }
    namespaces.sort_by_key(|(name, _)| *name);
    out.push_str(",\"metadata\":{\"filter_metadata\":{");
    for (at, (name, values)) in namespaces.into_iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{}:{{", Value::from(name));
        let mut values: Vec<_> = values.iter().collect();
        values.sort_by_key(|(key, _)| *key);
        for (at, (key, value)) in values.into_iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}:", Value::from(key.as_str()));
            write_value(out, value);
        }
        out.push('}');
    }
    out.push_str("},\"typed_filter_metadata\":{}}");
}

/// Whole numbers have no fraction.
fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < 1e15);
            let _ = match whole {
                Some(whole) => write!(out, "{whole:.0}"),
                None => write!(out, "{number}"),
            };
        }
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_value(out, value);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (at, (key, value)) in fields.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let _ = write!(out, "{comma}{}:", Value::from(key.as_str()));
                write_value(out, value);
            }
            out.push('}');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// `2026-11-21T14:26:40.217Z`: days count from 1970, months and years by the rule of 400 years.
pub(in crate::upstream) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // From the first of March of the year 0, so that the day that comes and goes is the last one of its year.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{of_month:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_the_form_of_envoys() {
        let mut host = Host::new(Address::Ip("127.0.0.1:8080".parse().unwrap()), 0);
        let Value::Object(values) = json!({"a": 1.0, "b": [true, 0.5]}) else {
            panic!("it is an object");
        };
        host.metadata.merge("envoy.lb", values);
        let now = UNIX_EPOCH + Duration::from_millis(1_795_271_200_217);
        let event = Event::EjectUnhealthy {
            failure: FailureType::Active,
            http_status: 500,
        };
        assert_eq!(
            line(HealthCheckerType::Http, "c1", &host, event, now),
            concat!(
                r#"{"health_checker_type":"HTTP","host":{"socket_address":{"protocol":"TCP","address":"127.0.0.1","port_value":8080,"#,
                r#""resolver_name":"","ipv4_compat":false,"network_namespace_filepath":""}},"cluster_name":"c1","#,
                r#""eject_unhealthy_event":{"failure_type":"ACTIVE","http_status_code":500},"timestamp":"2026-11-21T14:26:40.217Z","#,
                r#""metadata":{"filter_metadata":{"envoy.lb":{"a":1,"b":[true,0.5]}},"typed_filter_metadata":{}},"#,
                r#""locality":{"region":"","zone":"","sub_zone":""}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn dates_follow_the_calendar() {
        let date =
            |days: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(days * 86_400))[..10].to_owned();
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(20_453), "2025-12-31");
    }
}
