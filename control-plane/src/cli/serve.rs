//! `run`: the control plane itself.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_control_plane::admin::api::Api;
use outrigger_control_plane::ca::{Authority, Tokens};
use outrigger_control_plane::control::Control;
use outrigger_control_plane::dns::{Names, Resolver, SystemResolver};
use outrigger_control_plane::ratelimit::{self, Limiter, Limits};
use outrigger_control_plane::telemetry::Telemetry;
use outrigger_control_plane::translate::Secrets;
use outrigger_control_plane::{admin, model, watch};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::flags::{RateLimitStore, Run};

pub(crate) async fn run(flags: Run, telemetry: &Telemetry) -> Result<(), Box<dyn Error>> {
    if flags.insecure_plaintext && !flags.listen.ip().is_loopback() {
        return Err("--insecure-plaintext is for loopback addresses only".into());
    }
    let ttl = Duration::from_secs(flags.certificate_ttl);
    let authority = Arc::new(Authority::open(&flags.state, &flags.trust_domain, ttl)?);
    let tokens = Tokens::open(&flags.state)?;
    let operator = Tokens::operator(&flags.state)?;
    // For agents, which know the control plane by it.
    std::fs::write(flags.state.join("roots.pem"), authority.roots().as_bytes())?;
    let mut control = Control::new(Arc::clone(&authority), tokens, flags.insecure_plaintext);
    control.metrics.spans = telemetry.counts();
    if flags.rate_limit_store == RateLimitStore::Redis {
        control.limits = Arc::new(Limiter::shared(flags.redis.open()?));
    }
    let control = Arc::new(control);
    let dns = Resolver::new(SystemResolver::new(&flags.dns_server));
    let loaded = model::load(&flags.directory);
    if let Ok(model) = &loaded {
        // Proxies that come again are to find their endpoints.
        let patience = Duration::from_secs(5);
        control.set_names(dns.refresh(model, &Names::default(), patience).await);
    }
    control.input(loaded);
    let counted = (flags.rate_limit_store == RateLimitStore::Disk)
        .then(|| flags.state.join("rate-limits.json"));
    if let Some(file) = &counted {
        control.limits.counters().load(file)?;
    }
    let limits = match flags.rate_limit_listen {
        Some(address) if !address.ip().is_loopback() => {
            return Err("--rate-limit-listen is for loopback addresses only".into());
        }
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let api = Arc::new(Api::new(Arc::clone(&control), operator));
    let listener = TcpListener::bind(flags.listen).await?;
    tracing::info!(address = %listener.local_addr()?, directory = %flags.directory.display(), "Serving.");
    let mut names = vec!["localhost".to_owned(), flags.listen.ip().to_string()];
    names.extend(flags.name);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = admin::serve(listener, Arc::clone(&control), api, names) => served?,
        () = serve_limits(limits, &control) => {}
        () = keep_counters(counted.as_deref(), &control) => {}
        () = watch::watch(Arc::clone(&control), flags.directory) => {}
        () = follow_registry(&control) => {}
        () = dns.follow(&control) => {}
        () = renew(&authority, &flags.state) => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    if let Some(file) = &counted {
        control.limits.counters().save(file, millis())?;
    }
    Ok(())
}

async fn serve_limits(listener: Option<TcpListener>, control: &Control) {
    match listener {
        Some(listener) => {
            ratelimit::serve(listener, Limits::new(Arc::clone(&control.limits))).await
        }
        None => std::future::pending().await,
    }
}

async fn keep_counters(file: Option<&Path>, control: &Control) {
    let Some(file) = file else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = control.limits.counters().save(file, millis()) {
            tracing::error!(%error, "Counters of rate limits cannot be written.");
        }
    }
}

/// Milliseconds since 1970.
fn millis() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

async fn follow_registry(control: &Control) {
    loop {
        control.registry.changed().await;
        // Many that come at once are one change.
        tokio::time::sleep(Duration::from_millis(50)).await;
        control.rebuild();
    }
}

async fn renew(authority: &Authority, state: &Path) {
    let mut changes = authority.changes();
    loop {
        let pause = (authority.ttl() / 20).clamp(Duration::from_secs(1), Duration::from_secs(60));
        let _ = tokio::time::timeout(pause, changes.changed()).await;
        if let Err(error) = authority.renew(SystemTime::now()) {
            tracing::error!(%error, "Certificates cannot be renewed.");
        }
        if let Err(error) = std::fs::write(state.join("roots.pem"), authority.roots().as_bytes()) {
            tracing::error!(%error, "The roots cannot be written.");
        }
    }
}
