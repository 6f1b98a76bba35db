//! A ClientHello, whole and in pieces, with both fingerprints.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use outrigger::listener_filters::ListenerFilterConfig;
use outrigger::listener_filters::tls_inspector::client_hello::{
    ClientHello, Parsed, unwrap_records,
};
use outrigger::listener_filters::tls_inspector::fingerprint::{ja3, ja4};
use outrigger_fuzz::{inspect_in_pieces, listener_filter};

static FILTER: LazyLock<Arc<dyn ListenerFilterConfig>> =
    LazyLock::new(|| listener_filter("envoy.filters.listener.tls_inspector", &[]));

fuzz_target!(|bytes: &[u8]| {
    inspect_in_pieces(&**FILTER, bytes);
    let message = match unwrap_records(bytes, 16 * 1024) {
        Parsed::ClientHello { message, consumed } => {
            assert!(consumed <= bytes.len());
            message
        }
        // Most bytes are no records; the message itself is worth a try.
        _ => bytes.to_vec(),
    };
    if let Some(hello) = ClientHello::parse(&message) {
        let _ = hello.server_name();
        let _ = hello.application_protocols();
        assert!(ja3(&hello).len() == 32);
        assert!(ja4(&hello).len() == 36);
    }
});
