//! The input: objects of Kubernetes' shape, read from files.
//!
//! [`load`] reads a directory into a [`Model`] or says everything that is wrong with it; nothing of a directory with
//! an error is used. What an object refers to is not looked at here: a missing reference is a status condition of the
//! object ([`crate::world`]), as the Gateway API has it, and no error of the file.

mod backend_tls;
mod check;
mod check_gateway_policy;
mod check_jwt_provider;
mod check_sections;
mod document;
mod error;
mod gateway_policy;
mod ingress;
mod kinds;
mod load;
mod load_balancing;
mod object;

pub(crate) use check_jwt_provider::{endpoint as uri_endpoint, key_set};
pub(crate) use check_sections::range;
pub use error::InputError;
pub use gateway_policy::{
    AddressesSpec, ApiKeysSpec, BackendRef, BandwidthSpec, BasicAuthSpec, CallLimit, Claims,
    Compression, ConfigMapKey, CorsSpec, CountedBy, CsrfSpec, Direction, ErrorAnswer, ExtAuthzSpec,
    GatewayPolicy, GatewayPolicySpec, GrpcAuthorizer, HttpAuthorizer, JwksSpec, JwtProvider,
    JwtProviderSpec, JwtRule, JwtSpec, KeyPlaces, PolicyTarget, Scalar, TokenHeader, TokenPlaces,
};
pub(crate) use gateway_policy::{LIMIT_KEY, LIMITS_DOMAIN, limit_id};
pub(crate) use kinds::parse_duration;
pub use kinds::{
    Abort, Access, AuthorizationPolicy, AuthorizationRule, AuthorizationSpec, Backoff, Call,
    CircuitBreaker, Condition as RetryCondition, Delay, FailurePercentage, Fault, Health,
    HealthCheck, Host, LocalRateLimit, MeshDefaults, MeshDefaultsSpec, Mirror, MtlsMode,
    OutlierDetection, PeerAuthentication, PeerAuthenticationSpec, RateLimit, Resource, Retries,
    ServiceRef, SplitBackend, TrafficPolicy, TrafficPolicySpec, Workload, WorkloadPort,
    WorkloadSpec,
};
pub use load::{Cache, load, load_again, load_texts};
pub use load_balancing::{Algorithm, HashedBy, LoadBalancing};
pub use object::{Key, Kind, Model, Object, Origin, Stored};
