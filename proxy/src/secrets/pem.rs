//! PEM: the text around keys and certificates.

use zeroize::Zeroizing;

use crate::x509::decode_base64;

/// One block of a PEM text.
pub struct PemBlock {
    /// What stands after `BEGIN`: `CERTIFICATE`.
    pub label: String,
    /// Lines of the form `name: value` before the content.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub der: Zeroizing<Vec<u8>>,
}

/// The blocks of a text, in its order. What stands between blocks is a comment; None: a block does not end or is no base64.
pub fn pem_blocks(text: &[u8]) -> Option<Vec<PemBlock>> {
    let text = String::from_utf8_lossy(text);
    let text = Zeroizing::new(text.into_owned());
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = between(line, "-----BEGIN ") else {
            continue;
        };
        let mut headers = Vec::new();
        let mut content = Zeroizing::new(String::new());
        loop {
            let line = lines.next()?;
            if let Some(end) = between(line, "-----END ") {
                if end != label {
                    return None;
                }
                break;
            }
            match line.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                None => content.push_str(line),
            }
        }
        blocks.push(PemBlock {
            label: label.to_owned(),
            headers,
            der: Zeroizing::new(decode_base64(&content)?),
        });
    }
    Some(blocks)
}

fn between<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix("-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_comments_with_their_headers() {
        let text = "comment\n-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nYWJj\n-----END A-----\nmore\r\n-----BEGIN B-----\r\nYQ==\r\n-----END B-----\r\n";
        let blocks = pem_blocks(text.as_bytes()).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(
            (&*blocks[0].label, blocks[0].der.as_slice()),
            ("A", &b"abc"[..])
        );
        assert_eq!(
            blocks[0].headers,
            [("Proc-Type".to_owned(), "4,ENCRYPTED".to_owned())]
        );
        assert_eq!(blocks[1].der.as_slice(), b"a");
    }

    #[test]
    fn a_block_that_does_not_end_is_none() {
        assert!(pem_blocks(b"-----BEGIN A-----\nYWJj\n").is_none());
        assert!(pem_blocks(b"-----BEGIN A-----\nYWJj\n-----END B-----").is_none());
        assert!(pem_blocks(b"-----BEGIN A-----\n?\n-----END A-----").is_none());
    }
}
