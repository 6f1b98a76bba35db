//! Where routes come from: `route_config`, `rds` or `scoped_routes`.

use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use crate::config::{ConfigPath, Rejected};
use crate::route::RouteTable;
use crate::route::provider::{Routes, Scopes, check_clusters};
use crate::server::FactoryContext;
use crate::xds::XdsSource;

/// `route_specifier`.
pub enum HcmRoutes {
    /// One route configuration for all requests.
    One(Routes),
    /// Several, of which headers of a request choose one.
    Scoped(Scopes),
}

pub(super) fn fixed_routes(
    proto: RouteConfiguration,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Routes, Rejected> {
    let table = RouteTable::from_proto(proto.clone(), cx, path)?;
    check_clusters(&table, true, cx.server, path)?;
    Ok(Routes::Fixed(cx.server.routes.fixed(table, &proto)))
}

pub(super) fn dynamic_routes(
    proto: pb::Rds,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Routes, Rejected> {
    let pb::Rds {
        config_source,
        route_config_name,
    } = proto;
    let source = path
        .required("config_source", config_source)
        .and_then(|source| XdsSource::from_proto(source, cx.server, &path.field("config_source")));
    let name = path.non_empty("route_config_name", route_config_name);
    let (source, name) = (source?, name?);
    Ok(Routes::Dynamic(cx.server.routes.dynamic(&name, source, cx)))
}
