//! The first bytes of a connection that may be HTTP.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use outrigger::listener_filters::ListenerFilterConfig;
use outrigger_fuzz::{inspect_in_pieces, listener_filter};

static FILTER: LazyLock<Arc<dyn ListenerFilterConfig>> =
    LazyLock::new(|| listener_filter("envoy.filters.listener.http_inspector", &[]));

fuzz_target!(|bytes: &[u8]| inspect_in_pieces(&**FILTER, bytes));
