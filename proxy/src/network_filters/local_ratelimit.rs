//! `envoy.filters.network.local_ratelimit`: closes connections beyond a rate, counted in this process.
//! Type URLs: `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/local_rate_limit_filter>
//! Stats: `local_rate_limit.<stat_prefix>.rate_limited`.
//! Termination details: `local_ratelimit_close_over_limit`.
//! Deviations: the flag `URX`, which Envoy gives to the connection, is not in the log of the listener.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Weak};

use outrigger_proto::pb::envoy::extensions::filters::network::local_ratelimit::v3 as pb;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::rate_limit::{BucketSettings, TokenBucket};
use crate::runtime::RuntimeFlag;
use crate::server::{FactoryContext, ServerContext, Worker};
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.local_ratelimit"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(NetworkFilterConfig::Filter(Arc::new(Shared(Arc::new(
            config,
        )))))
    }
}

stats_group! {
    /// What the filter counts.
    pub struct Stats {
        counter rate_limited;
    }
}

struct Config {
    bucket: Arc<TokenBucket>,
    enabled: RuntimeFlag,
    stats: Stats,
}

struct Shared(Arc<Config>);

/// What makes two filters share a bucket, within one process: its address (a program may run several for tests), `share_key`
/// and the settings.
type ShareKey = (usize, String, BucketSettings);

/// Buckets with a `share_key`, as long as a filter has one. Only conversion looks here.
static SHARED: LazyLock<Mutex<HashMap<ShareKey, Weak<TokenBucket>>>> =
    LazyLock::new(Mutex::default);

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
            share_key,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let settings = path.required("token_bucket", token_bucket);
        let settings = settings
            .and_then(|bucket| BucketSettings::from_proto(bucket, "", &path.field("token_bucket")));
        let enabled = path.optional("runtime_enabled", runtime_enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        let scope = format!("local_rate_limit.{}.", prefix?);
        Ok(Self {
            bucket: bucket(share_key, settings?, cx.server),
            enabled: enabled?.unwrap_or_else(|| cx.server.runtime.flag("", true)),
            stats: Stats::new(&cx.server.stats.scope(&scope)),
        })
    }
}

fn bucket(
    share_key: String,
    settings: BucketSettings,
    server: &Arc<ServerContext>,
) -> Arc<TokenBucket> {
    let make = || Arc::new(TokenBucket::new(&settings));
    if share_key.is_empty() {
        return make();
    }
    let mut shared = SHARED.lock();
    shared.retain(|_, bucket| bucket.strong_count() > 0);
    let key = (Arc::as_ptr(server).addr(), share_key, settings);
    if let Some(known) = shared.get(&key).and_then(Weak::upgrade) {
        return known;
    }
    let made = make();
    shared.insert(key, Arc::downgrade(&made));
    made
}

impl FilterConfig for Shared {
    fn new_connection(&self, _: &Rc<Worker>) -> Box<dyn NetworkFilter> {
        Box::new(LocalRateLimit(self.0.clone()))
    }
}

struct LocalRateLimit(Arc<Config>);

impl NetworkFilter for LocalRateLimit {
    fn on_new_connection(&mut self, _: &ConnectionInfo) -> NetworkStatus {
        let config = &*self.0;
        if !config.enabled.get() || config.bucket.consume(Instant::now(), 1, 1.0) {
            return NetworkStatus::Continue;
        }
        config.stats.rate_limited().inc();
        NetworkStatus::Close("local_ratelimit_close_over_limit")
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::v3::TokenBucket as PbBucket;
    use outrigger_proto::pb::google::protobuf::Duration as PbDuration;

    use super::*;
    use crate::config::ConfigReport;
    use crate::net::Address;
    use crate::server::{InitManager, LocalInfo};
    use crate::upstream::WorkerClusters;

    struct Process {
        server: Arc<ServerContext>,
        worker: Rc<Worker>,
    }

    fn process() -> Process {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let worker = Worker::new(0, server.clone(), WorkerClusters::default(), 1);
        Process { server, worker }
    }

    impl Process {
        fn filter(&self, max_tokens: u32, share_key: &str) -> Shared {
            let scope = self.server.stats.scope("");
            let report = ConfigReport::new();
            let cx = FactoryContext {
                server: &self.server,
                scope: &scope,
                init: &InitManager::new("test"),
            };
            let proto = pb::LocalRateLimit {
                stat_prefix: "x".into(),
                token_bucket: Some(PbBucket {
                    max_tokens,
                    tokens_per_fill: None,
                    fill_interval: Some(PbDuration {
                        seconds: 10,
                        nanos: 0,
                    }),
                }),
                runtime_enabled: None,
                share_key: share_key.into(),
            };
            let path = ConfigPath::root(&report, "filter");
            Shared(Arc::new(Config::from_proto(proto, &cx, &path).unwrap()))
        }

        fn admits(&self, filter: &Shared) -> bool {
            let address = Address::Pipe("a".into());
            let info = ConnectionInfo::between(address.clone(), address);
            let mut filter = filter.new_connection(&self.worker);
            matches!(filter.on_new_connection(&info), NetworkStatus::Continue)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_rate_are_closed_and_counted() {
        let process = process();
        let filter = process.filter(1, "");
        assert!(process.admits(&filter) && !process.admits(&filter));
        assert_eq!(filter.0.stats.rate_limited().value(), 1);
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert!(process.admits(&filter));
    }

    #[test]
    fn filters_share_a_bucket_when_key_and_settings_agree() {
        let process = process();
        let [first, second] = [process.filter(1, "k"), process.filter(1, "k")];
        let [other_key, other_rate] = [process.filter(1, "l"), process.filter(2, "k")];
        assert!(process.admits(&first) && !process.admits(&second));
        assert!(process.admits(&other_key) && process.admits(&other_rate));
        drop((first, second));
        assert!(process.admits(&process.filter(1, "k")), "it begins anew");
    }
}
