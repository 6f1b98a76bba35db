//! All objects of the input.

use std::collections::BTreeMap;
use std::fmt;

use gateway_api::apis::experimental::tcproutes::TcpRoute;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::grpcroutes::GrpcRoute;
use gateway_api::apis::standard::httproutes::HttpRoute;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::Serialize;

use super::gateway_policy::{GatewayPolicy, JwtProvider};
use super::kinds::{
    AuthorizationPolicy, MeshDefaults, PeerAuthentication, RateLimit, TrafficPolicy, Workload,
};

/// Namespace and name of an object. Objects without a namespace are in `default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name, unique among the objects of its kind in its namespace.
    pub name: String,
}

impl Key {
    /// The key `namespace/name`.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an object is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The file, relative to the directory.
    pub file: String,
    /// The line on which the object begins, from 1.
    pub line: u32,
}

/// An object and where it is from.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// The object.
    pub object: T,
    /// Its place.
    pub origin: Origin,
}

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Kind {
    GatewayClass,
    Gateway,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    ReferenceGrant,
    #[serde(rename = "BackendTLSPolicy")]
    BackendTlsPolicy,
    IngressClass,
    Ingress,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Workload,
    MeshDefaults,
    TrafficPolicy,
    AuthorizationPolicy,
    PeerAuthentication,
    RateLimit,
    JwtProvider,
    GatewayPolicy,
}

impl Kind {
    /// The name in `kind:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::IngressClass => "IngressClass",
            Self::Ingress => "Ingress",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Workload => "Workload",
            Self::MeshDefaults => "MeshDefaults",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RateLimit => "RateLimit",
            Self::JwtProvider => "JwtProvider",
            Self::GatewayPolicy => "GatewayPolicy",
        }
    }
}

/// One object of any kind.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Object {
    GatewayClass(Box<GatewayClass>),
    Gateway(Box<Gateway>),
    HttpRoute(Box<HttpRoute>),
    GrpcRoute(Box<GrpcRoute>),
    TlsRoute(Box<TlsRoute>),
    TcpRoute(Box<TcpRoute>),
    ReferenceGrant(Box<ReferenceGrant>),
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    IngressClass(Box<IngressClass>),
    Ingress(Box<Ingress>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Secret(Box<Secret>),
    ConfigMap(Box<ConfigMap>),
    Workload(Box<Workload>),
    MeshDefaults(Box<MeshDefaults>),
    TrafficPolicy(Box<TrafficPolicy>),
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    PeerAuthentication(Box<PeerAuthentication>),
    RateLimit(Box<RateLimit>),
    JwtProvider(Box<JwtProvider>),
    GatewayPolicy(Box<GatewayPolicy>),
}

/// All objects of the input by kind and key: each valid by itself, and no two with the same key.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Model {
    pub gateway_classes: BTreeMap<Key, Stored<GatewayClass>>,
    pub gateways: BTreeMap<Key, Stored<Gateway>>,
    pub http_routes: BTreeMap<Key, Stored<HttpRoute>>,
    pub grpc_routes: BTreeMap<Key, Stored<GrpcRoute>>,
    pub tls_routes: BTreeMap<Key, Stored<TlsRoute>>,
    pub tcp_routes: BTreeMap<Key, Stored<TcpRoute>>,
    pub reference_grants: BTreeMap<Key, Stored<ReferenceGrant>>,
    pub backend_tls_policies: BTreeMap<Key, Stored<BackendTlsPolicy>>,
    pub ingress_classes: BTreeMap<Key, Stored<IngressClass>>,
    pub ingresses: BTreeMap<Key, Stored<Ingress>>,
    pub services: BTreeMap<Key, Stored<Service>>,
    pub endpoint_slices: BTreeMap<Key, Stored<EndpointSlice>>,
    pub secrets: BTreeMap<Key, Stored<Secret>>,
    pub config_maps: BTreeMap<Key, Stored<ConfigMap>>,
    pub workloads: BTreeMap<Key, Stored<Workload>>,
    pub mesh_defaults: BTreeMap<Key, Stored<MeshDefaults>>,
    pub traffic_policies: BTreeMap<Key, Stored<TrafficPolicy>>,
    pub authorization_policies: BTreeMap<Key, Stored<AuthorizationPolicy>>,
    pub peer_authentications: BTreeMap<Key, Stored<PeerAuthentication>>,
    pub rate_limits: BTreeMap<Key, Stored<RateLimit>>,
    pub jwt_providers: BTreeMap<Key, Stored<JwtProvider>>,
    pub gateway_policies: BTreeMap<Key, Stored<GatewayPolicy>>,
}

impl Model {
    /// Adds an object.
    ///
    /// # Errors
    /// There is one of this kind and key already: its place.
    pub fn insert(&mut self, key: Key, origin: Origin, object: Object) -> Result<(), Origin> {
        match object {
            Object::GatewayClass(object) => put(&mut self.gateway_classes, key, origin, *object),
            Object::Gateway(object) => put(&mut self.gateways, key, origin, *object),
            Object::HttpRoute(object) => put(&mut self.http_routes, key, origin, *object),
            Object::GrpcRoute(object) => put(&mut self.grpc_routes, key, origin, *object),
            Object::TlsRoute(object) => put(&mut self.tls_routes, key, origin, *object),
            Object::TcpRoute(object) => put(&mut self.tcp_routes, key, origin, *object),
            Object::ReferenceGrant(object) => put(&mut self.reference_grants, key, origin, *object),
            Object::BackendTlsPolicy(object) => {
                put(&mut self.backend_tls_policies, key, origin, *object)
            }
            Object::IngressClass(object) => put(&mut self.ingress_classes, key, origin, *object),
            Object::Ingress(object) => put(&mut self.ingresses, key, origin, *object),
            Object::Service(object) => put(&mut self.services, key, origin, *object),
            Object::EndpointSlice(object) => put(&mut self.endpoint_slices, key, origin, *object),
            Object::Secret(object) => put(&mut self.secrets, key, origin, *object),
            Object::ConfigMap(object) => put(&mut self.config_maps, key, origin, *object),
            Object::Workload(object) => put(&mut self.workloads, key, origin, *object),
            Object::MeshDefaults(object) => put(&mut self.mesh_defaults, key, origin, *object),
            Object::TrafficPolicy(object) => put(&mut self.traffic_policies, key, origin, *object),
            Object::AuthorizationPolicy(object) => {
                put(&mut self.authorization_policies, key, origin, *object)
            }
            Object::PeerAuthentication(object) => {
                put(&mut self.peer_authentications, key, origin, *object)
            }
            Object::RateLimit(object) => put(&mut self.rate_limits, key, origin, *object),
            Object::JwtProvider(object) => put(&mut self.jwt_providers, key, origin, *object),
            Object::GatewayPolicy(object) => put(&mut self.gateway_policies, key, origin, *object),
        }
    }
}

fn put<T>(
    objects: &mut BTreeMap<Key, Stored<T>>,
    key: Key,
    origin: Origin,
    object: T,
) -> Result<(), Origin> {
    if let Some(known) = objects.get(&key) {
        return Err(known.origin.clone());
    }
    objects.insert(key, Stored { object, origin });
    Ok(())
}
