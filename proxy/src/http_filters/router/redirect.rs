//! Internal redirects: a redirect of the upstream is followed here, and the client sees only where it leads.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_connection_management#internal-redirects>
//! Stats: `http.<stat_prefix>.passthrough_internal_redirect_*`, `cluster.<name>.upstream_internal_redirect_*_total`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::{Router, RouterEvent, State};
use crate::http::{EndStream, Fields, Known, Method, RequestHead, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::route::{InternalRedirectPolicy, RedirectPredicate, SelectedRoute};
use crate::stream_info::{FilterStateObject, StreamInfo};

/// A request that begins anew, where a redirect leads. Its head is that of the stream, changed already.
#[derive(Debug)]
pub struct Redirected {
    /// The response that redirects; none where a filter sends the request elsewhere.
    pub head: Option<ResponseHead>,
    /// The body of the request, whole.
    pub body: Vec<Bytes>,
    /// Its trailers.
    pub trailers: Option<Fields>,
}

/// The redirects that one request of a client has taken. Among the filter state as `num_internal_redirects`.
#[derive(Debug, Default)]
pub struct RedirectState {
    count: Cell<u32>,
    /// From which route to which, both by name.
    taken: RefCell<Vec<(Box<str>, Box<str>)>>,
}

/// Its key in the filter state.
const STATE: &str = "num_internal_redirects";

impl RedirectState {
    /// Notes that `from` leads to `to`. False if it has before.
    fn take(&self, from: &str, to: &str) -> bool {
        let mut taken = self.taken.borrow_mut();
        let known = taken.iter().any(|(f, t)| **f == *from && **t == *to);
        if !known {
            taken.push((from.into(), to.into()));
        }
        !known
    }
}

impl FilterStateObject for RedirectState {
    fn serialize_as_string(&self) -> Option<String> {
        Some(self.count.get().to_string())
    }

    fn is_of_request(&self) -> bool {
        true
    }
}

/// Why a redirect goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
    /// No counter of its own.
    Request,
}

impl Router {
    /// Follows a redirect, if the policy of the route says so and nothing speaks against it.
    #[cold]
    pub(super) fn follow_redirect(
        &mut self,
        env: &mut ChainEnv<'_>,
        head: &ResponseHead,
        end: EndStream,
    ) -> Option<RouterEvent> {
        let selected = self.route.clone()?;
        let policy = selected.route().forward()?.internal_redirect()?;
        if !policy.follows(head.status) {
            return None;
        }
        let cluster = self.cluster.clone()?;
        let stats = &cluster.info().stats;
        if let Err(refusal) = self.aim(env, head, policy, &selected) {
            self.count_refusal(refusal);
            stats.upstream_internal_redirect_failed_total().inc();
            return None;
        }
        stats.upstream_internal_redirect_succeeded_total().inc();
        let (mut body, mut trailers) = self.body.take_all().unwrap_or_default();
        if head.status == 303 && !matches!(env.request.method(), Method::Get | Method::Head) {
            env.request.set_method(b"GET");
            env.request.fields.remove(Known::ContentLength);
            body.clear();
            trailers = None;
        }
        if let State::Attempt(mut attempt) = std::mem::replace(&mut self.state, State::Idle) {
            if end.is_end() {
                attempt.finish(env.info);
            } else {
                attempt.give_up(env.info);
            }
        }
        self.reset_slow_attempts(env);
        self.route_deadline = None;
        Some(RouterEvent::Redirected(Box::new(Redirected {
            head: Some(head.clone()),
            body,
            trailers,
        })))
    }

    /// Makes the request ask for where the redirect leads, or leaves it as it is.
    fn aim(
        &self,
        env: &mut ChainEnv<'_>,
        head: &ResponseHead,
        policy: &InternalRedirectPolicy,
        selected: &SelectedRoute,
    ) -> Result<(), Refusal> {
        let location = head.fields.get(Known::Location).ok_or(Refusal::Request)?;
        if !self.body.is_whole() || env.request.path().is_none() {
            return Err(Refusal::Request);
        }
        let target = Target::parse(location).ok_or(Refusal::BadLocation)?;
        let is_http = is_http(env);
        let target_is_http = target.scheme.eq_ignore_ascii_case(b"http");
        if !policy.allow_cross_scheme_redirect && is_http != target_is_http {
            return Err(Refusal::UnsafeScheme);
        }
        let state = state_of(env.info);
        if state.count.get() >= policy.max_internal_redirects {
            return Err(Refusal::TooMany);
        }
        let saved = env.request.clone();
        copy_fields(policy, head, env.request);
        env.request.set_scheme(target.scheme);
        env.request.set_authority(target.authority);
        env.request.set_path(&target.path);
        env.routes.resolve(env.request, env.info);
        if let Err(refusal) = agree(
            env.info,
            policy,
            selected,
            &state,
            (is_http, target_is_http),
        ) {
            *env.request = saved;
            return Err(refusal);
        }
        state.count.set(state.count.get() + 1);
        let scheme = if is_http { &b"http"[..] } else { b"https" };
        let original = [
            scheme,
            b"://",
            saved.authority().unwrap_or_default(),
            saved.path().unwrap_or_default(),
        ];
        env.request
            .fields
            .set(Known::EnvoyOriginalUrl, original.concat());
        Ok(())
    }

    fn count_refusal(&self, refusal: Refusal) {
        let stats = &self.shared.stats;
        match refusal {
            Refusal::BadLocation => stats.passthrough_internal_redirect_bad_location().inc(),
            Refusal::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme().inc(),
            Refusal::TooMany => stats
                .passthrough_internal_redirect_too_many_redirects()
                .inc(),
            Refusal::NoRoute => stats.passthrough_internal_redirect_no_route().inc(),
            Refusal::Predicate => stats.passthrough_internal_redirect_predicate().inc(),
            Refusal::Request => {}
        }
    }
}

/// The redirects so far, noted where the stream can see them.
fn state_of(info: &mut StreamInfo) -> Rc<RedirectState> {
    let known = info
        .filter_state
        .get_as::<RedirectState>(STATE)
        .map(|state| RedirectState {
            count: state.count.clone(),
            taken: state.taken.clone(),
        });
    let state = Rc::new(known.unwrap_or_default());
    info.filter_state.set(STATE, state.clone());
    state
}

/// Whether there is a route for the redirect, and all predicates let it be taken.
fn agree(
    info: &StreamInfo,
    policy: &InternalRedirectPolicy,
    selected: &SelectedRoute,
    state: &RedirectState,
    (is_http, target_is_http): (bool, bool),
) -> Result<(), Refusal> {
    let name = |route: &SelectedRoute| route.route().name.clone().unwrap_or_default();
    let target = info.route.as_ref().map(name);
    if target.is_none() && !info.requires_tls {
        return Err(Refusal::NoRoute);
    }
    let target = target.unwrap_or_default();
    let agrees = |predicate: &RedirectPredicate| match predicate {
        RedirectPredicate::AllowListedRoutes(names) => names.contains(&target),
        RedirectPredicate::PreviousRoutes => state.take(&name(selected), &target),
        RedirectPredicate::SafeCrossScheme => !is_http || target_is_http,
    };
    if policy.predicates.iter().all(agrees) {
        Ok(())
    } else {
        Err(Refusal::Predicate)
    }
}

/// Whether the client came without TLS.
fn is_http(env: &ChainEnv<'_>) -> bool {
    env.request.scheme() == Some(b"http") || !env.info.connection.is_tls
}

/// `response_headers_to_copy`: each is taken over, or taken away where the redirect does not have it.
fn copy_fields(policy: &InternalRedirectPolicy, head: &ResponseHead, request: &mut RequestHead) {
    for name in &policy.response_headers_to_copy {
        request.fields.remove(name);
        for value in head.fields.get_all(name) {
            request.fields.append(name, value);
        }
    }
}

/// Where a redirect leads.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Such as `https`.
    pub scheme: &'a [u8],
    /// Host and port.
    pub authority: &'a [u8],
    /// Path and query, without fragment.
    pub path: Vec<u8>,
}

impl<'a> Target<'a> {
    /// Reads an absolute URL. None for anything else.
    pub fn parse(location: &'a [u8]) -> Option<Self> {
        let colon = location.windows(3).position(|part| part == b"://")?;
        let (scheme, rest) = (&location[..colon], &location[colon + 3..]);
        if scheme.is_empty() || !scheme.iter().all(u8::is_ascii_alphabetic) {
            return None;
        }
        let end = rest
            .iter()
            .position(|b| matches!(b, b'/' | b'?' | b'#'))
            .unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        // A URL may name a user, whom nobody asks for.
        let authority = authority.rsplit(|b| *b == b'@').next()?;
        if authority.is_empty() || authority.iter().any(|b| *b <= b' ' || *b == 0x7f) {
            return None;
        }
        let target = rest.split(|b| *b == b'#').next().unwrap_or_default();
        if target.iter().any(|b| *b <= b' ' || *b == 0x7f) {
            return None;
        }
        let mut path = Vec::with_capacity(target.len() + 1);
        if target.first() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(target);
        Some(Self {
            scheme,
            authority,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_urls_lead_anywhere() {
        for (location, expected) in [
            ("http://a.com/b?c#d", Some(("http", "a.com", "/b?c"))),
            ("https://a.com:8443", Some(("https", "a.com:8443", "/"))),
            ("http://a.com?x=1", Some(("http", "a.com", "/?x=1"))),
            ("http://user@a.com/", Some(("http", "a.com", "/"))),
            ("http://[::1]:80/", Some(("http", "[::1]:80", "/"))),
            ("/relative", None),
            ("http:///x", None),
            ("://a.com", None),
            ("http://a b/", None),
            ("http://a/b c", None),
            ("", None),
        ] {
            let target = Target::parse(location.as_bytes());
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            let found = target.map(|t| (text(t.scheme), text(t.authority), text(&t.path)));
            let expected = expected.map(|(s, a, p)| (s.into(), a.into(), p.into()));
            assert_eq!(found, expected, "{location}");
        }
    }

    #[test]
    fn a_route_leads_to_another_only_once() {
        let state = RedirectState::default();
        assert!(state.take("a", "b"));
        assert!(state.take("b", "a"));
        assert!(!state.take("a", "b"));
    }
}
