//! Headers of the PROXY protocol, both versions, with their TLVs.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use outrigger::listener_filters::ListenerFilterConfig;
use outrigger::listener_filters::proxy_protocol::header::{Parsed, parse, tlvs};
use outrigger_fuzz::{connection, listener_filter};

static FILTER: LazyLock<Arc<dyn ListenerFilterConfig>> =
    LazyLock::new(|| listener_filter("envoy.filters.listener.proxy_protocol", &[]));

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Parsed::Header(header) = whole {
        assert!(header.length <= bytes.len());
        let _ = tlvs(header.tlvs);
        // The header is the same without what follows it, and none before its last byte.
        assert_eq!(parse(&bytes[..header.length]), whole);
        for end in 0..header.length {
            assert_eq!(parse(&bytes[..end]), Parsed::NeedMore, "{end}");
        }
    }
    let mut filter = FILTER.new_connection();
    let _ = filter.inspect(bytes, &mut connection());
});
