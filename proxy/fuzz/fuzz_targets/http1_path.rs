//! HTTP/1 requests and responses through the whole data path, in memory: no panic, no hang, and what is forwarded can be read
//! in one way only.
#![no_main]

#[path = "../../tests/http1_path/driver.rs"]
mod driver;

use driver::{Input, drive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = Input::from_bytes(bytes) {
        drive(&input);
    }
});
