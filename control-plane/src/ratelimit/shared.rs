//! Counters in Redis, which several control planes share.
//!
//! One script counts a request in all of its counters or in none, by the clock of Redis. A counter is a hash of the fields of
//! [`Counter`](super::Counter) under `outrigger:LENGTH:KEYS`, which Redis forgets when it counts nothing any more. A
//! connection that breaks is made anew for the same question; while there is none, questions are answered by an error at
//! once, and what becomes of requests then is the proxy's own choice (`failure_mode_deny`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::store::{Ask, Told};
use super::window::Counter;

/// Time for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_millis(250);
/// How long a connection that could not be made is not tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// Beyond it numbers of Lua are not exact.
const MOST: u64 = 1 << 53;

/// Counters in Redis.
#[derive(Debug)]
pub struct Shared {
    client: Client,
    script: Script,
    link: Mutex<Link>,
    is_away: AtomicBool,
}

/// Counters that cannot be reached.
#[derive(Debug, Error)]
#[error("the counters of rate limits cannot be reached: {0}")]
pub struct Unavailable(String);

#[derive(Debug)]
enum Link {
    None,
    Up(MultiplexedConnection),
    /// Not to be tried before.
    Down(Instant, String),
}

impl Shared {
    /// The counters of a Redis, such as `redis://USER:PASSWORD@HOST:6379/0` or `unix:///PATH`. It need not be there yet.
    ///
    /// # Errors
    /// It is no such URL, or one of `rediss`: TLS is not spoken.
    pub fn new(url: &str, password: Option<&str>) -> Result<Self, String> {
        let made = || {
            let mut info = url.into_connection_info()?;
            if let Some(password) = password {
                let settings = info.redis_settings().clone().set_password(password);
                info = info.set_redis_settings(settings);
            }
            Client::open(info)
        };
        let client = made().map_err(|error: RedisError| error.to_string())?;
        Ok(Self {
            client,
            script: Script::new(include_str!("take.lua")),
            link: Mutex::new(Link::None),
            is_away: AtomicBool::new(false),
        })
    }

    /// As [`Counters::take`](super::Counters), by the clock of Redis.
    pub(super) async fn take(&self, asks: &[Ask]) -> Result<Vec<Told>, Unavailable> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let mut answer = self.run(asks).await;
        if answer.as_ref().is_err_and(Failure::is_broken) {
            // It may have been broken since the last question.
            answer = self.run(asks).await;
        }
        match answer {
            Ok(values) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("The counters of rate limits are there again.");
                }
                told(asks, &values)
            }
            Err(failure) => {
                let text = failure.to_string();
                // Once, not for each request.
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = text, "The counters of rate limits are away.");
                }
                Err(Unavailable(text))
            }
        }
    }

    async fn run(&self, asks: &[Ask]) -> Result<Vec<i64>, Failure> {
        let mut connection = self.connection().await.map_err(Failure::NoConnection)?;
        let mut call = self.script.prepare_invoke();
        for ask in asks {
            call.key(format!("outrigger:{}:{}", ask.length, ask.key))
                .arg(ask.length)
                .arg(ask.limit)
                .arg(ask.hits.min(MOST))
                .arg(u8::from(ask.gives_back))
                .arg(u8::from(ask.shadow));
        }
        let answer = call.invoke_async(&mut connection).await;
        let answer = answer.map_err(Failure::Call);
        if answer.as_ref().is_err_and(Failure::costs_the_connection) {
            *self.link.lock().await = Link::None;
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, String> {
        let mut link = self.link.lock().await;
        match &*link {
            Link::Up(connection) => return Ok(connection.clone()),
            Link::Down(until, error) if Instant::now() < *until => return Err(error.clone()),
            Link::None | Link::Down(..) => {}
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let made = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        match made.await {
            Ok(connection) => {
                *link = Link::Up(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let error = error.to_string();
                *link = Link::Down(Instant::now() + PAUSE, error.clone());
                Err(error)
            }
        }
    }
}

#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    NoConnection(String),
    #[error("{0}")]
    Call(RedisError),
}

impl Failure {
    /// Whether the connection had ended, so that another one may do better.
    fn is_broken(&self) -> bool {
        matches!(self, Self::Call(error) if !error.is_timeout()) && self.costs_the_connection()
    }

    /// Whether the connection is of no use any more. An answer that does not come may never come.
    fn costs_the_connection(&self) -> bool {
        match self {
            Self::NoConnection(_) => false,
            Self::Call(error) => {
                error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
            }
        }
    }
}

fn told(asks: &[Ask], values: &[i64]) -> Result<Vec<Told>, Unavailable> {
    let wrong = || Unavailable("the script has answered something else".to_owned());
    let values: Vec<u64> = values
        .iter()
        .map(|value| u64::try_from(*value).map_err(|_| wrong()))
        .collect::<Result<_, _>>()?;
    let (now, values) = values.split_first().ok_or_else(wrong)?;
    if values.len() != 4 * asks.len() {
        return Err(wrong());
    }
    let told = asks.iter().zip(values.chunks_exact(4)).map(|(ask, value)| {
        let counter = Counter::of(value[0], value[1], value[2]);
        Told::of(counter, ask, value[3] == 1, *now)
    });
    Ok(told.collect())
}
