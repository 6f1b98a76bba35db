//! `envoy.filters.listener.local_ratelimit`: closes connections beyond a rate before anything of them is read.
//! Type URLs: `envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/local_rate_limit_filter>
//! Stats: `listener_local_ratelimit.<stat_prefix>.rate_limited`.
//! Deviations: none.

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::listener::local_ratelimit::v3 as pb;
use tokio::time::Instant;

use super::{ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerFilterStatus};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::rate_limit::{BucketSettings, TokenBucket};
use crate::runtime::RuntimeFlag;
use crate::server::FactoryContext;
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl ListenerFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.listener.local_ratelimit"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(Shared(Arc::new(config))))
    }
}

stats_group! {
    /// What the filter counts.
    pub struct Stats {
        counter rate_limited;
    }
}

struct Config {
    bucket: TokenBucket,
    enabled: RuntimeFlag,
    stats: Stats,
}

struct Shared(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::LocalRateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::LocalRateLimit {
            stat_prefix,
            token_bucket,
            runtime_enabled,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let bucket = path.required("token_bucket", token_bucket);
        let bucket = bucket
            .and_then(|bucket| BucketSettings::from_proto(bucket, "", &path.field("token_bucket")));
        let enabled = path.optional("runtime_enabled", runtime_enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        let scope = format!("listener_local_ratelimit.{}.", prefix?);
        Ok(Self {
            bucket: TokenBucket::new(&bucket?),
            enabled: enabled?.unwrap_or_else(|| cx.server.runtime.flag("", true)),
            stats: Stats::new(&cx.server.stats.scope(&scope)),
        })
    }
}

impl ListenerFilterConfig for Shared {
    fn new_connection(&self) -> Box<dyn ListenerFilter> {
        Box::new(LocalRateLimit(self.0.clone()))
    }
}

struct LocalRateLimit(Arc<Config>);

impl ListenerFilter for LocalRateLimit {
    fn max_read_bytes(&self) -> usize {
        0
    }

    fn inspect(&mut self, _: &[u8], _: &mut ConnectionInfo) -> ListenerFilterStatus {
        let config = &*self.0;
        if !config.enabled.get() || config.bucket.consume(Instant::now(), 1, 1.0) {
            return ListenerFilterStatus::Continue { consumed: 0 };
        }
        config.stats.rate_limited().inc();
        ListenerFilterStatus::Close("")
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::v3::TokenBucket as PbBucket;
    use outrigger_proto::pb::google::protobuf::Duration as PbDuration;

    use super::*;
    use crate::config::ConfigReport;
    use crate::net::Address;
    use crate::server::{InitManager, LocalInfo, ServerContext};

    fn filter(proto: pb::LocalRateLimit) -> Result<Shared, Vec<String>> {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let scope = server.stats.scope("");
        let report = ConfigReport::new();
        let cx = FactoryContext {
            server: &server,
            scope: &scope,
            init: &InitManager::new("test"),
        };
        let config = Config::from_proto(proto, &cx, &ConfigPath::root(&report, "filter"));
        config
            .map(|config| Shared(Arc::new(config)))
            .map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    fn proto(nanos: i32) -> pb::LocalRateLimit {
        pb::LocalRateLimit {
            stat_prefix: "x".into(),
            token_bucket: Some(PbBucket {
                max_tokens: 1,
                tokens_per_fill: None,
                fill_interval: Some(PbDuration { seconds: 0, nanos }),
            }),
            runtime_enabled: None,
        }
    }

    fn admits(filter: &Shared) -> bool {
        let address = Address::Pipe("a".into());
        let mut info = ConnectionInfo::between(address.clone(), address);
        let status = filter.new_connection().inspect(b"", &mut info);
        status == ListenerFilterStatus::Continue { consumed: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_rate_are_closed_and_counted() {
        let filter = filter(proto(100_000_000)).unwrap_or_else(|errors| panic!("{errors:?}"));
        assert!(admits(&filter) && !admits(&filter));
        assert_eq!(filter.0.stats.rate_limited().value(), 1);
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        assert!(admits(&filter));
    }

    #[test]
    fn tokens_cannot_come_faster_than_every_50_ms() {
        let Err(errors) = filter(proto(49_000_000)) else {
            panic!("it is accepted");
        };
        assert_eq!(
            errors,
            [
                "filter / token_bucket / fill_interval: local rate limit token bucket fill timer must be >= 50ms"
            ]
        );
    }
}
