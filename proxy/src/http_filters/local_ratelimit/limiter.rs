//! Which buckets a request takes tokens from.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::bucket::TokenBucket;
use crate::route::Descriptor;

/// Keys and values of a descriptor.
type Entries = Box<[(Box<str>, Box<str>)]>;

/// A `TokenBucket` of the API.
#[derive(Debug, Clone, Copy)]
pub(super) struct BucketSettings {
    pub(super) max_tokens: u32,
    pub(super) tokens_per_fill: u32,
    pub(super) fill_interval: Duration,
}

/// A `LocalRateLimitDescriptor`.
#[derive(Debug, Clone)]
pub(super) struct DescriptorSettings {
    pub(super) entries: Entries,
    pub(super) bucket: BucketSettings,
    pub(super) shadow_mode: bool,
}

/// What a limiter is made of: one for all connections, or one per connection.
#[derive(Debug, Clone)]
pub(super) struct LimiterSettings {
    pub(super) default: Option<BucketSettings>,
    pub(super) descriptors: Vec<DescriptorSettings>,
    pub(super) always_consume_default: bool,
    /// How many buckets an entry without value may make.
    pub(super) max_dynamic_descriptors: usize,
}

/// Buckets by descriptor, and one for all requests.
#[derive(Debug)]
pub(super) struct Limiter {
    default: Default,
    hasher: RandomState,
    /// By the hash of the entries.
    exact: HashMap<u64, SmallVec<[(Entries, Arc<TokenBucket>); 1]>>,
    dynamic: Vec<Dynamic>,
    always_consume_default: bool,
}

#[derive(Debug)]
enum Default {
    /// Everything passes.
    None,
    /// Nothing passes.
    Deny,
    Bucket(Arc<TokenBucket>),
}

/// A descriptor in which entries without a value stand for any: each combination has a bucket of its own.
#[derive(Debug)]
struct Dynamic {
    settings: DescriptorSettings,
    most: usize,
    /// Only requests that match the descriptor wait for each other here, as in Envoy.
    buckets: Mutex<RecentBuckets>,
}

/// Buckets in the order of their last use.
#[derive(Debug, Default)]
struct RecentBuckets {
    by_entries: HashMap<Entries, (u64, Arc<TokenBucket>)>,
    by_use: BTreeMap<u64, Entries>,
    uses: u64,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    /// The bucket that decided.
    pub(super) bucket: Option<Arc<TokenBucket>>,
}

impl Limiter {
    pub(super) fn new(settings: &LimiterSettings) -> Self {
        let make = |bucket: BucketSettings, shadow| {
            Arc::new(TokenBucket::new(
                bucket.max_tokens,
                bucket.tokens_per_fill,
                bucket.fill_interval,
                shadow,
            ))
        };
        let mut limiter = Self {
            default: match settings.default {
                None => Default::None,
                Some(bucket) if bucket.max_tokens == 0 => Default::Deny,
                Some(bucket) => Default::Bucket(make(bucket, false)),
            },
            hasher: RandomState::new(),
            exact: HashMap::new(),
            dynamic: Vec::new(),
            always_consume_default: settings.always_consume_default,
        };
        for descriptor in &settings.descriptors {
            if descriptor.entries.iter().any(|(_, value)| value.is_empty()) {
                limiter.dynamic.push(Dynamic {
                    settings: descriptor.clone(),
                    most: settings.max_dynamic_descriptors,
                    buckets: Mutex::default(),
                });
                continue;
            }
            let hash = limiter.hash(descriptor.entries.iter().map(|(k, v)| (&**k, &**v)));
            let bucket = make(descriptor.bucket, descriptor.shadow_mode);
            let entries = descriptor.entries.clone();
            limiter
                .exact
                .entry(hash)
                .or_default()
                .push((entries, bucket));
        }
        limiter
    }

    /// Takes the tokens of a request.
    pub(super) fn check(&self, descriptors: &[Descriptor<'_>]) -> Decision {
        let mut matched: SmallVec<[(Arc<TokenBucket>, &Descriptor<'_>); 4]> = descriptors
            .iter()
            .filter_map(|descriptor| Some((self.find(descriptor)?, descriptor)))
            .collect();
        // The slowest bucket is asked first.
        matched.sort_by(|(a, _), (b, _)| a.fill_rate().total_cmp(&b.fill_rate()));
        let mut shadowed = None;
        for (bucket, descriptor) in &matched {
            let hits = descriptor.hits_addend;
            if let (true, Some(hits)) = (descriptor.is_negative_hits, hits) {
                bucket.refill(hits);
            } else if !bucket.consume(hits.unwrap_or(1)) {
                if !bucket.shadow_mode {
                    return Decision::new(false, Some(bucket.clone()));
                }
                shadowed.get_or_insert_with(|| bucket.clone());
            }
        }
        let first = matched.first().map(|(bucket, _)| bucket.clone());
        let mut of_default = None;
        if first.is_none() || self.always_consume_default {
            match &self.default {
                Default::None => {}
                Default::Deny => return Decision::new(false, None),
                Default::Bucket(bucket) if bucket.consume(1) => of_default = Some(bucket.clone()),
                Default::Bucket(bucket) => return Decision::new(false, Some(bucket.clone())),
            }
        }
        match shadowed {
            Some(bucket) => Decision::new(false, Some(bucket)),
            None => Decision::new(true, first.or(of_default)),
        }
    }

    fn find(&self, descriptor: &Descriptor<'_>) -> Option<Arc<TokenBucket>> {
        let hash = self.hash(descriptor.entries.iter().map(|(k, v)| (&**k, &**v)));
        let exact = self.exact.get(&hash).and_then(|same| {
            same.iter()
                .find(|(entries, _)| matches(entries, &descriptor.entries, false))
        });
        match exact {
            Some((_, bucket)) => Some(bucket.clone()),
            None => self
                .dynamic
                .iter()
                .find(|dynamic| matches(&dynamic.settings.entries, &descriptor.entries, true))
                .map(|dynamic| dynamic.bucket(&descriptor.entries)),
        }
    }

    fn hash<'a>(&self, entries: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
        // Combined in order, so that nothing has to be collected.
        entries.fold(0, |sum: u64, entry| {
            sum.rotate_left(5) ^ self.hasher.hash_one(entry)
        })
    }
}

/// Whether a request has these entries; `any` lets an entry without a value stand for every value.
fn matches(entries: &Entries, request: &[(Cow<'_, str>, Cow<'_, str>)], any: bool) -> bool {
    entries.len() == request.len()
        && entries.iter().zip(request).all(|((key, value), (k, v))| {
            **key == **k && (**value == **v || (any && value.is_empty()))
        })
}

impl Dynamic {
    fn bucket(&self, request: &[(Cow<'_, str>, Cow<'_, str>)]) -> Arc<TokenBucket> {
        let key: Entries = request
            .iter()
            .map(|(key, value)| (Box::from(&**key), Box::from(&**value)))
            .collect();
        let mut recent = self.buckets.lock();
        recent.uses += 1;
        let now = recent.uses;
        let RecentBuckets {
            by_entries, by_use, ..
        } = &mut *recent;
        if let Some((used, bucket)) = by_entries.get_mut(&key) {
            by_use.remove(used);
            *used = now;
            by_use.insert(now, key);
            return bucket.clone();
        }
        let settings = &self.settings;
        let bucket = Arc::new(TokenBucket::new(
            settings.bucket.max_tokens,
            settings.bucket.tokens_per_fill,
            settings.bucket.fill_interval,
            settings.shadow_mode,
        ));
        by_use.insert(now, key.clone());
        by_entries.insert(key, (now, bucket.clone()));
        if by_entries.len() > self.most
            && let Some((_, oldest)) = by_use.pop_first()
        {
            by_entries.remove(&oldest);
        }
        bucket
    }
}

impl Decision {
    fn new(allowed: bool, bucket: Option<Arc<TokenBucket>>) -> Self {
        Self { allowed, bucket }
    }
}
