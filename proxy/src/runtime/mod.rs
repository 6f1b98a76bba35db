//! Runtime values: `layered_runtime`. A reader resolves its key once, at configuration time, and then reads an atomic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use outrigger_proto::pb::envoy::config::core::v3::{RuntimeFeatureFlag, RuntimeFractionalPercent};

use crate::config::{ConfigPath, Fraction, Rejected};
use crate::stats::Store;
use crate::stats_group;

stats_group! {
    /// `runtime.`
    struct RuntimeStats {
        counter load_success;
        gauge num_keys;
        gauge num_layers;
    }
}

/// All layers, merged. Shared by everything that reads runtime keys.
#[derive(Debug, Clone, Default)]
pub struct Runtime {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Values by layer name, in the order of the layers: later ones win.
    layers: Vec<(String, HashMap<String, String>)>,
    /// Who reads which key.
    slots: HashMap<String, Arc<Slot>>,
    /// Who reads which key as a number that need not be whole: its bits.
    doubles: HashMap<String, Arc<AtomicU64>>,
    /// None: nobody counts.
    stats: Option<RuntimeStats>,
}

#[derive(Debug)]
struct Slot {
    value: AtomicU64,
}

/// No value: the reader's default holds.
const UNSET: u64 = u64::MAX;

/// A fraction that may be overridden by a runtime key.
#[derive(Debug, Clone)]
pub struct RuntimeFraction {
    slot: Option<Arc<Slot>>,
    default: Fraction,
}

/// A number that may be overridden by a runtime key.
#[derive(Debug, Clone)]
pub struct RuntimeInteger {
    slot: Option<Arc<Slot>>,
    default: u64,
}

/// A number that a runtime key may override.
#[derive(Debug, Clone)]
pub struct RuntimeDouble {
    slot: Option<Arc<AtomicU64>>,
    default: f64,
}

impl RuntimeDouble {
    /// The number in force.
    #[inline]
    pub fn get(&self) -> f64 {
        let bits = self.slot.as_ref().map(|slot| slot.load(Relaxed));
        bits.filter(|bits| *bits != NO_DOUBLE)
            .map_or(self.default, f64::from_bits)
    }
}

/// A switch that may be overridden by a runtime key.
#[derive(Debug, Clone)]
pub struct RuntimeFlag {
    slot: Option<Arc<Slot>>,
    default: bool,
}

impl Runtime {
    /// Counts layers and keys from now on. Stats: `runtime.{load_success,num_keys,num_layers}`.
    pub fn count(&self, stats: &Store) {
        let mut inner = self.inner.lock();
        inner.stats = Some(RuntimeStats::new(&stats.scope("runtime.")));
        inner.publish();
    }

    /// Replaces the values of the layer `name`, or adds it after all others.
    pub fn set_layer(&self, name: &str, values: HashMap<String, String>) {
        let mut inner = self.inner.lock();
        match inner.layers.iter_mut().find(|(layer, _)| layer == name) {
            Some((_, old)) => *old = values,
            None => inner.layers.push((name.to_owned(), values)),
        }
        inner.publish();
    }

    /// Changes single values of the layer `name`; an empty value removes the override.
    pub fn modify_layer(&self, name: &str, changes: impl IntoIterator<Item = (String, String)>) {
        let mut inner = self.inner.lock();
        if let Some((_, values)) = inner.layers.iter_mut().find(|(layer, _)| layer == name) {
            for (key, value) in changes {
                if value.is_empty() {
                    values.remove(&key);
                } else {
                    values.insert(key, value);
                }
            }
        }
        inner.publish();
    }

    /// The layers and their values, lowest first.
    pub fn layers(&self) -> Vec<(String, HashMap<String, String>)> {
        self.inner.lock().layers.clone()
    }

    /// The value in force for `key`.
    pub fn get(&self, key: &str) -> Option<String> {
        self.inner.lock().get(key).map(str::to_owned)
    }

    /// A reader of `key` as a fraction. An empty key means that only the default counts.
    pub fn fraction(&self, key: &str, default: Fraction) -> RuntimeFraction {
        RuntimeFraction {
            slot: self.slot(key),
            default,
        }
    }

    /// A reader of `key` as a number.
    pub fn integer(&self, key: &str, default: u64) -> RuntimeInteger {
        RuntimeInteger {
            slot: self.slot(key),
            default,
        }
    }

    /// A reader of `key` as a number that need not be whole. An empty key means that only the default counts.
    pub fn double(&self, key: &str, default: f64) -> RuntimeDouble {
        let slot = (!key.is_empty()).then(|| {
            let mut inner = self.inner.lock();
            let value = inner.get(key).map_or(NO_DOUBLE, encode_double);
            let slots = &mut inner.doubles;
            let slot = slots
                .entry(key.to_owned())
                .or_insert_with(|| Arc::new(AtomicU64::new(value)));
            slot.clone()
        });
        RuntimeDouble { slot, default }
    }

    /// A reader of `key` as a switch.
    pub fn flag(&self, key: &str, default: bool) -> RuntimeFlag {
        RuntimeFlag {
            slot: self.slot(key),
            default,
        }
    }

    fn slot(&self, key: &str) -> Option<Arc<Slot>> {
        if key.is_empty() {
            return None;
        }
        let mut inner = self.inner.lock();
        let value = inner.get(key).map_or(UNSET, encode);
        Some(
            inner
                .slots
                .entry(key.to_owned())
                .or_insert_with(|| {
                    Arc::new(Slot {
                        value: AtomicU64::new(value),
                    })
                })
                .clone(),
        )
    }
}

impl Inner {
    fn get(&self, key: &str) -> Option<&str> {
        self.layers
            .iter()
            .rev()
            .find_map(|(_, values)| values.get(key))
            .map(String::as_str)
    }

    fn publish(&mut self) {
        self.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        self.doubles.retain(|_, slot| Arc::strong_count(slot) > 1);
        for (key, slot) in &self.doubles {
            slot.store(self.get(key).map_or(NO_DOUBLE, encode_double), Relaxed);
        }
        for (key, slot) in &self.slots {
            slot.value
                .store(self.get(key).map_or(UNSET, encode), Relaxed);
        }
        if let Some(stats) = &self.stats {
            let layers = self.layers.iter();
            let keys: HashSet<&String> = layers.flat_map(|(_, values)| values.keys()).collect();
            let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            stats.load_success().inc();
            stats.num_keys().set(number(keys.len()));
            stats.num_layers().set(number(self.layers.len()));
        }
    }
}

/// The bits of a value that is not there: those of no finite number.
const NO_DOUBLE: u64 = u64::MAX;

fn encode_double(value: &str) -> u64 {
    let number = value.trim().parse::<f64>().ok();
    number
        .filter(|number| number.is_finite())
        .map_or(NO_DOUBLE, f64::to_bits)
}

/// A whole number stands for itself, `true` and `false` for 1 and 0, and a `FractionalPercent` for its share. What cannot be
/// read leaves the default in force.
fn encode(value: &str) -> u64 {
    match value.trim() {
        "true" => 1,
        "false" => 0,
        fraction if fraction.starts_with('{') => encode_fraction(fraction).unwrap_or(UNSET),
        number => number
            .parse::<u64>()
            .map_or(UNSET, |number| number.min(FRACTION - 1)),
    }
}

/// Marks a value that is a fraction: the denominator by its number in the API from bit 32 on, below it the numerator.
const FRACTION: u64 = 1 << 63;
const DENOMINATORS: [(&str, u64); 3] = [
    ("HUNDRED", 100),
    ("TEN_THOUSAND", 10_000),
    ("MILLION", 1_000_000),
];

fn encode_fraction(text: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let numerator = value.get("numerator").map_or(Some(0.0), |n| n.as_f64())?;
    let denominator = match value.get("denominator") {
        None => 0,
        Some(serde_json::Value::String(name)) => {
            DENOMINATORS.iter().position(|(known, _)| known == name)?
        }
        Some(number) => DENOMINATORS.iter().enumerate().find_map(|(index, _)| {
            (number.as_f64() == Some(f64::from(u8::try_from(index).ok()?))).then_some(index)
        })?,
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it was looked at"
    )]
    let numerator = (0.0..=f64::from(u32::MAX))
        .contains(&numerator)
        .then_some(numerator as u64)?;
    Some(FRACTION | (denominator as u64) << 32 | numerator)
}

impl Slot {
    /// A number; none: nothing, or a fraction.
    fn get(&self) -> Option<u64> {
        Some(self.value.load(Relaxed)).filter(|value| value & FRACTION == 0)
    }

    /// Whether an event that drew `random` is among the share; none: there is no value.
    #[inline]
    fn contains(&self, random: u64) -> Option<bool> {
        let value = self.value.load(Relaxed);
        if value == UNSET {
            return None;
        }
        if value & FRACTION == 0 {
            return Some(random % 100 < value);
        }
        let denominator = (value >> 32) & 3;
        let (_, denominator) = DENOMINATORS.get(usize::try_from(denominator).ok()?)?;
        Some(random % denominator < value & u64::from(u32::MAX))
    }
}

impl RuntimeFraction {
    /// Converts a `RuntimeFractionalPercent`.
    pub fn from_proto(
        proto: RuntimeFractionalPercent,
        runtime: &Runtime,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let RuntimeFractionalPercent {
            default_value,
            runtime_key,
        } = proto;
        let default = path.required("default_value", default_value)?;
        let default = Fraction::from_proto(default, &path.field("default_value"))?;
        Ok(runtime.fraction(&runtime_key, default))
    }

    /// As `contains`, with another default in the place of the configured one.
    #[inline]
    pub fn contains_with_default(&self, random: u64, default: Fraction) -> bool {
        match self.slot.as_ref().and_then(|slot| slot.contains(random)) {
            None => default.contains(random),
            Some(contains) => contains,
        }
    }

    /// Whether nothing is among the share, whatever happens at run time.
    pub fn is_never(&self) -> bool {
        self.slot.is_none() && self.default.numerator == 0
    }

    /// A fraction that nothing overrides.
    pub fn fixed(default: Fraction) -> Self {
        Self {
            slot: None,
            default,
        }
    }

    /// Whether an event that drew `random` is among the share. A runtime value that is a whole number is a percentage.
    #[inline]
    pub fn contains(&self, random: u64) -> bool {
        self.contains_with_default(random, self.default)
    }
}

impl RuntimeInteger {
    /// The number in force.
    #[inline]
    pub fn get(&self) -> u64 {
        self.slot
            .as_ref()
            .and_then(|slot| slot.get())
            .unwrap_or(self.default)
    }
}

impl RuntimeFlag {
    /// Converts a `RuntimeFeatureFlag`.
    pub fn from_proto(
        proto: RuntimeFeatureFlag,
        runtime: &Runtime,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let RuntimeFeatureFlag {
            default_value,
            runtime_key,
        } = proto;
        let default = path.required("default_value", default_value)?.value;
        Ok(runtime.flag(&runtime_key, default))
    }

    /// Whether the switch is on.
    #[inline]
    pub fn get(&self) -> bool {
        self.slot
            .as_ref()
            .and_then(|slot| slot.get())
            .map_or(self.default, |value| value != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_follows_its_key_and_else_has_its_default() {
        let runtime = Runtime::default();
        let reader = runtime.double("d", 1.5);
        assert_eq!(reader.get(), 1.5);
        let layer = |value: &str| HashMap::from([("d".to_owned(), value.to_owned())]);
        runtime.set_layer("a", layer("2.25"));
        assert_eq!(reader.get(), 2.25);
        runtime.set_layer("a", layer("many"));
        assert_eq!(reader.get(), 1.5);
        assert_eq!(runtime.double("", 3.0).get(), 3.0);
    }

    #[test]
    fn a_fraction_of_a_layer_counts_by_its_own_denominator() {
        let runtime = Runtime::default();
        let reader = runtime.fraction("a", Fraction::ALWAYS);
        let number = runtime.integer("a", 7);
        let set = |text: &str| runtime.set_layer("l", HashMap::from([("a".into(), text.into())]));
        set("{\"numerator\":5,\"denominator\":\"TEN_THOUSAND\"}");
        assert!(reader.contains(4) && !reader.contains(5) && reader.contains(10_004));
        assert_eq!(number.get(), 7);
        set("{\"numerator\":30.0}");
        assert!(reader.contains(129) && !reader.contains(130));
        set("{\"denominator\":2.0}");
        assert!(!reader.contains(0));
        // What cannot be read leaves the default in force.
        set("{\"numerator\":-1}");
        assert!(reader.contains(0));
    }

    #[test]
    fn a_reader_sees_a_later_override_and_its_removal() {
        let runtime = Runtime::default();
        let limit = runtime.integer("a.limit", 7);
        assert_eq!(limit.get(), 7);
        runtime.set_layer("admin", HashMap::new());
        runtime.modify_layer("admin", [("a.limit".to_owned(), "9".to_owned())]);
        assert_eq!(limit.get(), 9);
        runtime.modify_layer("admin", [("a.limit".to_owned(), String::new())]);
        assert_eq!(limit.get(), 7);
    }
}
