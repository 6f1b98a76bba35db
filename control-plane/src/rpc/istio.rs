//! `istio.v1.auth.IstioCertificateService`: Istio's call for a certificate.
//!
//! The credential is a certificate of the mesh, or a join token after `Bearer`, which is used up. The certificate is
//! for the identity of the credential. A request that names another one is refused, counted, and noted with both.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tonic::Status;

use super::pb::istio as pb;
use super::{Caller, Calls};
use crate::ca::{CaError, requested_identities};
use crate::translate::Secrets;

impl Calls {
    pub(super) fn create_certificate(
        &self,
        caller: &Caller,
        request: pb::IstioCertificateRequest,
    ) -> Result<pb::IstioCertificateResponse, Status> {
        let pb::IstioCertificateRequest {
            csr,
            validity_duration,
            metadata,
        } = request;
        // A node's agent may ask Istio for others in this way.
        let impersonated = metadata
            .as_ref()
            .and_then(|it| it.fields.get("ImpersonatedIdentity"));
        if impersonated.is_some() {
            return Err(Status::permission_denied("nobody may ask for another"));
        }
        let named = requested_identities(&csr).map_err(|error| status(&error))?;
        let identity = self.identity(caller)?;
        if let Some(other) = named.iter().find(|named| **named != identity) {
            self.control.metrics.stolen.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                target: "audit",
                asked_for = other,
                by = identity,
                address = caller.peer.address,
                "The certificate of another identity was asked for, and not given."
            );
            return Err(Status::permission_denied(
                "the request names another identity than the credential",
            ));
        }
        let authority = &self.control.authority;
        let wanted = u64::try_from(validity_duration).unwrap_or_default();
        let ttl = match wanted {
            0 => authority.ttl(),
            seconds => Duration::from_secs(seconds).min(authority.ttl()),
        };
        let chain = authority
            .sign_for(&csr, &identity, ttl)
            .map_err(|error| status(&error))?;
        self.control.metrics.signed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(target: "audit", identity, address = caller.peer.address, "A certificate was signed.");
        let mut cert_chain: Vec<_> = chain
            .split_inclusive("-----END CERTIFICATE-----\n")
            .map(str::to_owned)
            .collect();
        cert_chain.push(authority.roots().to_string());
        Ok(pb::IstioCertificateResponse { cert_chain })
    }

    /// Who a caller is by its credential.
    fn identity(&self, caller: &Caller) -> Result<String, Status> {
        if let Some(identity) = &caller.peer.identity {
            let translator = std::sync::Arc::clone(&self.control.worlds().borrow());
            if !translator.world().has_identity(identity) {
                return Err(Status::permission_denied(
                    "no workload or gateway has this identity",
                ));
            }
            return Ok(identity.clone());
        }
        let Some(token) = &caller.token else {
            return Err(Status::unauthenticated(
                "a certificate of the mesh or a join token is needed",
            ));
        };
        self.control
            .tokens
            .redeem(token, SystemTime::now())
            .map_err(|reason| {
                tracing::warn!(target: "audit", address = caller.peer.address, %reason, "A join token was refused.");
                Status::unauthenticated(reason.to_string())
            })
    }
}

fn status(error: &CaError) -> Status {
    match error {
        CaError::Request(_) => Status::invalid_argument(error.to_string()),
        CaError::Certificate(_) | CaError::File { .. } => Status::internal(error.to_string()),
    }
}
