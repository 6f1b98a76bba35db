//! Which of the compressors of a chain packs a response: one choice, made once, by what the client said.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Config;
use super::config::{ContentTypes, Stats};
use crate::stream_info::{FilterState, FilterStateObject};

/// The name in the filter state.
pub(super) const KEY: &str = "compressors";

const IDENTITY: &[u8] = b"identity";

/// The compressors of a stream, and the choice among them.
pub(super) struct Choice {
    candidates: RefCell<Vec<Candidate>>,
    decision: OnceCell<Decision>,
}

struct Candidate {
    encoding: &'static str,
    content_types: Arc<ContentTypes>,
    choose_first: bool,
}

/// The encoding that the client is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It named this one.
    Named(&'static str),
    /// It takes any; this one stands first.
    Wildcard(&'static str),
    Identity,
    /// It takes nothing that there is.
    NotValid,
}

impl FilterStateObject for Choice {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }
}

impl Choice {
    /// Adds a compressor to those of the stream, in the order of the chain.
    pub(super) fn register(
        state: &mut FilterState,
        key: &Rc<str>,
        config: &Config,
        encoding: &'static str,
    ) {
        let candidate = Candidate {
            encoding,
            content_types: config.response.content_types.clone(),
            choose_first: config.choose_first,
        };
        match Self::of(state) {
            Some(choice) => choice.candidates.borrow_mut().push(candidate),
            None => state.set(
                key.clone(),
                Rc::new(Self {
                    candidates: RefCell::new(vec![candidate]),
                    decision: OnceCell::new(),
                }),
            ),
        }
    }

    /// The choice of this stream.
    pub(super) fn of(state: &FilterState) -> Option<&Self> {
        state.get_as(KEY)
    }

    /// Whether the client is to get `encoding`. Counts why.
    pub(super) fn is_for(
        &self,
        encoding: &str,
        accepted: &[u8],
        content_type: Option<&[u8]>,
        stats: &Stats,
    ) -> bool {
        let decide = || decide(&self.candidates.borrow(), accepted, content_type);
        match *self.decision.get_or_init(decide) {
            Decision::Named(name) => {
                let is = name == encoding;
                if is {
                    stats.header_compressor_used().inc();
                } else {
                    stats.header_compressor_overshadowed().inc();
                }
                is
            }
            Decision::Wildcard(name) => {
                stats.header_wildcard().inc();
                name == encoding
            }
            Decision::Identity => {
                stats.header_identity().inc();
                false
            }
            Decision::NotValid => {
                stats.header_not_valid().inc();
                false
            }
        }
    }
}

fn decide(candidates: &[Candidate], accepted: &[u8], content_type: Option<&[u8]>) -> Decision {
    // Of filters with one encoding the first counts; the others are for other lengths of response, say.
    let mut allowed: Vec<&Candidate> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let takes = content_type.is_none_or(|value| candidate.content_types.take(value));
        if takes && !allowed.iter().any(|a| a.encoding == candidate.encoding) {
            allowed.push(candidate);
        }
    }
    let wishes: Vec<(&[u8], f32)> = accepted.split(|b| *b == b',').filter_map(wish).collect();
    allowed.retain(|candidate| {
        let refused = |(name, weight): &(&[u8], f32)| {
            *weight == 0.0 && *name == candidate.encoding.as_bytes()
        };
        !wishes.iter().any(refused)
    });
    if allowed.is_empty() {
        return Decision::NotValid;
    }
    let (mut best, mut best_weight) = (Decision::NotValid, 0.0);
    for (name, weight) in wishes {
        let found = allowed.iter().find(|a| a.encoding.as_bytes() == name);
        let wins_ties = found.is_some_and(|candidate| candidate.choose_first);
        let decision = match (name, found) {
            (_, Some(candidate)) => Decision::Named(candidate.encoding),
            (IDENTITY, None) => Decision::Identity,
            (b"*", None) => Decision::Wildcard(allowed[0].encoding),
            _ => continue,
        };
        if weight > best_weight || (weight == best_weight && wins_ties) {
            (best, best_weight) = (decision, weight);
        }
    }
    best
}

/// An encoding and its weight; none for what is empty, and for a weight that is no number.
fn wish(token: &[u8]) -> Option<(&[u8], f32)> {
    let mut parts = token.splitn(2, |b| *b == b';');
    let name = parts.next()?.trim_ascii();
    if token.trim_ascii().is_empty() {
        return None;
    }
    let mut parameter = parts.next().unwrap_or_default().splitn(2, |b| *b == b'=');
    let is_weight = parameter
        .next()
        .is_some_and(|key| key.trim_ascii().eq_ignore_ascii_case(b"q"));
    match parameter.next().filter(|_| is_weight) {
        Some(value) => {
            let value = std::str::from_utf8(value.trim_ascii()).ok()?;
            Some((name, value.parse().ok()?))
        }
        None => Some((name, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(encoding: &'static str, choose_first: bool) -> Candidate {
        Candidate {
            encoding,
            content_types: Arc::new(ContentTypes::listed(["text/html".into()])),
            choose_first,
        }
    }

    #[test]
    fn the_greatest_weight_counts_then_choose_first_then_the_order_of_the_client() {
        use Decision::{Identity, Named, NotValid, Wildcard};
        let plain = [candidate("gzip", false), candidate("br", false)];
        let first = [candidate("gzip", true), candidate("br", false)];
        for (accepted, expected, with_first) in [
            ("gzip, br", Named("gzip"), Named("gzip")),
            ("br, gzip", Named("br"), Named("gzip")),
            ("br;q=0.9, gzip;q=0.8", Named("br"), Named("br")),
            ("br;q=0.5, identity", Identity, Identity),
            ("*", Wildcard("gzip"), Wildcard("gzip")),
            ("gzip;q=0, *", Wildcard("br"), Wildcard("br")),
            ("gzip;q=0, br;q=0", NotValid, NotValid),
            ("gzip;q=x, deflate", NotValid, NotValid),
            ("gzip;q=nan", NotValid, NotValid),
            ("gzip;level=1", Named("gzip"), Named("gzip")),
            ("", NotValid, NotValid),
            (";q=1", NotValid, NotValid),
        ] {
            let decision = |candidates| decide(candidates, accepted.as_bytes(), None);
            assert_eq!(decision(&plain), expected, "{accepted}");
            assert_eq!(decision(&first), with_first, "{accepted}");
        }
    }

    #[test]
    fn a_compressor_that_does_not_take_the_content_type_is_no_candidate() {
        let html = candidate("gzip", false);
        let other = Candidate {
            content_types: Arc::new(ContentTypes::listed(["image/png".into()])),
            ..candidate("br", false)
        };
        let decision = decide(&[html, other], b"gzip, br;q=0.1", Some(b"image/png"));
        assert_eq!(decision, Decision::Named("br"));
    }
}
