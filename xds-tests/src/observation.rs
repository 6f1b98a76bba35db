//! What one side showed in a case, as lines of text:
//!
//! ```text
//! < 200                       the client's side: status, then fields, body, trailers, end
//! < server: envoy
//! < body hello
//! = connection 0: open        how its connection was in the end
//! > GET / HTTP/1.1            the backend's side: first line, fields, body, trailers, end
//! > host: example.com
//! log flags=-                 the access log
//! stat cluster.@backend.upstream_rq_total: 1
//! ```

use std::io::Read;

use crate::backend::Seen;
use crate::check;
use crate::client::Transcript;
use crate::message::{End, Field, Message, body_text, text};

/// The lines of a transcript.
pub fn client_lines(transcript: &Transcript, in_order: bool, out: &mut Vec<String>) {
    for message in &transcript.messages {
        if message.status == 0 {
            out.push(format!("< {}", message.line));
        } else {
            out.push(format!("< {}", message.status));
            out.push(format!("< line {}", message.line));
        }
        message_lines('<', message, in_order, out);
    }
    if !transcript.bytes.is_empty() {
        out.push(format!("< bytes {}", body_text(&transcript.bytes)));
    }
    for frame in &transcript.frames {
        out.push(format!("< {frame}"));
    }
    for (number, fate) in &transcript.fates {
        out.push(format!("= connection {number}: {fate}"));
    }
}

/// The lines of what the backend `name` saw; the first backend needs no name.
pub fn backend_lines(name: Option<&str>, seen: &[Seen], in_order: bool, out: &mut Vec<String>) {
    for Seen {
        connection,
        message,
    } in seen
    {
        let at = name.map(|name| format!("{name} ")).unwrap_or_default();
        out.push(format!("> {at}connection {connection}: {}", message.line));
        message_lines('>', message, in_order, out);
    }
}

/// The lines of an access log; the usual format is taken apart.
pub fn log_lines(log: &str, usual: bool, out: &mut Vec<String>) {
    for line in log.lines() {
        if usual {
            out.extend(line.split('\t').map(|field| format!("log {field}")));
        } else {
            out.push(format!("log {line}"));
        }
    }
}

fn message_lines(side: char, message: &Message, in_order: bool, out: &mut Vec<String>) {
    let mut fields: Vec<&Field> = message.fields.iter().collect();
    if !in_order {
        fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    }
    for (name, value) in fields {
        out.push(format!("{side} {name}: {}", steady(name, value)));
    }
    if message.field(":path").as_deref() == Some(check::PATH)
        && let Some(lines) = check::lines(&message.body)
    {
        out.extend(lines.iter().map(|line| format!("{side} check {line}")));
    } else if !message.body.is_empty() {
        out.push(format!("{side} body {}", unpacked_text(message)));
    }
    for (name, value) in &message.trailers {
        out.push(format!("{side} trailer {name}: {value}"));
    }
    match &message.end {
        End::Complete => {}
        End::Open => out.push(format!("{side} (nothing more came)")),
        End::Broken(how) => out.push(format!("{side} (broken: {})", text(how.as_bytes()))),
    }
}

/// A body for people: as it is when it is unpacked, where a coding says so and is kept. What two libraries make of one text differs.
fn unpacked_text(message: &Message) -> String {
    let coding = message.field("content-encoding").unwrap_or_default();
    match unpack(&coding, &message.body) {
        Some((text, true)) => format!("({coding}) {}", body_text(&text)),
        Some((text, false)) => format!("({coding}, cut off) {}", body_text(&text)),
        None => body_text(&message.body),
    }
}

/// What a packed body says as far as it came, and whether that was all; none for what is not packed at all.
fn unpack(coding: &str, body: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut reader: Box<dyn Read + '_> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        "zstd" => Box::new(zstd::Decoder::new(body).ok()?),
        _ => return None,
    };
    let (mut out, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Some((out, true)),
            Ok(len) => out.extend_from_slice(&piece[..len]),
            Err(_) if out.is_empty() => return None,
            Err(_) => return Some((out, false)),
        }
    }
}

/// The value of a field, or a word for it where it differs from run to run.
fn steady(name: &str, value: &str) -> String {
    let name = name.to_ascii_lowercase();
    let milliseconds = value.parse::<u32>().ok();
    if name == "date"
        || (name == "x-envoy-upstream-service-time" && milliseconds.is_some_and(|ms| ms < 60_000))
    {
        return "(volatile)".into();
    }
    // The value says when the session ends, beside its host.
    if name == "set-cookie" && value.starts_with("sid=\"Cg8x") && value.contains("Max-Age") {
        let rest = value.rsplit_once('"').map_or("", |(_, rest)| rest);
        return format!("sid=\"(volatile)\"{rest}");
    }
    // What is left of a timeout when a try begins: exact for the first one, then a few milliseconds less.
    match milliseconds {
        Some(ms) if name == "x-envoy-expected-rq-timeout-ms" && ms > 1000 => {
            (ms.div_ceil(1000) * 1000).to_string()
        }
        _ => value.into(),
    }
}

/// Lines that are on one side only: `-` Envoy's, `+` Outrigger's. Empty when the sides agree.
pub fn difference(envoy: &[String], outrigger: &[String]) -> Vec<String> {
    let table = common_lengths(envoy, outrigger);
    let (mut a, mut b) = (0, 0);
    let mut out = Vec::new();
    while a < envoy.len() || b < outrigger.len() {
        if a < envoy.len() && b < outrigger.len() && envoy[a] == outrigger[b] {
            (a, b) = (a + 1, b + 1);
        } else if b == outrigger.len() || (a < envoy.len() && table[a + 1][b] >= table[a][b + 1]) {
            out.push(format!("- {}", envoy[a]));
            a += 1;
        } else {
            out.push(format!("+ {}", outrigger[b]));
            b += 1;
        }
    }
    out
}

/// For each pair of positions, how many lines the rests have in common.
fn common_lengths(a: &[String], b: &[String]) -> Vec<Vec<usize>> {
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i][j] = if a[i] == b[j] {
                table[i + 1][j + 1] + 1
            } else {
                table[i + 1][j].max(table[i][j + 1])
            };
        }
    }
    table
}

/// What of a case's promises does not hold for these lines.
pub fn broken_promises(shows: &[String], lacks: &[String], lines: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for wanted in shows {
        let times = shows.iter().filter(|other| *other == wanted).count();
        if lines.iter().filter(|line| fits(line, wanted)).count() < times {
            out.push(format!("Envoy lacks  {wanted}"));
        }
    }
    for unwanted in lacks {
        if let Some(line) = lines.iter().find(|line| fits(line, unwanted)) {
            out.push(format!("Envoy shows  {line}"));
        }
    }
    out
}

fn fits(line: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn equal_sides_have_no_difference() {
        let side = lines(&["< 200", "< a: 1"]);
        assert!(difference(&side, &side).is_empty());
    }

    #[test]
    fn difference_names_the_side_of_each_line() {
        let envoy = lines(&["< 200", "< a: 1", "log x"]);
        let outrigger = lines(&["< 200", "< b: 1", "log x"]);
        assert_eq!(difference(&envoy, &outrigger), ["- < a: 1", "+ < b: 1"]);
    }

    #[test]
    fn order_of_lines_counts() {
        assert!(!difference(&lines(&["a", "b"]), &lines(&["b", "a"])).is_empty());
    }

    #[test]
    fn a_promise_made_twice_must_be_kept_twice() {
        let shows = lines(&["< 200", "< 200"]);
        assert_eq!(broken_promises(&shows, &[], &lines(&["< 200"])).len(), 2);
        assert!(broken_promises(&shows, &[], &lines(&["< 200", "< 200"])).is_empty());
    }

    #[test]
    fn a_star_stands_for_any_ending() {
        let seen = lines(&["log details=via_upstream"]);
        assert!(broken_promises(&lines(&["log details=*"]), &[], &seen).is_empty());
        assert!(!broken_promises(&[], &lines(&["log details=*"]), &seen).is_empty());
        assert!(!broken_promises(&lines(&["log details="]), &[], &seen).is_empty());
    }

    #[test]
    fn fields_are_sorted_by_name_and_keep_their_order_within_it() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![field("b", "2"), field("a", "1"), field("B", "1")];
        let message = Message {
            status: 200,
            fields,
            end: End::Complete,
            ..Message::default()
        };
        let transcript = Transcript {
            messages: vec![message],
            ..Transcript::default()
        };
        let mut sorted = Vec::new();
        client_lines(&transcript, false, &mut sorted);
        assert_eq!(sorted[2..], ["< a: 1", "< b: 2", "< B: 1"]);
        let mut wire = Vec::new();
        client_lines(&transcript, true, &mut wire);
        assert_eq!(wire[2..], ["< b: 2", "< a: 1", "< B: 1"]);
    }
}
