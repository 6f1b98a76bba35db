//! Resources that the stories push.

use std::fmt::Write;
use std::net::SocketAddr;

use outrigger_xds_tests::plane::{Kind, Resource};

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// A cluster whose endpoints come from this source.
pub fn eds_cluster(name: &str, source: &str) -> Resource {
    Resource::yaml(
        Kind::Cds,
        &format!(
            "name: {name}\ntype: EDS\nconnect_timeout: 1s\neds_cluster_config: {{ eds_config: {source} }}"
        ),
    )
}

/// A cluster with one endpoint.
pub fn cluster(name: &str, address: SocketAddr) -> Resource {
    cluster_with(name, address, "")
}

/// The same with more YAML at its top.
pub fn cluster_with(name: &str, address: SocketAddr, more: &str) -> Resource {
    let endpoint = endpoint(address);
    let text = format!(
        "name: {name}\nconnect_timeout: 1s\nload_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{endpoint}] }}] }}\n{more}"
    );
    Resource::yaml(Kind::Cds, &text)
}

/// A cluster that no proxy takes: its only endpoint has a name for an address.
pub fn bad_cluster(name: &str) -> Resource {
    let address = "address: { socket_address: { address: not-an-ip, port_value: 1 } }";
    let text = format!(
        "name: {name}\nload_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ {address} }} }}] }}] }}"
    );
    Resource::yaml(Kind::Cds, &text)
}

/// A cluster that breaks a rule of the API.
pub fn lawless_cluster(name: &str) -> Resource {
    Resource::yaml(Kind::Cds, &format!("name: {name}\nconnect_timeout: 0s\n"))
}

/// Endpoints of a cluster.
pub fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> Resource {
    let mut list = String::new();
    for address in addresses {
        write!(list, "{}, ", endpoint(*address)).unwrap();
    }
    let text = format!("cluster_name: {cluster}\nendpoints: [{{ lb_endpoints: [{list}] }}]");
    Resource::yaml(Kind::Eds, &text)
}

fn endpoint(address: SocketAddr) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}",
        address.ip(),
        address.port()
    )
}

/// A route configuration that sends everything to a cluster.
pub fn routes(name: &str, cluster: &str) -> Resource {
    Resource::yaml(Kind::Rds, &format!("name: {name}\n{}", hosts(cluster)))
}

/// A route configuration that no proxy takes.
pub fn bad_routes(name: &str) -> Resource {
    let hosts = "virtual_hosts: [{ name: a, domains: [same] }, { name: b, domains: [same] }]";
    Resource::yaml(Kind::Rds, &format!("name: {name}\n{hosts}"))
}

fn hosts(cluster: &str) -> String {
    format!(
        "virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}] }}]"
    )
}

/// An HTTP connection manager with this specifier of its routes.
pub fn manager(routes: &str, more: &str) -> String {
    format!(
        "{{ name: http, typed_config: {{ '@type': {HCM}, stat_prefix: ingress, {routes}, {more} http_filters: [{{ name: router, typed_config: {{ '@type': {ROUTER} }} }}] }} }}"
    )
}

/// A connection manager with routes from this source.
pub fn rds_manager(route: &str, source: &str) -> String {
    manager(
        &format!("rds: {{ route_config_name: {route}, config_source: {source} }}"),
        "",
    )
}

/// A connection manager with its routes in it.
pub fn inline_manager(cluster: &str, more: &str) -> String {
    manager(
        &format!("route_config: {{ name: inline, {} }}", hosts(cluster)),
        more,
    )
}

/// A filter that passes bytes on to a cluster.
pub fn tcp_proxy(cluster: &str) -> String {
    format!(
        "{{ name: tcp, typed_config: {{ '@type': {TCP_PROXY}, stat_prefix: tcp, cluster: {cluster} }} }}"
    )
}

/// A listener on a free port, with these filter chains (YAML of a list).
pub fn listener_of(name: &str, chains: &str) -> Resource {
    listener_on(name, "127.0.0.1", 0, chains)
}

/// The same on an address.
pub fn listener_on(name: &str, ip: &str, port: u16, chains: &str) -> Resource {
    Resource::yaml(
        Kind::Lds,
        &format!(
            "name: {name}\naddress: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}\nfilter_chains: {chains}"
        ),
    )
}

/// A listener with this filter.
pub fn listener_with(name: &str, filter: &str) -> Resource {
    listener_of(name, &format!("[{{ filters: [{filter}] }}]"))
}

/// A listener with its routes in it.
pub fn listener(name: &str, cluster: &str) -> Resource {
    listener_with(name, &inline_manager(cluster, ""))
}

/// A listener with routes from this source.
pub fn rds_listener(name: &str, route: &str, source: &str) -> Resource {
    listener_with(name, &rds_manager(route, source))
}

/// A listener that no proxy takes: it has no filter chain.
pub fn bad_listener(name: &str) -> Resource {
    listener_of(name, "[]")
}
