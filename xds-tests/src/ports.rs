//! Ports for programs that have to be told one.
//!
//! A port that the kernel chose and that is free again may be the next one that it gives to somebody else: to a client, or to a
//! listener on port 0. These are of a range from which it gives none by itself, and each is given once by a process.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the range starts. What the kernel gives starts at 32768, the ports of examples at 20000, those of meshes at 10000.
const START: u32 = 2_500;
/// How many ports a process tries before those of another one come.
const EACH: u32 = 50;
/// How many processes have ports of their own.
const PROCESSES: u32 = 140;

/// A port of 127.0.0.1 on which nobody listens, and which nobody is given but who asks here.
pub fn free() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() % PROCESSES * EACH;
    loop {
        let next = own + GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = START + next % (EACH * PROCESSES);
        let port = u16::try_from(port).expect("the range ends below 10000");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Whether somebody listens at an address of IPv4. Asked without a connection, of which the listener would know.
pub fn is_listening(address: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = address else {
        return false;
    };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let line = format!("{ip:08X}:{:04X} 00000000:0000 0A", v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.contains(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports = [free(), free(), free()];
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }

    #[test]
    fn a_listener_is_seen_until_it_ends() {
        let address = free();
        assert!(!is_listening(address));
        let listener = TcpListener::bind(address).unwrap();
        assert!(is_listening(address));
        drop(listener);
        assert!(!is_listening(address));
    }
}
