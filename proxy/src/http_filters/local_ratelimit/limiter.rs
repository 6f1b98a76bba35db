//! Which buckets a request takes tokens from.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::rate_limit::{BucketSettings, TokenBucket};
use crate::route::Descriptor;

/// Keys and values of a descriptor.
type Entries = Box<[(Box<str>, Box<str>)]>;

/// A map whose keys are hashes already.
type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

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

/// A bucket, and whether it only counts what it would refuse.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: TokenBucket,
    pub(super) shadow_mode: bool,
    /// For which entries it is. It stands beside the tokens, as one of many buckets is in no cache when its request comes.
    entries: Joined,
}

/// Keys and values one behind the other, each with a byte at its end that text does not have.
#[derive(Debug, Default)]
struct Joined(SmallVec<[u8; 48]>);

const END: u8 = 0xff;

/// Buckets by descriptor, and one for all requests.
#[derive(Debug)]
pub(super) struct Limiter {
    default: Default,
    hasher: RandomState,
    exact: ByHash<Arc<Bucket>>,
    /// Those whose hash another one has as well.
    collided: Vec<Arc<Bucket>>,
    dynamic: Vec<Dynamic>,
    always_consume_default: bool,
}

#[derive(Debug)]
enum Default {
    /// Everything passes.
    None,
    /// Nothing passes.
    Deny,
    Bucket(Arc<Bucket>),
}

/// A descriptor in which entries without a value stand for any: each combination has a bucket of its own.
#[derive(Debug)]
struct Dynamic {
    settings: DescriptorSettings,
    most: usize,
    origin: Instant,
    /// Read for each request that matches the descriptor, written where one brings a new value.
    buckets: RwLock<RecentBuckets>,
}

/// Buckets in the order of their last use, as far as it was looked at.
#[derive(Debug, Default)]
struct RecentBuckets {
    by_hash: ByHash<SmallVec<[Kept; 1]>>,
    /// By last use and number; the value is the hash.
    order: BTreeMap<(u64, u64), u64>,
    made: u64,
}

#[derive(Debug)]
struct Kept {
    bucket: Arc<Bucket>,
    number: u64,
    /// The last use, in nanoseconds since the origin; `order` may have an earlier one.
    used: AtomicU64,
}

/// A bucket that a request was counted in.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Exact(&'a Arc<Bucket>),
    Dynamic(Arc<Bucket>),
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Decision<'a> {
    pub(super) allowed: bool,
    /// The bucket that decided.
    pub(super) bucket: Option<Found<'a>>,
    /// Whether the rule wants clients to be told; none: as the filter says.
    pub(super) x_ratelimit: Option<bool>,
}

impl Limiter {
    pub(super) fn new(settings: &LimiterSettings) -> Self {
        let mut limiter = Self {
            default: match settings.default {
                None => Default::None,
                Some(bucket) if bucket.max_tokens == 0 => Default::Deny,
                Some(bucket) => {
                    let bucket = Bucket::new(&bucket, false, Joined::default());
                    Default::Bucket(Arc::new(bucket))
                }
            },
            hasher: RandomState::new(),
            exact: ByHash::default(),
            collided: Vec::new(),
            dynamic: Vec::new(),
            always_consume_default: settings.always_consume_default,
        };
        for descriptor in &settings.descriptors {
            if descriptor.entries.iter().any(|(_, value)| value.is_empty()) {
                limiter.dynamic.push(Dynamic {
                    settings: descriptor.clone(),
                    most: settings.max_dynamic_descriptors,
                    origin: Instant::now(),
                    buckets: RwLock::default(),
                });
                continue;
            }
            let hash = limiter.hash(descriptor.entries.iter().map(|(k, v)| (&**k, &**v)));
            let entries = Joined::of(descriptor.entries.iter().map(|(k, v)| (&**k, &**v)));
            let bucket = Bucket::new(&descriptor.bucket, descriptor.shadow_mode, entries);
            match limiter.exact.entry(hash) {
                Entry::Vacant(vacant) => _ = vacant.insert(Arc::new(bucket)),
                Entry::Occupied(_) => limiter.collided.push(Arc::new(bucket)),
            }
        }
        limiter
    }

    /// Takes the tokens of a request. `share` is the part of all buckets that belongs to this process.
    pub(super) fn check<'a>(
        &'a self,
        descriptors: &[Descriptor<'_>],
        now: Instant,
        share: f64,
    ) -> Decision<'a> {
        let mut matched: SmallVec<[(Found<'a>, &Descriptor<'_>); 2]> = descriptors
            .iter()
            .filter_map(|descriptor| Some((self.find(descriptor, now)?, descriptor)))
            .collect();
        if matched.len() > 1 {
            // The slowest bucket is asked first.
            matched.sort_by(|(a, _), (b, _)| a.fill_rate().total_cmp(&b.fill_rate()));
        }
        let mut shadowed = None;
        for (at, (bucket, descriptor)) in matched.iter().enumerate() {
            let hits = descriptor.hits_addend;
            if let (true, Some(hits)) = (descriptor.is_negative_hits, hits) {
                bucket.refill(now, hits);
            } else if !bucket.consume(now, hits.unwrap_or(1), share) {
                if !bucket.shadow_mode {
                    return Decision::of(false, matched.into_iter().nth(at));
                }
                shadowed.get_or_insert(at);
            }
        }
        let mut of_default = None;
        if matched.is_empty() || self.always_consume_default {
            match &self.default {
                Default::None => {}
                Default::Deny => return Decision::new(false, None),
                Default::Bucket(bucket) => {
                    let allowed = bucket.consume(now, 1, share);
                    if !allowed {
                        return Decision::new(false, Some(Found::Exact(bucket)));
                    }
                    of_default = Some(Found::Exact(bucket));
                }
            }
        }
        match shadowed {
            Some(at) => Decision::of(false, matched.into_iter().nth(at)),
            None if matched.is_empty() => Decision::new(true, of_default),
            None => Decision::of(true, matched.into_iter().next()),
        }
    }

    fn find(&self, descriptor: &Descriptor<'_>, now: Instant) -> Option<Found<'_>> {
        let entries = &*descriptor.entries;
        let hash = self.hash(entries.iter().map(|(k, v)| (&**k, &**v)));
        let exact = self.exact.get(&hash).and_then(|bucket| {
            let mut same = std::iter::once(bucket).chain(&self.collided);
            same.find(|bucket| bucket.entries.are(entries))
        });
        match exact {
            Some(bucket) => Some(Found::Exact(bucket)),
            None => self
                .dynamic
                .iter()
                .find(|dynamic| dynamic.matches(entries))
                .map(|dynamic| Found::Dynamic(dynamic.bucket(hash, entries, now))),
        }
    }

    /// One hash over all entries, so that nothing has to be collected.
    fn hash<'a>(&self, entries: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for (key, value) in entries {
            key.hash(&mut hasher);
            value.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Joined {
    fn of<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = SmallVec::new();
        for part in entries.flat_map(|(key, value)| [key, value]) {
            text.extend_from_slice(part.as_bytes());
            text.push(END);
        }
        Self(text)
    }

    /// Whether a request has these entries, and no others.
    fn are(&self, request: &[(Cow<'_, str>, Cow<'_, str>)]) -> bool {
        let mut rest = &*self.0;
        for part in request.iter().flat_map(|(key, value)| [key, value]) {
            let found = rest.strip_prefix(part.as_bytes());
            let Some([END, behind @ ..]) = found else {
                return false;
            };
            rest = behind;
        }
        rest.is_empty()
    }
}

impl Dynamic {
    /// Whether a request has these entries, where one without a value stands for every value.
    fn matches(&self, request: &[(Cow<'_, str>, Cow<'_, str>)]) -> bool {
        let entries = &self.settings.entries;
        entries.len() == request.len()
            && entries
                .iter()
                .zip(request)
                .all(|((key, value), (k, v))| **key == **k && (**value == **v || value.is_empty()))
    }

    fn bucket(
        &self,
        hash: u64,
        request: &[(Cow<'_, str>, Cow<'_, str>)],
        now: Instant,
    ) -> Arc<Bucket> {
        let now = now.saturating_duration_since(self.origin).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.read().find(hash, request, now) {
            return bucket;
        }
        let mut recent = self.buckets.write();
        // Another worker may have been faster.
        if let Some(bucket) = recent.find(hash, request, now) {
            return bucket;
        }
        let settings = &self.settings;
        let entries = Joined::of(request.iter().map(|(key, value)| (&**key, &**value)));
        let bucket = Bucket::new(&settings.bucket, settings.shadow_mode, entries);
        let bucket = Arc::new(bucket);
        recent.add(hash, bucket.clone(), now);
        if recent.order.len() > self.most {
            recent.forget_oldest();
        }
        bucket
    }
}

impl RecentBuckets {
    fn find(
        &self,
        hash: u64,
        request: &[(Cow<'_, str>, Cow<'_, str>)],
        now: u64,
    ) -> Option<Arc<Bucket>> {
        let same = self.by_hash.get(&hash)?;
        let kept = same.iter().find(|kept| kept.bucket.entries.are(request))?;
        kept.used.store(now, Relaxed);
        Some(kept.bucket.clone())
    }

    fn add(&mut self, hash: u64, bucket: Arc<Bucket>, now: u64) {
        self.made += 1;
        self.order.insert((now, self.made), hash);
        self.by_hash.entry(hash).or_default().push(Kept {
            bucket,
            number: self.made,
            used: AtomicU64::new(now),
        });
    }

    /// Those that were used since they were put in order are put in order again, until one was not.
    fn forget_oldest(&mut self) {
        while let Some(((listed, number), hash)) = self.order.pop_first() {
            let Some(same) = self.by_hash.get_mut(&hash) else {
                return;
            };
            let Some(at) = same.iter().position(|kept| kept.number == number) else {
                return;
            };
            match same.get(at).map(|kept| kept.used.load(Relaxed)) {
                Some(used) if used > listed => {
                    self.order.insert((used, number), hash);
                }
                _ => {
                    same.swap_remove(at);
                    if same.is_empty() {
                        self.by_hash.remove(&hash);
                    }
                    return;
                }
            }
        }
    }
}

impl Bucket {
    fn new(settings: &BucketSettings, shadow_mode: bool, entries: Joined) -> Self {
        Self {
            tokens: TokenBucket::new(settings),
            shadow_mode,
            entries,
        }
    }
}

impl Deref for Bucket {
    type Target = TokenBucket;

    fn deref(&self) -> &TokenBucket {
        &self.tokens
    }
}

impl Deref for Found<'_> {
    type Target = Arc<Bucket>;

    fn deref(&self) -> &Arc<Bucket> {
        match self {
            Self::Exact(bucket) => bucket,
            Self::Dynamic(bucket) => bucket,
        }
    }
}

impl<'a> Decision<'a> {
    fn new(allowed: bool, bucket: Option<Found<'a>>) -> Self {
        Self {
            allowed,
            bucket,
            x_ratelimit: None,
        }
    }

    fn of(allowed: bool, matched: Option<(Found<'a>, &Descriptor<'_>)>) -> Self {
        Self {
            allowed,
            x_ratelimit: matched.as_ref().and_then(|(_, of)| of.x_ratelimit),
            bucket: matched.map(|(bucket, _)| bucket),
        }
    }
}

/// Takes a hash for what it is.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never used for keys that are hashes; any mixture does.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
