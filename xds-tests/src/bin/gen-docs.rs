//! Writes `docs/extensions.md` from the `//!` docs of the rooms in `proxy/src`: what is supported, and how it differs
//! from Envoy. With `--check` it writes nothing and fails when the page is not up to date.
#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use outrigger_xds_tests::{Error, binaries};

/// The folders whose rooms are listed, with their headings.
const ROOMS: &[(&str, &str)] = &[
    ("http_filters", "HTTP filters"),
    ("network_filters", "Network filters"),
    ("listener_filters", "Listener filters"),
    ("http_connection_manager", "HTTP connection manager"),
    ("route", "Routing"),
    ("listener", "Listeners"),
    ("upstream", "Clusters"),
    ("transport_sockets", "Transport sockets"),
    ("access_loggers", "Access loggers"),
    ("formatter", "Formatter"),
    ("matchers", "Matchers"),
    ("stats", "Stats"),
    ("admin", "Admin interface"),
    ("server", "Server"),
];

/// What a file says about itself in its `//!` docs.
struct Room {
    path: String,
    summary: String,
    type_urls: String,
    deviations: String,
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), Error> {
    let source = binaries::workspace().join("proxy/src");
    let target = binaries::workspace().join("docs/extensions.md");
    let page = page(&source)?;
    if !check {
        std::fs::write(&target, page)?;
        return Ok(());
    }
    if std::fs::read_to_string(&target).unwrap_or_default() != page {
        return Err(
            "docs/extensions.md is not up to date: cargo run -p outrigger-xds-tests --bin gen-docs"
                .into(),
        );
    }
    Ok(())
}

fn page(source: &Path) -> Result<String, Error> {
    let mut out = String::from(
        "<!-- Generated from the //! docs of proxy/src by gen-docs. Change those. -->\n\n\
         # What is supported, and how it differs from Envoy\n\n\
         A part that is not listed is refused by name when a configuration asks for it.\n",
    );
    for (folder, heading) in ROOMS {
        let mut rooms = Vec::new();
        for path in rust_files(&source.join(folder))? {
            rooms.extend(room(source, &path)?);
        }
        if rooms.is_empty() {
            continue;
        }
        write!(
            out,
            "\n## {heading}\n\n| Part | Type URLs | Deviations |\n|---|---|---|\n"
        )?;
        for Room {
            path,
            summary,
            type_urls,
            deviations,
        } in rooms
        {
            writeln!(out, "| {summary} (`{path}`) | {type_urls} | {deviations} |")?;
        }
    }
    Ok(out)
}

/// All Rust files below a folder, in order.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        entries.push(entry?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            files.extend(rust_files(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    Ok(files)
}

/// The entry of a file that names type URLs or deviations.
fn room(source: &Path, path: &Path) -> Result<Option<Room>, Error> {
    let text = std::fs::read_to_string(path)?;
    let docs: Vec<_> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim())
        .collect();
    let type_urls = after(&docs, "Type URL");
    let deviations = after(&docs, "Deviations:");
    if type_urls.is_none() && deviations.is_none() {
        return Ok(None);
    }
    let summary = docs
        .iter()
        .take_while(|line| !line.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(" ");
    let summary = summary
        .split("Type URL")
        .next()
        .unwrap_or_default()
        .trim()
        .trim_end_matches('.')
        .to_owned();
    let cell = |text: Option<String>| text.unwrap_or_else(|| "–".into()).replace('|', "\\|");
    Ok(Some(Room {
        path: path.strip_prefix(source)?.display().to_string(),
        summary: summary.replace('|', "\\|"),
        type_urls: cell(type_urls),
        deviations: cell(deviations),
    }))
}

/// The text behind a word in the docs, to the end of its paragraph or to the next word of this kind.
fn after(docs: &[&str], word: &str) -> Option<String> {
    const WORDS: [&str; 5] = ["Type URL", "Deviations:", "Stats:", "Docs:", "Details:"];
    let start = docs.iter().position(|line| line.contains(word))?;
    let first = docs.get(start)?.split(word).nth(1)?;
    let first = first.trim_start_matches(['s', ':', ' ']);
    let mut parts = vec![cut(first, &WORDS)];
    for line in docs.iter().skip(start + 1) {
        if line.is_empty() || WORDS.iter().any(|word| line.starts_with(word)) {
            break;
        }
        parts.push(line);
    }
    Some(parts.join(" ").trim().to_owned())
}

/// The text up to the first of these words.
fn cut<'a>(text: &'a str, words: &[&str]) -> &'a str {
    let end = words
        .iter()
        .filter_map(|word| text.find(word))
        .min()
        .unwrap_or(text.len());
    text.get(..end).unwrap_or(text)
}
