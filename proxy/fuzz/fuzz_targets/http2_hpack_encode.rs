//! What our encoder writes, libnghttp2 and our own decoder read back, while the peer changes the size of the table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::http2::{Decoder, Encoder};
use outrigger_fuzz::nghttp2::Inflater;

type Field = (Vec<u8>, Vec<u8>);
/// New limits of the table, and then a block: fields by their numbers in the list, and new ones.
type Block = (Vec<u16>, Vec<Result<u8, Field>>);

const NAMES: [&str; 8] = [
    ":authority",
    "content-type",
    "cookie",
    "x-a",
    "set-cookie",
    "date",
    "x-longer-name",
    "authorization",
];

fuzz_target!(|input: (u16, bool, Vec<Block>)| {
    let (cap, huffman, blocks) = input;
    let mut encoder = Encoder::new(cap.into(), huffman);
    let (mut ours, mut theirs) = (Decoder::default(), Inflater::default());
    let mut known: Vec<Field> = Vec::new();
    for (limits, fields) in blocks {
        for limit in limits {
            encoder.set_limit(limit.into());
            ours.set_limit(limit.into());
            theirs.set_limit(limit.into());
        }
        let mut wanted = Vec::new();
        for field in fields {
            let (name, value) = match field {
                Ok(number) if !known.is_empty() => {
                    known[usize::from(number) % known.len()].clone()
                }
                Ok(number) => {
                    let name = NAMES[usize::from(number) % NAMES.len()];
                    (name.into(), vec![number; usize::from(number)])
                }
                Err(field) => field,
            };
            known.push((name.clone(), value.clone()));
            wanted.push((name, value));
        }
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in &wanted {
            encoder.field(None, name, value, &mut block);
        }
        let mut read = Vec::new();
        ours.decode_fields(&block, |name, value| read.push((name.to_vec(), value.to_vec())))
            .expect("we read what we wrote");
        assert_eq!(read, wanted);
        assert_eq!(theirs.decode(&block), Some(wanted));
    }
});
