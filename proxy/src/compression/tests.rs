use std::io::Read;

use outrigger_proto::pb::google::protobuf::{Any, UInt32Value};
use prost::{Message, Name};

use super::*;
use crate::config::ConfigReport;
use crate::stats::Store;

fn extension<M: Message + Name>(config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: "lib".to_owned(),
        typed_config: Some(Any {
            type_url: M::type_url(),
            value: config.encode_to_vec(),
        }),
    }
}

fn compressor<M: Message + Name>(config: &M) -> CompressorLibrary {
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "library");
    let (name, library) = CompressorLibrary::from_proto(extension(config), &path).unwrap();
    assert_eq!(name, "lib");
    library
}

fn decompressor<M: Message + Name>(config: &M) -> Box<dyn Decoder> {
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "library");
    let (_, library) = DecompressorLibrary::from_proto(extension(config), &path).unwrap();
    let stats = library.stats(&Store::new(1).scope("x."));
    library.decoder(&stats).unwrap()
}

fn compressors() -> [CompressorLibrary; 3] {
    [
        compressor(&pb::gzip::compressor::v3::Gzip::default()),
        compressor(&pb::brotli::compressor::v3::Brotli::default()),
        compressor(&pb::zstd::compressor::v3::Zstd::default()),
    ]
}

fn decompressor_for(library: &CompressorLibrary) -> Box<dyn Decoder> {
    match library {
        CompressorLibrary::Gzip(_) => decompressor(&pb::gzip::decompressor::v3::Gzip::default()),
        CompressorLibrary::Brotli(_) => {
            decompressor(&pb::brotli::decompressor::v3::Brotli::default())
        }
        CompressorLibrary::Zstd(_) => decompressor(&pb::zstd::decompressor::v3::Zstd::default()),
    }
}

/// Text that does not repeat soon.
fn text(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut out = Vec::new();
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(format!("user {} has {}; ", state >> 20, state >> 26).as_bytes());
    }
    out.truncate(len);
    out
}

fn pack(encoder: &mut dyn Encoder, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        encoder.encode(piece, false, &mut out).unwrap();
    }
    encoder.encode(b"", true, &mut out).unwrap();
    out
}

#[test]
fn what_is_packed_is_unpacked_again_whatever_the_pieces() {
    let body = text(300_000);
    for library in compressors() {
        for piece in [1, 100, 8000, 300_000] {
            let body = &body[..body.len().min(piece * 3000)];
            let mut encoder = library.encoder().unwrap();
            let packed = pack(&mut *encoder, &body.chunks(piece).collect::<Vec<_>>());
            for piece in [7, 5000, packed.len()] {
                let mut decoder = decompressor_for(&library);
                let mut out = Vec::new();
                for piece in packed.chunks(piece) {
                    decoder.decode(piece, &mut out);
                }
                assert!(out == body, "{library:?} in pieces of {piece}");
            }
        }
    }
}

#[test]
fn each_piece_can_be_read_before_the_next_one_is_there() {
    for library in compressors() {
        let mut encoder = library.encoder().unwrap();
        let mut decoder = decompressor_for(&library);
        for piece in [&b"hello"[..], b" ", b"world"] {
            let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
            encoder.encode(piece, false, &mut packed).unwrap();
            decoder.decode(&packed, &mut unpacked);
            assert_eq!(unpacked, piece, "{library:?}");
        }
    }
}

#[test]
fn other_libraries_read_what_is_packed() {
    let body = text(50_000);
    let [gzip, brotli, zstd] = compressors().map(|library| {
        let mut encoder = library.encoder().unwrap();
        pack(&mut *encoder, &[&body[..20_000], &body[20_000..]])
    });
    let mut out = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&*gzip);
    reader.read_to_end(&mut out).unwrap();
    assert!(out == body);
    out.clear();
    let mut reader = ::brotli::Decompressor::new(&*brotli, 4096);
    reader.read_to_end(&mut out).unwrap();
    assert!(out == body);
    assert!(::zstd::decode_all(&*zstd).unwrap() == body);
}

#[test]
fn a_whole_body_is_packed_as_well_as_one_in_pieces() {
    use pb::gzip::compressor::v3::{Gzip, gzip::CompressionLevel};
    let body = text(16_384);
    for level in
        CompressionLevel::CompressionLevel2 as i32..=CompressionLevel::CompressionLevel9 as i32
    {
        let library = compressor(&Gzip {
            compression_level: level,
            ..Gzip::default()
        });
        let mut encoder = library.encoder().unwrap();
        let (mut whole, mut unpacked) = (Vec::new(), Vec::new());
        encoder.encode(&body, true, &mut whole).unwrap();
        decompressor_for(&library).decode(&whole, &mut unpacked);
        assert!(unpacked == body, "{level}");
        assert!(encoder.reset());
        let pieces = pack(&mut *encoder, &[&body]);
        assert!(
            whole.len() <= pieces.len() * 103 / 100,
            "level {level}: {} and {}",
            whole.len(),
            pieces.len()
        );
    }
}

#[test]
fn settings_of_gzip_change_what_is_written_and_not_what_it_says() {
    use pb::gzip::compressor::v3::{Gzip, gzip::CompressionStrategy};
    let body = text(60_000);
    let lengths = |config: &Gzip| -> [usize; 2] {
        let library = compressor(config);
        let mut encoder = library.encoder().unwrap();
        let mut whole = Vec::new();
        encoder.encode(&body, true, &mut whole).unwrap();
        assert!(encoder.reset());
        let pieces = pack(&mut *encoder, &[&body[..30_000], &body[30_000..]]);
        for packed in [&whole, &pieces] {
            let mut out = Vec::new();
            decompressor_for(&library).decode(packed, &mut out);
            assert!(out == body, "{config:?}");
        }
        [whole.len(), pieces.len()]
    };
    let strategy = |strategy: CompressionStrategy| Gzip {
        compression_strategy: strategy as i32,
        ..Gzip::default()
    };
    let [whole, pieces] = lengths(&Gzip::default());
    for other in [
        CompressionStrategy::HuffmanOnly,
        CompressionStrategy::Rle,
        CompressionStrategy::Fixed,
    ] {
        let [of_whole, of_pieces] = lengths(&strategy(other));
        assert!(of_whole > whole && of_pieces > pieces, "{other:?}");
    }
    lengths(&strategy(CompressionStrategy::Filtered));
    let [_, little] = lengths(&Gzip {
        memory_level: Some(UInt32Value { value: 1 }),
        window_bits: Some(UInt32Value { value: 9 }),
        ..Gzip::default()
    });
    assert!(little > pieces);
}

#[test]
fn a_whole_body_after_one_that_was_cut_off_begins_anew() {
    let pool = Pool::new(compressors()[0].clone());
    let body = text(200_000);
    for pieces in [&[&body[..]][..], &[b"abc"], &[]] {
        let mut encoder = pool.take().unwrap();
        encoder.encode(b"cut off", false, &mut Vec::new()).unwrap();
        drop(encoder);
        let whole = pieces.concat();
        let mut packed = Vec::new();
        let mut encoder = pool.take().unwrap();
        encoder.encode(&whole, true, &mut packed).unwrap();
        let mut out = Vec::new();
        decompressor_for(pool.library()).decode(&packed, &mut out);
        assert!(out == whole);
    }
}

#[test]
fn an_encoder_of_a_pool_serves_one_body_after_another() {
    for library in compressors() {
        let reusable = !matches!(library, CompressorLibrary::Brotli(_));
        let pool = Pool::new(library.clone());
        for body in [text(5000), text(10)] {
            let mut encoder = pool.take().unwrap();
            let packed = pack(&mut *encoder, &[&body]);
            let mut out = Vec::new();
            decompressor_for(&library).decode(&packed, &mut out);
            assert!(out == body);
        }
        assert_eq!(pool.waiting(), usize::from(reusable));
        // One that was dropped in the middle of a body begins anew as well.
        let mut encoder = pool.take().unwrap();
        encoder.encode(b"half", false, &mut Vec::new()).unwrap();
        drop(encoder);
        let packed = pack(&mut *pool.take().unwrap(), &[b"whole"]);
        let mut out = Vec::new();
        decompressor_for(&library).decode(&packed, &mut out);
        assert_eq!(out, b"whole");
        let many: Vec<_> = (0..20).map(|_| pool.take().unwrap()).collect();
        drop(many);
        assert!(pool.waiting() <= 4);
    }
}

#[test]
fn a_bomb_is_cut_off() {
    let bomb = vec![0; 30_000_000];
    for library in compressors() {
        let packed = pack(&mut *library.encoder().unwrap(), &[&bomb]);
        let mut out = Vec::new();
        let mut decoder = decompressor_for(&library);
        decoder.decode(&packed, &mut out);
        let most = (packed.len() * 100).max(1024 * 1024) + 4096;
        assert!(
            out.len() <= most,
            "{library:?}: {} became {}",
            packed.len(),
            out.len()
        );
    }
}

#[test]
fn max_inflate_ratio_counts_in_chunks() {
    let packed = {
        let mut encoder = compressors()[0].encoder().unwrap();
        pack(&mut *encoder, &[&[b'a'; 50_000]])
    };
    let mut decoder = decompressor(&pb::gzip::decompressor::v3::Gzip {
        max_inflate_ratio: Some(UInt32Value { value: 2 }),
        ..Default::default()
    });
    let mut out = Vec::new();
    decoder.decode(&packed, &mut out);
    assert_eq!(out.len(), 4096);
}

#[test]
fn rubbish_and_what_follows_an_error_become_nothing_of_length() {
    for library in compressors() {
        let mut decoder = decompressor_for(&library);
        let mut out = Vec::new();
        for _ in 0..100 {
            decoder.decode(b"this is no packed text at all \xff\xff\xff", &mut out);
        }
        assert!(out.len() < 10_000, "{library:?}");
    }
}

#[test]
fn a_dictionary_is_found_by_its_id() {
    use outrigger_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    let samples = |word: &str| -> Vec<String> {
        let one = |n| {
            format!("{{\"{word}\": {n}, \"{word} name\": \"number {n}\", \"of {word}\": [{n}]}}")
        };
        (0..200).map(one).collect()
    };
    let source = |word: &str| DataSource {
        specifier: Some(Specifier::InlineBytes(
            ::zstd::dict::from_samples(&samples(word), 2000).unwrap(),
        )),
        ..Default::default()
    };
    let text = &samples("user")[3];
    let (one, other) = (source("user"), source("continent"));
    let library = compressor(&pb::zstd::compressor::v3::Zstd {
        dictionary: Some(one.clone()),
        ..Default::default()
    });
    let packed = pack(&mut *library.encoder().unwrap(), &[text.as_bytes()]);
    let unpack = |dictionaries| {
        let mut decoder = decompressor(&pb::zstd::decompressor::v3::Zstd {
            dictionaries,
            ..Default::default()
        });
        let mut out = Vec::new();
        decoder.decode(&packed, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(unpack(vec![other.clone(), one]), *text);
    assert_eq!(unpack(vec![other]), "");
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "library");
    let not_one = pb::zstd::compressor::v3::Zstd {
        dictionary: Some(DataSource {
            specifier: Some(Specifier::InlineString("hello".to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(CompressorLibrary::from_proto(extension(&not_one), &path).is_err());
    assert_eq!(
        report.take()[0].to_string(),
        "library / typed_config / dictionary: is not a dictionary of zstd"
    );
}

#[test]
fn a_library_that_is_none_is_refused() {
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "library");
    let gzip = pb::gzip::decompressor::v3::Gzip::default();
    assert!(CompressorLibrary::from_proto(extension(&gzip), &path).is_err());
    let text = report.take()[0].to_string();
    assert!(
        text.contains("gzip.decompressor.v3.Gzip is not supported here"),
        "{text}"
    );
}
