//! The counters of all limits.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::window::Counter;

/// Counters in memory, by what they count.
#[derive(Debug)]
pub struct Counters {
    kept: Mutex<HashMap<String, Kept>>,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    counter: Counter,
    /// The length of its window, in milliseconds.
    #[serde(rename = "l")]
    length: u64,
}

/// One counter that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) key: String,
    /// Milliseconds.
    pub(super) length: u64,
    pub(super) limit: u64,
    pub(super) hits: u64,
    /// The hits are given back.
    pub(super) gives_back: bool,
    /// Goes beyond the limit, if it must.
    pub(super) shadow: bool,
}

/// What a counter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether the hits fit in.
    pub(super) fits: bool,
    /// Hits that would fit in afterwards.
    pub(super) remaining: u64,
    /// Milliseconds until there is room for one, or for what was asked for.
    pub(super) wait: u64,
}

impl Told {
    /// What is said of a counter after an ask.
    pub(super) fn of(counter: Counter, ask: &Ask, fits: bool, now: u64) -> Self {
        let used = counter.used(now, ask.length);
        let wanted = if fits { 1 } else { ask.hits.max(1) };
        let wait = counter.wait(now, ask.length, ask.limit, wanted);
        Self {
            fits,
            remaining: ask.limit.saturating_sub(used),
            // What never fits is told to come back when everything is forgotten.
            wait: wait.unwrap_or(2 * ask.length),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::with_room_for(1_000_000)
    }
}

impl Counters {
    /// Room for so many counters. Beyond it those that count nothing any more are forgotten, and if there are none, what is
    /// new is not counted.
    #[must_use]
    pub fn with_room_for(most: usize) -> Self {
        Self {
            kept: Mutex::default(),
            most,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.lock().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.lock().is_empty()
    }

    /// Takes from all counters, or from none where one of them has no room. Given for each ask.
    pub(super) fn take(&self, asks: &[Ask], now: u64) -> Vec<Told> {
        let mut kept = self.kept.lock();
        let counter = |kept: &HashMap<String, Kept>, ask: &Ask| {
            kept.get(&ask.key)
                .filter(|known| known.length == ask.length)
                .map(|known| known.counter)
                .unwrap_or_default()
        };
        let fits: Vec<bool> = asks
            .iter()
            .map(|ask| {
                let used = counter(&kept, ask).used(now, ask.length);
                ask.gives_back || used.saturating_add(ask.hits) <= ask.limit
            })
            .collect();
        let refused = asks
            .iter()
            .zip(&fits)
            .any(|(ask, fits)| !fits && !ask.shadow);
        if !refused {
            for ask in asks {
                self.count(&mut kept, ask, now);
            }
        }
        let told = asks
            .iter()
            .zip(fits)
            .map(|(ask, fits)| Told::of(counter(&kept, ask), ask, fits, now));
        told.collect()
    }

    fn count(&self, kept: &mut HashMap<String, Kept>, ask: &Ask, now: u64) {
        if !kept.contains_key(&ask.key) && kept.len() >= self.most {
            kept.retain(|_, known| !known.counter.is_over(now, known.length));
            if kept.len() >= self.most {
                tracing::warn!(
                    counters = kept.len(),
                    "There is no room for another counter."
                );
                return;
            }
        }
        let known = kept.entry(ask.key.clone()).or_insert(Kept {
            counter: Counter::default(),
            length: ask.length,
        });
        if known.length != ask.length {
            *known = Kept {
                counter: Counter::default(),
                length: ask.length,
            };
        }
        match ask.gives_back {
            true => known.counter.give_back(now, ask.length, ask.hits),
            false => known.counter.add(now, ask.length, ask.hits),
        }
    }

    /// Writes what still counts to a file, in one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &Path, now: u64) -> io::Result<()> {
        let text = {
            let kept = self.kept.lock();
            let counting: HashMap<&String, &Kept> = kept
                .iter()
                .filter(|(_, known)| !known.counter.is_over(now, known.length))
                .collect();
            serde_json::to_vec(&counting)?
        };
        let beside = file.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, file)
    }

    /// Takes over what a file has. A file that is not there has nothing.
    ///
    /// # Errors
    /// The file cannot be read, or was not written by [`save`](Self::save).
    pub fn load(&self, file: &Path) -> io::Result<()> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let found: HashMap<String, Kept> = serde_json::from_slice(&text)?;
        let found = found.into_iter().filter(|(_, known)| known.length > 0);
        self.kept.lock().extend(found.take(self.most));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn ask(key: &str, limit: u64) -> Ask {
        Ask {
            key: key.to_owned(),
            length: 60_000,
            limit,
            hits: 1,
            gives_back: false,
            shadow: false,
        }
    }

    fn fits(counters: &Counters, asks: &[Ask]) -> Vec<bool> {
        let told = counters.take(asks, NOW);
        told.iter().map(|told| told.fits).collect()
    }

    #[test]
    fn a_request_that_one_counter_refuses_is_counted_by_none() {
        let counters = Counters::default();
        assert_eq!(fits(&counters, &[ask("a", 1)]), [true]);
        assert_eq!(fits(&counters, &[ask("a", 1), ask("b", 1)]), [false, true]);
        assert_eq!(fits(&counters, &[ask("b", 1)]), [true]);
        let back = Ask {
            gives_back: true,
            ..ask("a", 1)
        };
        assert_eq!(fits(&counters, &[back]), [true]);
        assert_eq!(fits(&counters, &[ask("a", 1)]), [true]);
    }

    #[test]
    fn a_counter_in_the_shadow_refuses_nothing() {
        let counters = Counters::default();
        let shadow = Ask {
            shadow: true,
            ..ask("a", 0)
        };
        assert_eq!(fits(&counters, &[shadow, ask("b", 2)]), [false, true]);
        assert_eq!(counters.take(&[ask("b", 2)], NOW)[0].remaining, 0);
    }

    #[test]
    fn there_is_room_for_so_many_counters_and_the_old_ones_go() {
        let counters = Counters::with_room_for(2);
        for key in ["a", "b", "c", "c"] {
            assert_eq!(fits(&counters, &[ask(key, 1)]), [true], "{key}");
        }
        assert_eq!(counters.len(), 2);
        let later = NOW + 180_000;
        assert!(counters.take(&[ask("c", 1)], later)[0].fits);
        assert_eq!(counters.len(), 1);
    }

    #[test]
    fn a_file_keeps_what_still_counts() {
        let folder = std::env::temp_dir().join(format!("counters-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("limits.json");
        let counters = Counters::default();
        counters.load(&file).unwrap();
        counters.take(&[ask("old", 1)], NOW - 600_000);
        counters.take(&[ask("a\0b", 1)], NOW);
        counters.save(&file, NOW).unwrap();
        let again = Counters::default();
        again.load(&file).unwrap();
        assert_eq!(again.len(), 1);
        assert_eq!(fits(&again, &[ask("a\0b", 1)]), [false]);
        std::fs::write(&file, b"{").unwrap();
        assert!(again.load(&file).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
