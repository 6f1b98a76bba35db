//! `outrigger.registry.v1.Registry`: what the JSON interface under `/v1/registry` does.

use tonic::Status;

use super::pb::registry as pb;
use super::{Caller, Calls};
use crate::model::{Health, Key};
use crate::registry::{Registration, RegistryError};

/// TTL of who gives none, in seconds.
const TTL: u32 = 30;

impl Calls {
    pub(super) fn register(
        &self,
        caller: &Caller,
        request: pb::RegisterRequest,
    ) -> Result<pb::RegisterResponse, Status> {
        let owner = self.owner(caller)?;
        let health = pb::Health::try_from(request.health);
        let pb::RegisterRequest {
            id,
            port,
            address,
            weight,
            health: _,
            ttl_seconds,
            sidecar,
        } = request;
        let (service, instance) = instance(id)?;
        let bad = |text: String| Status::invalid_argument(text);
        let ttl_seconds = if ttl_seconds == 0 { TTL } else { ttl_seconds };
        let registration = Registration {
            port: u16::try_from(port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| bad(format!("port: {port} is not in 1..=65535")))?,
            address: address
                .parse()
                .map_err(|_| bad(format!("address: {address:?} is not IP:PORT")))?,
            weight: Some(weight).filter(|weight| *weight > 0),
            health: match health {
                Ok(pb::Health::Unspecified | pb::Health::Healthy) => Health::Healthy,
                Ok(pb::Health::Unhealthy) => Health::Unhealthy,
                Ok(pb::Health::Draining) => Health::Draining,
                Err(_) => return Err(bad("health: there is no such value".to_owned())),
            },
            ttl_seconds: Some(ttl_seconds.into()),
            sidecar,
        };
        self.control
            .registry
            .register(service, &instance, &registration, owner)
            .map_err(refusal)?;
        Ok(pb::RegisterResponse { ttl_seconds })
    }

    pub(super) fn heartbeat(
        &self,
        caller: &Caller,
        request: pb::HeartbeatRequest,
    ) -> Result<pb::HeartbeatResponse, Status> {
        let owner = self.owner(caller)?;
        let (service, instance) = instance(request.id)?;
        self.control
            .registry
            .heartbeat(&service, &instance, owner.as_deref())
            .map_err(refusal)?;
        Ok(pb::HeartbeatResponse {})
    }

    pub(super) fn deregister(
        &self,
        caller: &Caller,
        request: pb::DeregisterRequest,
    ) -> Result<pb::DeregisterResponse, Status> {
        let owner = self.owner(caller)?;
        let (service, instance) = instance(request.id)?;
        self.control
            .registry
            .deregister(&service, &instance, owner.as_deref())
            .map_err(refusal)?;
        Ok(pb::DeregisterResponse {})
    }

    /// Whose the instances of a caller are: of its identity, or of the operator.
    fn owner(&self, caller: &Caller) -> Result<Option<String>, Status> {
        let owner = caller.peer.identity.clone();
        if owner.is_some() || self.control.is_insecure || self.is_operator(caller) {
            return Ok(owner);
        }
        Err(Status::unauthenticated(
            "a certificate of the mesh or the operator's token is needed",
        ))
    }
}

fn instance(id: Option<pb::InstanceId>) -> Result<(Key, String), Status> {
    let pb::InstanceId {
        namespace,
        service,
        instance,
    } = id.unwrap_or_default();
    // As in a path of the JSON interface.
    let is_name = |text: &str| (1..=253).contains(&text.len()) && !text.contains('/');
    if !is_name(&service) || !is_name(&instance) || namespace.contains('/') {
        let message = "id: `service` and `instance` are needed, of up to 253 bytes without `/`";
        return Err(Status::invalid_argument(message));
    }
    let namespace = match namespace.is_empty() {
        true => "default".to_owned(),
        false => namespace,
    };
    Ok((Key::new(namespace, service), instance))
}

fn refusal(error: RegistryError) -> Status {
    let text = error.to_string();
    match error {
        RegistryError::Range => Status::invalid_argument(text),
        RegistryError::NotYours => Status::permission_denied(text),
        RegistryError::Unknown => Status::not_found(text),
        RegistryError::Full => Status::resource_exhausted(text),
    }
}
