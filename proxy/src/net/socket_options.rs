//! What `SocketOption` and `TcpKeepalive` of the API set on sockets, of listeners and of upstream connections alike.

use std::io;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::socket_option::{SocketIpVersion, SocketState, Value};
use socket2::{Socket, TcpKeepalive};

use super::{Address, set_socket_option};
use crate::config::{ConfigPath, Rejected};

/// When in the life of a socket an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the API's own names")]
pub enum SocketStage {
    Prebind,
    Bound,
    Listening,
}

/// One option by numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    level: i32,
    name: i32,
    value: Vec<u8>,
    stage: SocketStage,
    /// For addresses of this family only. Some(true): IPv4.
    v4_only: Option<bool>,
    description: String,
}

impl SocketOption {
    /// Converts a `SocketOption`; none where it is for datagram sockets only.
    pub fn from_proto(
        proto: pb::SocketOption,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let pb::SocketOption {
            description,
            level,
            name,
            state,
            r#type,
            ip_version,
            value,
        } = proto;
        let number = |field: &str, value: i64| {
            i32::try_from(value).map_err(|_| {
                path.field(field)
                    .reject(format!("{value} is not a number of 32 bits"))
            })
        };
        let level = number("level", level);
        let name = number("name", name);
        let state = path.enumeration::<SocketState>("state", state);
        let version = path.enumeration::<SocketIpVersion>("ip_version", ip_version);
        let value = match path.required("value", value)? {
            Value::IntValue(value) => number("int_value", value)?.to_ne_bytes().to_vec(),
            Value::BufValue(value) => value,
        };
        let datagram_only =
            r#type.is_some_and(|kind| kind.datagram.is_some() && kind.stream.is_none());
        let option = Self {
            level: level?,
            name: name?,
            value,
            stage: match state? {
                SocketState::StatePrebind => SocketStage::Prebind,
                SocketState::StateBound => SocketStage::Bound,
                SocketState::StateListening => SocketStage::Listening,
            },
            v4_only: match version? {
                SocketIpVersion::Unspecified => None,
                SocketIpVersion::Ipv4 => Some(true),
                SocketIpVersion::Ipv6 => Some(false),
            },
            description,
        };
        Ok((!datagram_only).then_some(option))
    }

    /// Sets the option if it belongs to this stage and to this kind of address.
    pub fn apply(&self, socket: &Socket, stage: SocketStage, address: &Address) -> io::Result<()> {
        let is_v4 = address.ip().map(|ip| ip.is_ipv4());
        if self.stage != stage || self.v4_only.is_some_and(|v4| is_v4 != Some(v4)) {
            return Ok(());
        }
        set_socket_option(socket, self.level, self.name, &self.value).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "socket option {} {} ({}): {error}",
                    self.level, self.name, self.description
                ),
            )
        })
    }
}

/// `TcpKeepalive`. What is not set stays as the system has it; a 0 anywhere turns keepalive off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    probes: Option<u32>,
    time: Option<u32>,
    interval: Option<u32>,
}

impl Keepalive {
    /// Converts a `TcpKeepalive`.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "conversions take their message"
    )]
    pub fn from_proto(proto: pb::TcpKeepalive, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::TcpKeepalive {
            keepalive_probes,
            keepalive_time,
            keepalive_interval,
        } = proto;
        let number = |name: &str, value: Option<u32>| {
            value
                .map(|value| path.in_range(name, value, 0..=32_767))
                .transpose()
        };
        let probes = number("keepalive_probes", keepalive_probes.map(|v| v.value));
        let time = number("keepalive_time", keepalive_time.map(|v| v.value));
        let interval = number("keepalive_interval", keepalive_interval.map(|v| v.value));
        Ok(Self {
            probes: probes?,
            time: time?,
            interval: interval?,
        })
    }

    /// Sets the options.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        if [self.probes, self.time, self.interval].contains(&Some(0)) {
            return socket.set_keepalive(false);
        }
        let mut keepalive = TcpKeepalive::new();
        if let Some(probes) = self.probes {
            keepalive = keepalive.with_retries(probes);
        }
        if let Some(time) = self.time {
            keepalive = keepalive.with_time(Duration::from_secs(time.into()));
        }
        if let Some(interval) = self.interval {
            keepalive = keepalive.with_interval(Duration::from_secs(interval.into()));
        }
        socket.set_tcp_keepalive(&keepalive)
    }
}
