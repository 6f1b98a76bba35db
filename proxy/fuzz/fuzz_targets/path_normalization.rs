//! A path that was normalised is normal: to normalise it again changes nothing. And it has none of what was to be taken away.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::http_connection_manager::path_normalize::{EscapedSlashes, Normalized, PathNormalization};

fuzz_target!(|bytes: &[u8]| {
    let Some((&bits, path)) = bytes.split_first() else {
        return;
    };
    // The connection manager refuses those before.
    if path.contains(&b'#') {
        return;
    }
    let options = PathNormalization {
        normalize: bits & 1 != 0,
        merge_slashes: bits & 2 != 0,
        escaped_slashes: match bits >> 2 & 3 {
            0 => EscapedSlashes::Keep,
            1 => EscapedSlashes::Reject,
            2 => EscapedSlashes::UnescapeAndRedirect,
            _ => EscapedSlashes::UnescapeAndForward,
        },
    };
    let normal = match options.apply(path) {
        Normalized::Unchanged => path.to_vec(),
        Normalized::Changed(normal) => {
            assert_ne!(normal, path, "changed into itself");
            normal
        }
        Normalized::Redirect(normal) => {
            assert_eq!(options.escaped_slashes, EscapedSlashes::UnescapeAndRedirect);
            normal
        }
        Normalized::Reject(_) => return,
    };
    assert_eq!(options.apply(&normal), Normalized::Unchanged, "{options:?}: {}", text(&normal));
    let end = normal.iter().position(|b| *b == b'?').unwrap_or(normal.len());
    let (plain, query) = normal.split_at(end);
    assert_eq!(query, &path[path.iter().position(|b| *b == b'?').unwrap_or(path.len())..]);
    if options.merge_slashes {
        assert!(!plain.windows(2).any(|w| w == b"//"), "{}", text(plain));
    }
    if options.normalize {
        assert!(plain.starts_with(b"/"), "{}", text(plain));
        for segment in plain.split(|b| *b == b'/') {
            let dots = text(segment).to_ascii_lowercase().replace("%2e", ".");
            assert!(dots != "." && dots != "..", "{}", text(plain));
        }
        assert!(plain.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b'\\'), "{}", text(plain));
    }
    if options.escaped_slashes != EscapedSlashes::Keep {
        let lower = plain.to_ascii_lowercase();
        assert!(!lower.windows(3).any(|w| matches!(w, b"%2f" | b"%5c")), "{}", text(plain));
    }
});

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
