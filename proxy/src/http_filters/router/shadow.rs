//! Copies of a request for other clusters: fire and forget.
//!
//! A copy starts when the request itself has found a host. Its body follows piece by piece; one whose cluster does not take it
//! fast enough is given up when more than the buffer limit of the route waits, and so is one whose request breaks off.

use bytes::Bytes;

use super::Router;
use crate::http::{EndStream, Fields, Method, RequestHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::route::{MirrorPolicy, RouteAction};
use crate::upstream::async_client::{AsyncClient, Body, BodySender, Piece, RequestOptions, body};
use crate::upstream::{ClusterId, WorkerCluster};

/// The bodies of copies that have not ended.
#[derive(Default)]
pub(super) struct Shadows(Vec<BodySender>);

impl Shadows {
    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A piece of the body, for all of them.
    pub(super) fn data(&mut self, data: &Bytes, end: EndStream, cluster: Option<&WorkerCluster>) {
        self.0.retain(|shadow| {
            let taken = shadow.send_data(data.clone(), end);
            if !taken && let Some(cluster) = cluster {
                cluster.info().stats.retry_or_shadow_abandoned().inc();
            }
            taken && !end.is_end()
        });
    }

    /// The trailers, for all of them.
    pub(super) fn trailers(&mut self, trailers: &Fields) {
        for shadow in self.0.drain(..) {
            shadow.send_trailers(trailers.clone());
        }
    }

    /// The request broke off, and so do its copies.
    pub(super) fn abandon(&mut self) {
        self.0.clear();
    }
}

impl Router {
    /// Starts the copies that the cluster asks for, or else the route.
    #[inline]
    pub(super) fn mirror(&mut self, env: &mut ChainEnv<'_>, action: &RouteAction) {
        let of_cluster = self.cluster.as_ref().filter(|cluster| {
            let policies = cluster.info().request_policies.as_ref();
            policies.is_some_and(|policies| !policies.mirrors.is_empty())
        });
        if let Some(cluster) = of_cluster.cloned() {
            if let Some(policies) = &cluster.info().request_policies {
                self.start_shadows(env, &policies.mirrors);
            }
        } else if !action.mirrors().is_empty() {
            self.start_shadows(env, action.mirrors());
        }
    }

    /// Starts the copies of a request that go to other clusters.
    #[cold]
    fn start_shadows(&mut self, env: &mut ChainEnv<'_>, policies: &[MirrorPolicy]) {
        if env.request.method() == Method::Connect {
            return;
        }
        for policy in policies {
            let random = env.worker.random.next();
            let Some(cluster) = policy.cluster(env.request, &env.worker.clusters) else {
                continue;
            };
            if !policy.applies(random) {
                continue;
            }
            let mut head = env.request.clone();
            policy.rewrite(&mut head, env.info);
            let options = RequestOptions {
                timeout: self.timeouts.global,
                priority: self.priority,
                max_request_bytes: self.body.limit(),
                ..RequestOptions::default()
            };
            let body = self.shadow_body();
            send(&self.shared.client, cluster, head, body, options);
        }
    }

    fn shadow_body(&mut self) -> Body {
        if self.body.is_empty_and_ended() {
            return Body::Whole(Bytes::new());
        }
        let (sender, reader) = body(usize::try_from(self.body.limit()).unwrap_or(usize::MAX));
        self.shadows.0.push(sender);
        Body::Streamed(reader)
    }
}

/// Sends a copy, and drops what comes back as it comes.
fn send(
    client: &AsyncClient,
    cluster: ClusterId,
    head: RequestHead,
    body: Body,
    options: RequestOptions,
) {
    let opening = client.open(cluster, head, body, options);
    tokio::task::spawn_local(async move {
        let Ok(mut response) = opening.await else {
            return;
        };
        while let Ok(Some(Piece::Data(_) | Piece::Trailers(_))) = response.next().await {}
    });
}
