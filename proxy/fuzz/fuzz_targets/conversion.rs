//! A whole bootstrap, as YAML or (behind a zero byte) as an encoded message: accepted or refused, with reasons.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::server::validate;
use outrigger_proto::yaml::Format;

fuzz_target!(|bytes: &[u8]| {
    // What names files would open them.
    let names_files = FILES.iter().any(|name| bytes.windows(name.len()).any(|w| w == name.as_bytes()));
    if names_files {
        return;
    }
    let (format, bytes) = match bytes {
        [0, rest @ ..] => (Format::Binary, rest),
        _ => (Format::Yaml, bytes),
    };
    if let Err(errors) = validate(format, bytes) {
        assert!(errors.len() > 1, "a refusal without a reason");
    }
});

const FILES: &[&str] = &["path", "ilename", "FileAccessLog", "irectory"];
