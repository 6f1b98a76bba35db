use std::net::SocketAddr;

use super::*;

#[test]
fn connections_accepted_in_one_go_are_spread_over_all_workers() {
    let balance: Arc<[AtomicUsize]> = (0..3).map(|_| AtomicUsize::new(0)).collect();
    let guards: Vec<_> = (0..6)
        .map(|_| BalanceGuard::least_loaded(&balance))
        .collect();
    let loads = || -> Vec<usize> { balance.iter().map(|count| count.load(Relaxed)).collect() };
    assert_eq!(loads(), [2, 2, 2]);
    drop(guards);
    assert_eq!(loads(), [0, 0, 0]);
}

#[test]
fn mapped_addresses_are_shown_as_ipv4() {
    let mapped: SocketAddr = "[::ffff:1.2.3.4]:5".parse().unwrap();
    assert_eq!(canonical(mapped).to_string(), "1.2.3.4:5");
    let plain: SocketAddr = "[::1]:5".parse().unwrap();
    assert_eq!(canonical(plain), plain);
}
