//! The extensions that can be configured, as control planes are told them.

use outrigger_proto::pb::envoy::config::core::v3::Extension;

use crate::{access_loggers, http_filters, listener_filters, network_filters, transport_sockets};

/// `Node.extensions`.
pub(super) fn extensions() -> Vec<Extension> {
    let mut all = Vec::new();
    for factory in access_loggers::FACTORIES {
        let types = factory.type_names();
        all.push(extension("envoy.access_loggers", factory.name(), types));
    }
    for factory in listener_filters::FACTORIES {
        let types = factory.type_names();
        all.push(extension("envoy.filters.listener", factory.name(), types));
    }
    for factory in network_filters::FACTORIES {
        let types = factory.type_names();
        all.push(extension("envoy.filters.network", factory.name(), types));
    }
    for factory in http_filters::FACTORIES {
        let types = [factory.type_names(), factory.per_route_type_names()].concat();
        all.push(extension("envoy.filters.http", factory.name(), &types));
    }
    // It is no factory: a chain ends in it.
    let router = ["envoy.extensions.filters.http.router.v3.Router"];
    all.push(extension(
        "envoy.filters.http",
        "envoy.filters.http.router",
        &router,
    ));
    for factory in transport_sockets::FACTORIES {
        for (category, types) in [
            (
                "envoy.transport_sockets.downstream",
                factory.downstream_type_names(),
            ),
            (
                "envoy.transport_sockets.upstream",
                factory.upstream_type_names(),
            ),
        ] {
            if !types.is_empty() {
                all.push(extension(category, factory.name(), types));
            }
        }
    }
    all
}

fn extension(category: &str, name: &str, types: &[&str]) -> Extension {
    Extension {
        name: name.to_owned(),
        category: category.to_owned(),
        type_urls: types.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}
