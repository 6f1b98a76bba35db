//! Heads of HTTP/1 responses and chunked bodies behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::codec::h1::{
    ChunkDecoder, ChunkStep, ClientHttp1Settings, Framing, ResponseTo, parse_response,
    parse_response_leniently, parse_trailers,
};

fuzz_target!(|bytes: &[u8]| {
    let settings = ClientHttp1Settings::default();
    // The last byte says what was asked.
    let kind = bytes.last().copied().unwrap_or_default();
    let to = ResponseTo {
        head: kind & 1 != 0,
        connect: kind & 2 != 0,
        upgrade: kind & 4 != 0,
    };
    let Ok(Some((response, length))) = parse_response(bytes, to, &settings) else {
        chunks(bytes);
        return;
    };
    assert!(length <= bytes.len());
    let Ok(Some((other, other_length))) = parse_response_leniently(bytes, to, &settings) else {
        panic!("only the fast path takes this");
    };
    assert_eq!(length, other_length);
    assert_eq!(format!("{response:?}"), format!("{other:?}"));
    if matches!(response.framing, Framing::Chunked) {
        chunks(&bytes[length..]);
    }
});

/// All bytes at once and byte by byte give the same body.
fn chunks(bytes: &[u8]) {
    let at_once = body(bytes, bytes.len().max(1));
    let in_pieces = body(bytes, 1);
    assert_eq!(at_once, in_pieces);
}

/// The data, and how the body ended: completely, not at all (none), or broken.
fn body(bytes: &[u8], step: usize) -> (Vec<u8>, Option<bool>) {
    let mut decoder = ChunkDecoder::default();
    let (mut data, mut at, mut visible) = (Vec::new(), 0, 0);
    loop {
        match decoder.next(&bytes[at..visible], 1 << 16) {
            Err(_) => return (data, Some(false)),
            Ok((skip, step_found)) => {
                at += skip;
                match step_found {
                    ChunkStep::More => {
                        if visible == bytes.len() {
                            return (data, None);
                        }
                        visible = bytes.len().min(visible + step);
                    }
                    ChunkStep::Data { len, last, then } => {
                        data.extend_from_slice(&bytes[at..at + len]);
                        at += len;
                        if last {
                            assert!(at + then <= visible);
                            return (data, Some(true));
                        }
                    }
                    ChunkStep::End => return (data, Some(true)),
                    ChunkStep::Trailers(length) => {
                        let trailers = parse_trailers(&bytes[at..at + length], 100);
                        return (data, Some(trailers.is_ok()));
                    }
                }
            }
        }
    }
}
