//! What the bootstrap takes from management servers: clusters, listeners, runtime layers.
//!
//! Stats of the layers, all together: `runtime.{update_attempt,update_success,update_failure,update_rejected,update_time,
//! update_duration,init_fetch_timeout,version,version_text}`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::runtime::v3::Runtime as RuntimeProto;
use pb::bootstrap::DynamicResources as DynamicProto;
use pb::runtime_layer::{LayerSpecifier, RtdsLayer};
use tracing::info;

use super::bootstrap::flatten;
use super::{InitManager, InitTarget, ServerContext};
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::stats::Scope;
use crate::xds::{
    ApiSource, FetchFailure, Interest, Refused, ResourceKind, Subscription, SubscriptionStats,
    Update, Watcher, XdsClient, XdsSource,
};

/// Converted `dynamic_resources`, and the layers of `layered_runtime` that come by RTDS.
#[derive(Debug, Default)]
pub(super) struct DynamicResources {
    /// Where the aggregated stream is.
    pub(super) ads: Option<ApiSource>,
    /// Where clusters are.
    pub(super) cds: Option<XdsSource>,
    /// Where listeners are.
    pub(super) lds: Option<XdsSource>,
    /// By the name of the layer.
    layers: Vec<(String, RuntimeSource)>,
}

/// A layer and where its values are.
#[derive(Debug)]
struct RuntimeSource {
    /// The name of the resource.
    name: String,
    source: XdsSource,
}

impl DynamicResources {
    /// Converts them. What is wrong is in the report.
    pub(super) fn convert(
        bootstrap: &pb::Bootstrap,
        server: &Arc<ServerContext>,
        report: &ConfigReport,
    ) -> Self {
        let root = ConfigPath::root(report, "bootstrap");
        let dynamic = bootstrap.dynamic_resources.clone();
        let dynamic = root.optional("dynamic_resources", dynamic, |dynamic, path| {
            Self::from_proto(dynamic, server, path)
        });
        let mut dynamic = dynamic.ok().flatten().unwrap_or_default();
        let layers = bootstrap.layered_runtime.clone().unwrap_or_default().layers;
        let path = root.field("layered_runtime");
        let layers = path.each("layers", layers, |layer, path| {
            match layer.layer_specifier {
                Some(LayerSpecifier::RtdsLayer(rtds)) => {
                    let source = runtime_source(rtds, server, &path.field("rtds_layer"))?;
                    Ok(Some((layer.name, source)))
                }
                _ => Ok(None),
            }
        });
        // A rejection is in the report already.
        dynamic.layers = layers.unwrap_or_default().into_iter().flatten().collect();
        dynamic
    }

    fn from_proto(
        proto: DynamicProto,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let DynamicProto {
            lds_config,
            lds_resources_locator,
            cds_config,
            cds_resources_locator,
            ads_config,
        } = proto;
        let locators = [
            path.unsupported_if_set("lds_resources_locator", lds_resources_locator),
            path.unsupported_if_set("cds_resources_locator", cds_resources_locator),
        ];
        let source = |proto: core::ConfigSource, path: &ConfigPath<'_>| {
            XdsSource::from_proto(proto, server, path)
        };
        let lds = path.optional("lds_config", lds_config, source);
        let cds = path.optional("cds_config", cds_config, source);
        let ads = path.optional("ads_config", ads_config, |proto, path| {
            ApiSource::from_proto(proto, server, path)
        });
        locators.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(Self {
            ads: ads?,
            cds: cds?,
            lds: lds?,
            layers: Vec::new(),
        })
    }

    /// Subscribes to the layers of the runtime. They end when what is returned is dropped.
    pub(super) fn watch_layers(
        &self,
        server: &Arc<ServerContext>,
        client: &XdsClient,
        init: &InitManager,
    ) -> Vec<Subscription> {
        let watch = |(layer, source): &(String, RuntimeSource)| {
            let watcher = LayerWatcher {
                layer: layer.clone(),
                server: server.clone(),
                stats: SubscriptionStats::new(&server.stats.scope("runtime."), &source.source),
                first: RefCell::new(Some(init.target(format!("RTDS {}", source.name)))),
            };
            let interest = Interest::name(source.name.as_str());
            let kind = ResourceKind::Runtime;
            client.watch(source.source.clone(), kind, interest, Rc::new(watcher))
        };
        self.layers.iter().map(watch).collect()
    }
}

fn runtime_source(
    proto: RtdsLayer,
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<RuntimeSource, Rejected> {
    let RtdsLayer { name, rtds_config } = proto;
    let source = path.required("rtds_config", rtds_config)?;
    Ok(RuntimeSource {
        name,
        source: XdsSource::from_proto(source, server, &path.field("rtds_config"))?,
    })
}

/// Keeps one layer up to date.
struct LayerWatcher {
    layer: String,
    server: Arc<ServerContext>,
    stats: SubscriptionStats,
    /// Ready with the first answer.
    first: RefCell<Option<InitTarget>>,
}

impl LayerWatcher {
    fn take(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let mut refused = Vec::new();
        for resource in update.sent {
            let report = ConfigReport::of_resource(&self.server);
            let subject = format!("runtime \"{}\"", resource.name);
            let path = ConfigPath::root(&report, &subject);
            match resource.decode::<RuntimeProto>(&path) {
                Ok(RuntimeProto { name: _, layer }) => {
                    let values = layer.map(flatten).unwrap_or_default();
                    info!(
                        layer = self.layer,
                        values = values.len(),
                        "A runtime layer has changed."
                    );
                    self.server.runtime.set_layer(&self.layer, values);
                }
                Err(_) => {
                    let lines: Vec<_> = report.take().iter().map(ToString::to_string).collect();
                    refused.push(Refused {
                        name: resource.name.clone(),
                        reason: lines.join("\n"),
                    });
                }
            }
        }
        if !update.removed.is_empty() {
            self.server.runtime.set_layer(&self.layer, HashMap::new());
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }
}

impl Watcher for LayerWatcher {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let taken = self.stats.count(update.version, || self.take(update));
        drop(self.first.take());
        taken
    }

    fn stats_scope(&self) -> Option<Scope> {
        Some(self.server.stats.scope("runtime."))
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.stats.failed(why);
        if why == FetchFailure::Timeout {
            drop(self.first.take());
        }
    }
}
