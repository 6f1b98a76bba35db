//! Calls of gRPC beside xDS: the registry, and Istio's for a certificate.

mod istio;
mod registry;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use crate::control::Control;
use crate::server::Peer;

/// The messages of `protos/`.
#[allow(
    missing_docs,
    clippy::doc_markdown,
    clippy::derive_partial_eq_without_eq,
    reason = "made from the proto files, which document it"
)]
pub mod pb {
    /// `outrigger.registry.v1`
    pub mod registry {
        include!(concat!(env!("OUT_DIR"), "/outrigger.registry.v1.rs"));
    }
    /// `istio.v1.auth`
    pub mod istio {
        include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
    }
}

/// Largest message that is read.
const MAX_MESSAGE: usize = 1 << 16;

/// The calls.
#[derive(Clone, Debug)]
pub struct Calls {
    control: Arc<Control>,
    operator_token: Arc<str>,
}

/// Who calls.
#[derive(Clone, Debug)]
struct Caller {
    peer: Peer,
    /// What follows `Bearer` in `authorization`.
    token: Option<String>,
}

impl Calls {
    /// The calls of a control plane.
    #[must_use]
    pub fn new(control: Arc<Control>, operator_token: &str) -> Self {
        Self {
            control,
            operator_token: operator_token.into(),
        }
    }

    /// Whether a path is one of a call.
    #[must_use]
    pub fn has(path: &str) -> bool {
        path.starts_with("/outrigger.registry.v1.Registry/")
            || path.starts_with("/istio.v1.auth.IstioCertificateService/")
    }

    /// Answers a call of `peer`.
    ///
    /// # Errors
    /// None: gRPC has its own in the answer.
    pub async fn call<B>(
        &self,
        request: Request<B>,
        peer: &Peer,
    ) -> Result<http::Response<Body>, Infallible>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let caller = Caller {
            peer: peer.clone(),
            token: bearer(request.headers()),
        };
        let this = self.clone();
        let path = request.uri().path().to_owned();
        let answer = match path.rsplit_once('/').unwrap_or_default() {
            ("/outrigger.registry.v1.Registry", "Register") => {
                let call = move |it| async move { this.register(&caller, it) };
                unary(request, call).await
            }
            ("/outrigger.registry.v1.Registry", "Heartbeat") => {
                let call = move |it| async move { this.heartbeat(&caller, it) };
                unary(request, call).await
            }
            ("/outrigger.registry.v1.Registry", "Deregister") => {
                let call = move |it| async move { this.deregister(&caller, it) };
                unary(request, call).await
            }
            ("/istio.v1.auth.IstioCertificateService", "CreateCertificate") => {
                let call = move |it| async move { this.create_certificate(&caller, it) };
                unary(request, call).await
            }
            _ => Status::unimplemented("there is no such call").into_http(),
        };
        Ok(answer)
    }

    /// Whether a caller has shown the operator's token.
    fn is_operator(&self, caller: &Caller) -> bool {
        let given = caller.token.as_deref().unwrap_or_default();
        let right = self.operator_token.as_bytes();
        aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), right).is_ok()
    }
}

fn bearer(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::to_owned)
}

/// Reads one message, calls, and writes one.
pub(crate) async fn unary<B, Q, A, F, T>(request: Request<B>, call: F) -> http::Response<Body>
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnOnce(Q) -> T + Send,
    T: Future<Output = Result<A, Status>> + Send + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default())
        .max_decoding_message_size(MAX_MESSAGE)
        .unary(Call(Some(call)), request)
        .await
}

/// A function as a service of one call.
struct Call<F>(Option<F>);

impl<F, Q, A, T> Service<tonic::Request<Q>> for Call<F>
where
    F: FnOnce(Q) -> T,
    A: 'static,
    T: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = tonic::Response<A>;
    type Error = Status;
    type Future = BoxFuture<tonic::Response<A>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let running = self.0.take().map(|call| call(request.into_inner()));
        Box::pin(async move {
            match running {
                Some(running) => running.await.map(tonic::Response::new),
                None => Err(Status::internal("a call was answered already")),
            }
        })
    }
}
