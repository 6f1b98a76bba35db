//! `custom_health_check` of a Redis: whether it is there, or whether it has a key that says that it is not to be used.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/health_checkers/redis>
//! Type URL: `envoy.extensions.health_checkers.redis.v3.Redis`.
//! Stats: `cluster.<name>.upstream_commands.upstream_rq_time`. Connections and commands count like those of ordinary traffic, so a
//! cluster that is checked like this has had some.
//!
//! As in Envoy it is the address of the endpoint that is asked, over the transport socket of its traffic, within the cluster's
//! `connect_timeout`: another address in `health_check_config`, `tls_options` and `transport_socket_match_criteria` are not looked at.
//!
//! Deviations: `aws_iam` is refused; each health check has its own `key`, where Envoy has one for the whole process, the first.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::health_checkers::redis::v3 as pb;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::connection::{Link, TcpLink};
use super::event_log::FailureType;
use super::resp::{self, Malformed, Reply};
use super::session::Outcome;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::upstream::WorkerHost;
use crate::upstream::host::{HostHandle, HostStat};
use crate::upstream::pool::ConnectError;
use crate::upstream::shared_cluster::Cluster;

/// The type of the configuration.
pub(super) const TYPE_NAME: &str = "envoy.extensions.health_checkers.redis.v3.Redis";

crate::stats_group! {
    /// What commands take.
    pub(super) struct CommandStats {
        histogram upstream_rq_time (Microseconds);
    }
}

/// A converted `Redis`.
#[derive(Debug)]
pub(super) struct RedisCheck {
    command: Box<[u8]>,
    /// What a healthy host answers.
    good: Reply<'static>,
}

/// A connection to a Redis.
pub(super) struct RedisLink {
    /// None: not yet.
    io: Option<TcpLink>,
    counted: Rc<Counted>,
}

/// Counts a connection from its beginning to its end.
struct Counted {
    cluster: Arc<Cluster>,
    host: Rc<HostHandle>,
    /// A command has had no answer.
    is_busy: Cell<bool>,
    is_ended_by_peer: Cell<bool>,
}

/// Counts a command, which is given up when this is dropped before its end.
struct Command {
    connection: Rc<Counted>,
    is_over: bool,
}

/// What comes of a question.
enum Answer {
    Reply(Outcome),
    /// One that Envoy keeps the connection behind whatever `reuse_connection` says.
    Elsewhere(Outcome),
    /// The peer has ended the connection, or never took it.
    Lost,
    /// We end it.
    Refused,
}

impl RedisCheck {
    pub(super) fn from_config(
        config: &TypedConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Redis { key, aws_iam } = config.decode(path)?;
        path.unsupported_if_set("aws_iam", aws_iam)?;
        let (command, good) = match key.as_bytes() {
            [] => (resp::command(&[b"PING"]), Reply::Simple(b"PONG")),
            key => (resp::command(&[b"EXISTS", key]), Reply::Integer(0)),
        };
        Ok(Self {
            command: command.into(),
            good,
        })
    }

    /// Asks the host once.
    pub(super) async fn check(&self, inner: &Inner, host: &WorkerHost, link: &mut Link) -> Outcome {
        let mut redis = match std::mem::take(link) {
            Link::Redis(redis) => *redis,
            _ => RedisLink::new(inner, host),
        };
        // It is shown before anything is in it.
        let stats = inner.command_stats();
        let start = Instant::now();
        let mut command = Command::begin(&redis.counted);
        let answer = self.ask(inner, host, &mut redis).await;
        command.is_over = true;
        redis.counted.is_busy.set(false);
        if let Answer::Reply(_) | Answer::Elsewhere(_) = answer {
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            stats.upstream_rq_time().record(micros);
        }
        match answer {
            Answer::Reply(outcome) if !inner.config.reuse_connection => outcome,
            Answer::Reply(outcome) | Answer::Elsewhere(outcome) => {
                *link = Link::Redis(Box::new(redis));
                outcome
            }
            Answer::Lost | Answer::Refused => {
                let is_peer = matches!(answer, Answer::Lost);
                redis.counted.is_busy.set(true);
                redis.counted.is_ended_by_peer.set(is_peer);
                Outcome::failed(FailureType::Network)
            }
        }
    }

    async fn ask(&self, inner: &Inner, host: &WorkerHost, redis: &mut RedisLink) -> Answer {
        let stats = &inner.cluster.info.stats;
        let io = match &mut redis.io {
            Some(io) => io,
            none => match connect(inner, host).await {
                Ok(io) => none.insert(io),
                Err(ConnectError::Timeout) => {
                    stats.upstream_cx_connect_timeout().inc();
                    redis.counted.host.count(HostStat::CxConnectFail);
                    return Answer::Refused;
                }
                Err(_) => {
                    stats.upstream_cx_connect_fail().inc();
                    redis.counted.host.count(HostStat::CxConnectFail);
                    return Answer::Lost;
                }
            },
        };
        // What came without a question answers none.
        io.received.clear();
        if !io.write(&self.command).await {
            return Answer::Lost;
        }
        loop {
            match resp::reply(&io.received) {
                Ok(Some(reply)) => return self.judge(&reply),
                Ok(None) => {}
                Err(Malformed) => {
                    stats.upstream_cx_protocol_error().inc();
                    redis.counted.host.count(HostStat::RqError);
                    return Answer::Refused;
                }
            }
            if !io.read().await {
                return Answer::Lost;
            }
        }
    }

    fn judge(&self, reply: &Reply<'_>) -> Answer {
        let healthy = Outcome::Healthy { degraded: false };
        match reply {
            reply if *reply == self.good => Answer::Reply(healthy),
            // A member of a cluster says who has the key: it is well.
            Reply::Error(error) if is_redirection(error) => Answer::Elsewhere(healthy),
            Reply::Error(error) if words(error).next() == Some(b"CLUSTERDOWN") => {
                Answer::Elsewhere(Outcome::failed(FailureType::Network))
            }
            _ => Answer::Reply(Outcome::failed(FailureType::Active)),
        }
    }
}

async fn connect(inner: &Inner, host: &WorkerHost) -> Result<TcpLink, ConnectError> {
    let limit = inner.cluster.info.settings.connect_timeout;
    match timeout(limit, inner.connect_like_traffic(host)).await {
        Ok(connected) => connected.map(TcpLink::new),
        Err(_) => Err(ConnectError::Timeout),
    }
}

fn words(error: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = error.split(|byte| *byte == b' ');
    words.filter(|word| !word.is_empty())
}

/// `MOVED 3999 127.0.0.1:6381`.
fn is_redirection(error: &[u8]) -> bool {
    words(error).count() == 3 && matches!(words(error).next(), Some(b"MOVED" | b"ASK"))
}

impl RedisLink {
    /// Not connected yet.
    fn new(inner: &Inner, host: &WorkerHost) -> Self {
        let stats = &inner.cluster.info.stats;
        stats.upstream_cx_total().inc();
        stats.upstream_cx_active().inc();
        host.count(HostStat::CxTotal);
        host.count(HostStat::CxActive);
        Self {
            io: None,
            counted: Rc::new(Counted {
                cluster: inner.cluster.clone(),
                host: host.handle().clone(),
                is_busy: Cell::new(false),
                is_ended_by_peer: Cell::new(false),
            }),
        }
    }

    /// Ends when the peer has ended the connection, on which nothing is asked.
    pub(super) async fn gone(&mut self) {
        if let Some(io) = &mut self.io {
            while io.read().await {}
        }
        self.counted.is_ended_by_peer.set(true);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = &self.cluster.info.stats;
        stats.upstream_cx_active().dec();
        self.host.uncount(HostStat::CxActive);
        stats.upstream_cx_destroy().inc();
        let (is_peer, is_busy) = (self.is_ended_by_peer.get(), self.is_busy.get());
        if is_busy {
            stats.upstream_cx_destroy_with_active_rq().inc();
        }
        match is_peer {
            true => stats.upstream_cx_destroy_remote().inc(),
            false => stats.upstream_cx_destroy_local().inc(),
        }
        match (is_busy, is_peer) {
            (true, true) => stats.upstream_cx_destroy_remote_with_active_rq().inc(),
            (true, false) => stats.upstream_cx_destroy_local_with_active_rq().inc(),
            (false, _) => {}
        }
    }
}

impl Command {
    fn begin(connection: &Rc<Counted>) -> Self {
        let stats = &connection.cluster.info.stats;
        stats.upstream_rq_total().inc();
        stats.upstream_rq_active().inc();
        connection.host.count(HostStat::RqTotal);
        connection.host.count(HostStat::RqActive);
        connection.is_busy.set(true);
        Self {
            connection: connection.clone(),
            is_over: false,
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let stats = &self.connection.cluster.info.stats;
        stats.upstream_rq_active().dec();
        self.connection.host.uncount(HostStat::RqActive);
        if !self.is_over {
            stats.upstream_rq_cancelled().inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{Checked, Turn, run, wait};
    use super::*;
    use crate::upstream::Health;

    const TIMES: &str = "timeout: 1s, interval: 5s, no_traffic_interval: 60s, unhealthy_threshold: 2, healthy_threshold: 1";

    fn redis(fields: &str) -> String {
        format!(
            "{TIMES}, custom_health_check: {{name: redis, typed_config: {{\"@type\": type.googleapis.com/{TYPE_NAME}, {fields}}}}}"
        )
    }

    fn says(bytes: &'static str) -> Turn {
        Turn::Say(bytes)
    }

    #[test]
    fn a_host_that_answers_a_ping_is_healthy_and_has_had_traffic() {
        run(async {
            let checked = Checked::start(1, &redis(""), &[says("+PONG\r\n")]);
            wait(6).await;
            assert_eq!(
                *checked.hosts.heard.borrow(),
                "*1\r\n$4\r\nPING\r\n".repeat(2)
            );
            assert_eq!(checked.first().coarse_health(), Health::Healthy);
            assert_eq!(checked.asked(), [0, 5_000]);
            assert_eq!(checked.hosts.connections.get(), 1);
            assert_eq!(checked.stat("upstream_cx_total"), 1);
            assert_eq!(checked.stat("upstream_cx_active"), 1);
            assert_eq!(checked.stat("upstream_rq_total"), 2);
            assert_eq!(checked.stat("upstream_rq_active"), 0);
        });
    }

    #[test]
    fn a_host_that_lacks_the_key_is_healthy() {
        run(async {
            let turns = [says(":0\r\n"), says(":1\r\n")];
            let checked = Checked::start(1, &redis("key: down"), &turns);
            wait(1).await;
            let asked = "*2\r\n$6\r\nEXISTS\r\n$4\r\ndown\r\n";
            assert_eq!(*checked.hosts.heard.borrow(), asked);
            assert_eq!(checked.first().coarse_health(), Health::Healthy);
            wait(5).await;
            assert_eq!(checked.first().coarse_health(), Health::Unhealthy);
            assert_eq!(checked.stat("health_check.network_failure"), 0);
        });
    }

    #[test]
    fn a_member_of_a_cluster_that_says_who_has_the_key_is_healthy() {
        run(async {
            let turns = [
                says("-MOVED 3999 127.0.0.1:6381\r\n"),
                says("-CLUSTERDOWN The cluster is down\r\n"),
                says("-ERR unknown command\r\n"),
            ];
            let checked = Checked::start(1, &redis("key: down"), &turns);
            wait(6).await;
            assert_eq!(checked.stat("health_check.success"), 1);
            assert_eq!(checked.stat("health_check.network_failure"), 1);
            assert_eq!(checked.first().coarse_health(), Health::Healthy);
            wait(5).await;
            assert_eq!(checked.first().coarse_health(), Health::Unhealthy);
            assert_eq!(checked.hosts.connections.get(), 1);
        });
    }

    #[test]
    fn a_question_without_an_answer_is_cancelled_with_its_connection() {
        run(async {
            let turns = [says("+PONG\r\n"), Turn::Silence, says("+PONG\r\n")];
            let checked = Checked::start(1, &redis(""), &turns);
            tokio::time::sleep(Duration::from_millis(6_500)).await;
            assert_eq!(checked.stat("upstream_rq_cancelled"), 1);
            assert_eq!(checked.stat("upstream_cx_destroy_local_with_active_rq"), 1);
            assert_eq!(checked.stat("upstream_cx_active"), 0);
            wait(5).await;
            assert_eq!(checked.hosts.connections.get(), 2);
            assert_eq!(checked.stat("upstream_cx_active"), 1);
        });
    }

    #[test]
    fn rubbish_ends_the_connection() {
        run(async {
            let checked = Checked::start(1, &redis(""), &[says(":one\r\n")]);
            wait(1).await;
            assert_eq!(checked.stat("upstream_cx_protocol_error"), 1);
            assert_eq!(checked.stat("upstream_cx_destroy_local"), 1);
            assert_eq!(checked.stat("health_check.network_failure"), 1);
        });
    }

    #[test]
    fn a_host_that_refuses_connections_or_closes_them_fails_like_the_network() {
        run(async {
            let checked = Checked::start(1, &redis(""), &[Turn::Refuse, Turn::Close]);
            wait(6).await;
            assert_eq!(checked.stat("upstream_cx_connect_fail"), 1);
            assert_eq!(checked.stat("health_check.network_failure"), 2);
            assert_eq!(checked.stat("upstream_cx_destroy_remote_with_active_rq"), 2);
        });
    }

    #[test]
    fn a_connection_is_used_once_if_it_says_so() {
        run(async {
            let check = format!("{}, reuse_connection: false", redis(""));
            let checked = Checked::start(1, &check, &[says("+PONG\r\n")]);
            wait(6).await;
            assert_eq!(checked.hosts.connections.get(), 2);
            assert_eq!(checked.stat("upstream_cx_destroy_local"), 2);
            assert_eq!(checked.stat("upstream_cx_destroy_with_active_rq"), 0);
        });
    }
}
