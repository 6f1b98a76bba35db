//! `hash_balance_factor`: a host that is far busier than the average gives its requests to others.
//!
//! Docs: <https://arxiv.org/abs/1608.01350> and <https://arxiv.org/abs/1908.08762>

use super::hashing::Load;

/// `first`, or if it is too busy another host, the same one for the same hash; if all are, the one that is so the least.
/// All are indexes of `hosts`.
pub(super) fn choose(
    first: usize,
    hash: u64,
    hosts: &[u32],
    weights: &[f64],
    load: &Load<'_>,
) -> usize {
    let factor_of = |at: usize| overload_factor((load.of_host)(hosts[at]), weights[at], load);
    let mut best = first;
    let mut least = factor_of(first);
    if least <= 1.0 {
        return first;
    }
    // Which of the others is asked next must be random, or the one beside a busy host would get all it cannot take.
    let mut order: Vec<u32> = (0..u32::try_from(hosts.len()).unwrap_or(u32::MAX)).collect();
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the generator takes the lower half of the hash as its seed"
    )]
    let mut random = MersenneTwister::new(hash as u32);
    for at in 0..order.len() {
        let left = u32::try_from(order.len() - at).unwrap_or(u32::MAX);
        order.swap(at, at + random.below(left));
        let other = usize::try_from(order[at]).unwrap_or(first);
        if other == first {
            continue;
        }
        let factor = factor_of(other);
        if factor <= 1.0 {
            return other;
        }
        if factor < least {
            (best, least) = (other, factor);
        }
    }
    best
}

/// How far a host has used up its share of what all may have; above 1 it is too busy.
fn overload_factor(active: u64, weight: f64, load: &Load<'_>) -> f64 {
    let slots = ((load.cluster + 1) * u64::from(load.factor)).div_ceil(100);
    #[allow(
        clippy::cast_precision_loss,
        reason = "requests in flight are far below 2^52"
    )]
    let (slots, active) = (slots as f64, active as f64);
    active / (slots * weight).ceil().max(1.0)
}

/// MT19937, so that the order of hosts is the one that Envoy's generator gives.
struct MersenneTwister {
    state: [u32; 624],
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        let mut last = seed;
        for (index, word) in (0_u32..).zip(&mut state).skip(1) {
            last = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(index);
            *word = last;
        }
        Self { state, next: 624 }
    }

    fn twist(&mut self) {
        for at in 0..624 {
            let both = self.state[at] & 0x8000_0000 | self.state[(at + 1) % 624] & 0x7fff_ffff;
            let odd = if both & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + 397) % 624] ^ both >> 1 ^ odd;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == 624 {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// A number below `n`, each as likely.
    fn below(&mut self, n: u32) -> usize {
        let step = (1_u64 << 32) / u64::from(n.max(1));
        loop {
            let drawn = u64::from(self.draw()) / step;
            if drawn < u64::from(n.max(1)) {
                return usize::try_from(drawn).unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_draws_what_its_reference_draws() {
        let mut random = MersenneTwister::new(5489);
        assert_eq!(random.draw(), 3_499_211_612);
        let last = (1..10_000).map(|_| random.draw()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_busy_host_gives_its_requests_to_another_one_always_the_same() {
        let active = [9_u64, 0, 0, 0];
        let of_host = |host: u32| active[host as usize];
        let load = Load {
            cluster: 9,
            of_host: &of_host,
            factor: 120,
        };
        let choose = |first, hash| choose(first, hash, &[0, 1, 2, 3], &[0.25; 4], &load);
        assert_eq!(choose(1, 7), 1);
        let other = choose(0, 7);
        assert_ne!(other, 0);
        assert_eq!(choose(0, 7), other);
        let others: std::collections::BTreeSet<_> = (0..100).map(|hash| choose(0, hash)).collect();
        assert_eq!(others.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn where_all_are_too_busy_the_least_busy_one_is_taken() {
        let active = [9_u64, 6, 8];
        let of_host = |host: u32| active[host as usize];
        let load = Load {
            cluster: 9,
            of_host: &of_host,
            factor: 100,
        };
        assert_eq!(choose(0, 7, &[0, 1, 2], &[0.3; 3], &load), 1);
    }
}
