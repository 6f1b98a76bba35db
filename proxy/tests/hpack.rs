//! Our HPACK decoder reads what PyPI's `hpack` reads, and refuses what that refuses. The cases are made by
//! `xds-tests/peers/hpack_cases.py`; the fuzz target `http2_hpack_decode` does the same with libnghttp2.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;
use std::process::{Command, Stdio};

use outrigger::http2::Decoder;

type Field = (Vec<u8>, Vec<u8>);

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// What should come of the block whose lines these are: its fields, or nothing.
fn expected(lines: &[&str]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    for line in lines {
        let field = line.strip_prefix("field ")?;
        let (name, value) = field.split_once(' ').unwrap();
        fields.push((bytes(name), bytes(value)));
    }
    Some(fields)
}

/// Reads all blocks of these cases. Gives how many were read and how many refused.
fn check(cases: &str) -> (usize, usize) {
    let (mut read, mut refused) = (0, 0);
    for connection in cases.split("connection ").skip(1) {
        let (limit, blocks) = connection.split_once('\n').unwrap();
        let mut decoder = Decoder::default();
        decoder.set_limit(limit.parse().unwrap());
        for block in blocks.split("block ").skip(1) {
            let lines: Vec<&str> = block.lines().collect();
            let mut fields = Vec::new();
            let result = decoder.decode_fields(&bytes(lines[0]), |name, value| {
                fields.push((name.to_vec(), value.to_vec()));
            });
            let expected = expected(&lines[1..]);
            read += usize::from(expected.is_some());
            refused += usize::from(expected.is_none());
            assert_eq!(result.ok().map(|()| fields), expected, "{}", lines[0]);
        }
    }
    (read, refused)
}

#[test]
fn blocks_are_read_and_refused_as_by_hpack_of_pypi() {
    let (read, refused) = check(include_str!("hpack_cases.txt"));
    assert!(read > 200 && refused > 20, "{read} read, {refused} refused");
}

/// What a program says.
fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs Python and PyPI, and minutes: `just hpack`"]
fn any_number_of_blocks_is_read_and_refused_as_by_hpack_of_pypi() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xds-tests");
    let python = output(Command::new("bash").arg(stories.join("peers.sh")));
    let (mut read, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut cases = Command::new(python.trim());
        cases.arg(stories.join("peers/hpack_cases.py"));
        let cases = output(cases.args([seed.to_string(), CONNECTIONS.to_string()]));
        let (more, broken) = check(&cases);
        read += more;
        refused += broken;
    }
    println!("{read} blocks were read, {refused} refused");
    assert!(read > 100_000 && refused > 1000);
}

/// How many cases are made beyond those that are kept.
const SEEDS: usize = 100;
const CONNECTIONS: usize = 500;
