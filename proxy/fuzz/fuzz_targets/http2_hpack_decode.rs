//! Header blocks, one after another on a connection: libnghttp2 and our decoder read the same fields, or both refuse.
//!
//! The input is the limit of the table in two octets, and blocks with their lengths in one octet before them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::http2::Decoder;
use outrigger_fuzz::nghttp2::Inflater;

fuzz_target!(|input: &[u8]| {
    let Some((&[high, low], mut rest)) = input.split_first_chunk() else {
        return;
    };
    let limit = usize::from(u16::from_be_bytes([high & 0x1f, low]));
    let (mut ours, mut theirs) = (Decoder::default(), Inflater::default());
    ours.set_limit(limit);
    theirs.set_limit(limit);
    while let Some((length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let mut fields = Vec::new();
        let taken = ours.decode_fields(block, |name, value| {
            fields.push((name.to_vec(), value.to_vec()));
        });
        let expected = theirs.decode(block);
        assert_eq!(taken.is_ok().then_some(fields), expected, "{block:02x?}");
        if expected.is_none() {
            return;
        }
    }
});
