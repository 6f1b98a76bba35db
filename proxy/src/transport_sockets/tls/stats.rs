//! What TLS counts: `<listener or cluster>.ssl.*`.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::stats::{Counter, Scope};
use crate::stats_group;

stats_group! {
    /// `ssl.` of a listener or cluster.
    pub(super) struct SslStats {
        counter connection_error;
        counter fail_verify_cert_hash;
        counter fail_verify_error;
        counter fail_verify_no_cert;
        counter fail_verify_san;
        counter handshake;
        counter no_certificate;
        counter ocsp_staple_failed;
        counter ocsp_staple_omitted;
        counter ocsp_staple_requests;
        counter ocsp_staple_responses;
        counter session_reused;
        counter was_key_usage_invalid;
    }
}

stats_group! {
    /// `server_ssl_socket_factory.` of a listener, `client_ssl_socket_factory.` of a cluster.
    pub(super) struct SocketFactoryStats {
        counter downstream_context_secrets_not_ready;
        counter ssl_context_update_by_sds;
        counter upstream_context_secrets_not_ready;
    }
}

/// The counters of one TLS context.
pub(super) struct TlsStats {
    pub(super) ssl: SslStats,
    pub(super) factory: SocketFactoryStats,
    scope: Scope,
    /// By kind and name: `ciphers`, `TLS_AES_128_GCM_SHA256`. Made when first needed: a handshake, not a request, looks here.
    named: RwLock<HashMap<(&'static str, &'static str), Counter>>,
}

impl TlsStats {
    pub(super) fn new(scope: &Scope, factory: &str) -> Self {
        let ssl = scope.scope("ssl.");
        Self {
            ssl: SslStats::new(&ssl),
            factory: SocketFactoryStats::new(&scope.scope(&format!("{factory}."))),
            scope: ssl,
            named: RwLock::default(),
        }
    }

    /// Counts below `ssl.<kind>.<name>`.
    pub(super) fn count(&self, kind: &'static str, name: &'static str) {
        if let Some(counter) = self.named.read().get(&(kind, name)) {
            return counter.inc();
        }
        self.named
            .write()
            .entry((kind, name))
            .or_insert_with(|| self.scope.counter(&format!("{kind}.{name}")))
            .inc();
    }

    /// Says when a certificate expires: `ssl.certificate.<name>.expiration_unix_time_seconds`.
    pub(super) fn expires(&self, name: &str, at: i64) {
        let gauge = self
            .scope
            .gauge(&format!("certificate.{name}.expiration_unix_time_seconds"));
        gauge.get().set(u64::try_from(at).unwrap_or_default());
    }
}
