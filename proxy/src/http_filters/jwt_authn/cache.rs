//! Tokens that were good a moment ago, so that their signatures need not be verified again. Each worker has its own.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use outrigger_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::token::Token;

/// `JwtCacheConfig`: how much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheLimits {
    tokens: NonZeroUsize,
    /// Longer tokens are not kept.
    token_bytes: usize,
}

/// The good tokens of one provider.
pub(super) struct TokenCache {
    limits: CacheLimits,
    tokens: LruCache<ByText, ()>,
}

/// A token that is found by its text, which it has anyhow.
struct ByText(Rc<Token>);

impl Borrow<[u8]> for ByText {
    fn borrow(&self) -> &[u8] {
        self.0.text()
    }
}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text().hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.text() == other.0.text()
    }
}

impl Eq for ByText {}

const TOKENS: NonZeroUsize = NonZeroUsize::new(100).expect("it is not zero");
const TOKEN_BYTES: usize = 4096;

impl CacheLimits {
    pub(super) fn from_proto(proto: pb::JwtCacheConfig) -> Self {
        let pb::JwtCacheConfig {
            jwt_cache_size,
            jwt_max_token_size,
        } = proto;
        let size = |value: u32| usize::try_from(value).ok().and_then(NonZeroUsize::new);
        Self {
            tokens: size(jwt_cache_size).unwrap_or(TOKENS),
            token_bytes: size(jwt_max_token_size).map_or(TOKEN_BYTES, NonZeroUsize::get),
        }
    }
}

impl TokenCache {
    pub(super) fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            // Nothing is reserved: a limit may be far above what comes.
            tokens: LruCache::unbounded(),
        }
    }

    /// The token, if it is known to be good and has not expired.
    pub(super) fn get(&mut self, text: &[u8], now: u64, skew: u64) -> Option<Rc<Token>> {
        let (ByText(token), ()) = self.tokens.get_key_value(text)?;
        if token.claims.check_time(now, skew).is_ok() {
            return Some(token.clone());
        }
        self.tokens.pop(text);
        None
    }

    pub(super) fn insert(&mut self, token: Rc<Token>) {
        if token.text().len() > self.limits.token_bytes {
            return;
        }
        self.tokens.put(ByText(token), ());
        if self.tokens.len() > self.limits.tokens.get() {
            self.tokens.pop_lru();
        }
    }
}
