//! External authorization: what an authorizer is told and how it is asked by gRPC, for the HTTP filter and the network filter.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto>

mod attributes;
mod grpc;

pub use attributes::{destination, labels, metadata_context, sanitized, source, tls_session};
pub use grpc::GrpcAuthorizer;
