//! Which limits a request has, and whether it keeps within them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;

use super::kind::{LimitSpec, RateLimitSpec};
use super::shared::{Shared, Unavailable};
use super::store::{Ask, Counters, Told};

/// A key and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What a request is counted under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Keys and values.
    pub entries: Vec<Entry>,
    /// A limit in place of the configured one: requests, and seconds.
    pub limit: Option<(u32, u64)>,
    /// For how many requests it counts.
    pub hits: u64,
    /// The hits are given back.
    pub gives_back: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may pass, as far as this limit goes.
    pub passes: bool,
    /// The name of the limit.
    pub name: String,
    /// How many requests may pass.
    pub requests: u32,
    /// In how many seconds.
    pub seconds: u64,
    /// How many still may.
    pub remaining: u64,
    /// Milliseconds until one may again.
    pub wait: u64,
}

/// All limits and their counters.
#[derive(Debug, Default)]
pub struct Limiter {
    /// What was answered.
    pub counts: Counts,
    rules: RwLock<Arc<Rules>>,
    counters: Counters,
    /// Counts in place of `counters`.
    shared: Option<Shared>,
}

/// Answers, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that may pass.
    pub ok: AtomicU64,
    /// Requests that may not.
    pub over_limit: AtomicU64,
    /// Requests of which nothing could be said, since the counters are away.
    pub errors: AtomicU64,
}

/// Limits by domain.
#[derive(Debug, Default)]
struct Rules(HashMap<String, Domain>);

#[derive(Debug, Default)]
struct Domain {
    headers: bool,
    /// By their keys.
    limits: HashMap<Vec<String>, Vec<LimitSpec>>,
}

impl Limiter {
    /// Counts in Redis.
    #[must_use]
    pub fn shared(shared: Shared) -> Self {
        Self {
            shared: Some(shared),
            ..Self::default()
        }
    }

    /// Takes over other limits. Counters of limits that stay go on.
    pub fn set<'a>(&self, specs: impl IntoIterator<Item = &'a RateLimitSpec>) {
        let mut rules = Rules::default();
        for spec in specs {
            let domain = rules.0.entry(spec.domain.clone()).or_default();
            for limit in &spec.limits {
                let keys = limit.matches.iter().map(|one| one.key.clone()).collect();
                domain.limits.entry(keys).or_default().push(limit.clone());
            }
            domain.headers |= spec.headers;
        }
        let domains = rules.0.values_mut();
        for limits in domains.flat_map(|domain| domain.limits.values_mut()) {
            // Those with more values first; else in their order.
            limits.sort_by_key(|limit| {
                let open = |one: &&super::MatchSpec| one.value.is_none();
                limit.matches.iter().filter(open).count()
            });
        }
        *self.rules.write() = Arc::new(rules);
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether clients of a domain are told in headers how much is left.
    #[must_use]
    pub fn has_headers(&self, domain: &str) -> bool {
        let rules = self.rules.read();
        rules.0.get(domain).is_some_and(|domain| domain.headers)
    }

    /// Counts a request. None for what has no limit. `now`: milliseconds since 1970, where counters are not shared.
    ///
    /// # Errors
    /// Shared counters are away.
    pub async fn check(
        &self,
        domain: &str,
        asked: &[Asked],
        now: u64,
    ) -> Result<Vec<Option<Verdict>>, Unavailable> {
        let rules = Arc::clone(&self.rules.read());
        let limits: Vec<Option<Limit<'_>>> = asked
            .iter()
            .map(|asked| rules.find(domain, asked))
            .collect();
        let asks: Vec<Ask> = limits
            .iter()
            .zip(asked)
            .filter_map(|(limit, asked)| Some(limit.as_ref()?.ask(domain, asked)))
            .collect();
        let told = match &self.shared {
            Some(shared) => shared.take(&asks).await?,
            None => self.counters.take(&asks, now),
        };
        let mut told = told.into_iter();
        let verdicts = limits.into_iter().map(|limit| {
            let limit = limit?;
            told.next().map(|told| limit.verdict(told))
        });
        Ok(verdicts.collect())
    }
}

/// The limit of a descriptor.
struct Limit<'a> {
    name: &'a str,
    requests: u32,
    seconds: u64,
    shadow: bool,
}

impl Rules {
    fn find<'a>(&'a self, domain: &str, asked: &Asked) -> Option<Limit<'a>> {
        let keys: Vec<String> = asked
            .entries
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        let of_domain = self.0.get(domain);
        let of_domain = of_domain.and_then(|domain| domain.limits.get(&keys));
        let matches = |limit: &&LimitSpec| {
            let wanted = limit.matches.iter().zip(&asked.entries);
            let mut wanted = wanted.filter_map(|(one, entry)| Some((one.value.as_ref()?, entry)));
            wanted.all(|(value, entry)| *value == entry.value)
        };
        let found = of_domain.and_then(|limits| limits.iter().find(matches));
        let (name, shadow) = found.map_or(("", false), |limit| (&*limit.name, limit.shadow));
        let (requests, seconds) = match (asked.limit, found) {
            (Some(limit), _) => limit,
            (None, Some(limit)) => (limit.requests, limit.per.as_secs()),
            (None, None) => return None,
        };
        Some(Limit {
            name,
            requests,
            seconds: seconds.max(1),
            shadow,
        })
    }
}

impl Limit<'_> {
    fn ask(&self, domain: &str, asked: &Asked) -> Ask {
        let mut key = domain.to_owned();
        for Entry { key: name, value } in &asked.entries {
            for text in [name, value] {
                // With lengths, so that no two lists make one key.
                key.push_str(&format!("\n{} ", text.len()));
                key.push_str(text);
            }
        }
        Ask {
            key,
            length: self.seconds.saturating_mul(1000),
            limit: self.requests.into(),
            hits: asked.hits,
            gives_back: asked.gives_back,
            shadow: self.shadow,
        }
    }

    fn verdict(&self, told: Told) -> Verdict {
        Verdict {
            passes: told.fits || self.shadow,
            name: self.name.to_owned(),
            requests: self.requests,
            seconds: self.seconds,
            remaining: told.remaining,
            wait: told.wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_020_000;

    fn limiter() -> Limiter {
        let spec = r#"{"domain": "apis", "limits": [
            {"name": "per-user", "match": [{"key": "user"}], "requests": 2, "per": "1m"},
            {"name": "vip", "match": [{"key": "user", "value": "eve"}], "requests": 5, "per": "1m"},
            {"name": "search", "match": [{"key": "user"}, {"key": "path", "value": "/search"}], "requests": 1, "per": "1h"},
            {"name": "trial", "match": [{"key": "trial"}], "requests": 0, "per": "1s", "shadow": true}
        ]}"#;
        let limiter = Limiter::default();
        limiter.set([&serde_json::from_str(spec).unwrap()]);
        limiter
    }

    fn check(limiter: &Limiter, domain: &str, asked: &[Asked], now: u64) -> Vec<Option<Verdict>> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.build().unwrap();
        runtime.block_on(limiter.check(domain, asked, now)).unwrap()
    }

    fn asked(entries: &[(&str, &str)]) -> Asked {
        let entries = entries.iter().map(|(key, value)| Entry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        });
        Asked {
            entries: entries.collect(),
            hits: 1,
            ..Asked::default()
        }
    }

    fn passes(limiter: &Limiter, entries: &[(&str, &str)]) -> Option<(bool, String)> {
        let verdict = check(limiter, "apis", &[asked(entries)], NOW).remove(0)?;
        Some((verdict.passes, verdict.name))
    }

    #[test]
    fn each_value_that_is_left_open_is_counted_apart() {
        let limiter = limiter();
        let user = |name: &str| passes(&limiter, &[("user", name)]).unwrap().0;
        assert!(user("ann") && user("ann") && !user("ann"));
        assert!(user("bob"));
        for _ in 0..5 {
            let vip = passes(&limiter, &[("user", "eve")]).unwrap();
            assert_eq!(vip, (true, "vip".to_owned()));
        }
        assert!(!user("eve"));
    }

    #[test]
    fn keys_and_values_have_to_fit_in_their_order() {
        let limiter = limiter();
        let search = [("user", "ann"), ("path", "/search")];
        assert!(passes(&limiter, &search).unwrap().0);
        assert!(!passes(&limiter, &search).unwrap().0);
        let other = [("user", "ann"), ("path", "/other")];
        assert_eq!(passes(&limiter, &other), None);
        let swapped = [("path", "/search"), ("user", "ann")];
        assert_eq!(passes(&limiter, &swapped), None);
        assert_eq!(check(&limiter, "others", &[asked(&search)], NOW), [None]);
    }

    #[test]
    fn a_refusal_says_how_much_is_left_and_when_to_come_back() {
        let limiter = limiter();
        let user = asked(&[("user", "ann")]);
        let first = check(&limiter, "apis", std::slice::from_ref(&user), NOW)
            .remove(0)
            .unwrap();
        assert_eq!((first.remaining, first.wait), (1, 0));
        let _ = check(&limiter, "apis", std::slice::from_ref(&user), NOW);
        let refused = check(&limiter, "apis", std::slice::from_ref(&user), NOW)
            .remove(0)
            .unwrap();
        assert!(!refused.passes);
        assert_eq!(
            (refused.remaining, refused.requests, refused.seconds),
            (0, 2, 60)
        );
        let later = check(&limiter, "apis", &[user], NOW + refused.wait);
        assert!(later[0].as_ref().unwrap().passes, "{}", refused.wait);
    }

    #[test]
    fn a_limit_that_a_request_brings_along_counts_in_place_of_ours() {
        let limiter = limiter();
        let own = Asked {
            limit: Some((1, 3600)),
            ..asked(&[("tenant", "t")])
        };
        let check = || {
            check(&limiter, "apis", std::slice::from_ref(&own), NOW)
                .remove(0)
                .unwrap()
        };
        assert!(check().passes && !check().passes);
    }

    #[test]
    fn what_is_in_the_shadow_passes_and_counters_outlive_a_change() {
        let limiter = limiter();
        assert!(passes(&limiter, &[("trial", "x")]).unwrap().0);
        passes(&limiter, &[("user", "ann")]);
        let spec = r#"{"domain": "apis", "limits": [{"match": [{"key": "user"}], "requests": 1, "per": "1m"}]}"#;
        limiter.set([&serde_json::from_str(spec).unwrap()]);
        assert!(!passes(&limiter, &[("user", "ann")]).unwrap().0);
        assert_eq!(passes(&limiter, &[("trial", "x")]), None);
    }
}
