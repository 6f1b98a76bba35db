//! Tokens that were good a moment ago, so that their signatures need not be verified again. Each worker has its own.

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
    tokens: LruCache<Box<[u8]>, Rc<Token>>,
}

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
        let token = self.tokens.get(text)?;
        if token.check_time(now, skew).is_ok() {
            return Some(token.clone());
        }
        self.tokens.pop(text);
        None
    }

    pub(super) fn insert(&mut self, text: &[u8], token: Rc<Token>) {
        if text.len() > self.limits.token_bytes {
            return;
        }
        self.tokens.put(text.into(), token);
        if self.tokens.len() > self.limits.tokens.get() {
            self.tokens.pop_lru();
        }
    }
}
