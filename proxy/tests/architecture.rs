//! The import rules of the house, held by a test.
//!
//! * Extensions never import each other.
//! * Core modules name extensions only through their `FACTORIES`.
//! * Only code that converts configuration, and the pages that print it, knows protobuf types.

#![allow(clippy::expect_used, reason = "a test may end at once")]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders in which each file or folder is one extension, with what else lies there: traits, lists, tools of all rooms.
const EXTENSIONS: &[(&str, &[&str])] = &[
    (
        "http_filters",
        &[
            "mod",
            "chain_config",
            "context",
            "status",
            "router",
            "test_support",
            "token_bucket",
            "core_retry_policy",
            "mutation_rules",
            "headers",
            "query",
        ],
    ),
    (
        "network_filters",
        &["mod", "chain", "filtered_io", "test_support"],
    ),
    ("listener_filters", &["mod", "test_support"]),
    (
        "access_loggers",
        &[
            "mod",
            "filter",
            "file_manager",
            "manager",
            "access_log",
            "config",
            "test_support",
        ],
    ),
];

/// Files on the way of a request that are written in terms of runtime types only.
const NO_PROTO: &[&str] = &[
    "http/",
    "http_connection_manager/filter_chain/",
    "http_connection_manager/stream/",
    "http_connection_manager/manager.rs",
    "http_filters/context.rs",
    "http_filters/status.rs",
    "http_filters/router/mod.rs",
    "http_filters/router/retry.rs",
    "http_filters/router/upstream_request.rs",
    "stream_info/",
    "net/io.rs",
    "stats/group.rs",
    "upstream/pool/stream.rs",
    "upstream/worker_clusters.rs",
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("the sources are there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let relative = |p: &Path| {
        p.strip_prefix(&root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned()
    };
    paths
        .iter()
        .map(|p| {
            (
                relative(p),
                fs::read_to_string(p).expect("a source is text"),
            )
        })
        .collect()
}

/// The room of a file below an extension folder: `cors` for `http_filters/cors.rs` and `http_filters/cors/config.rs`.
fn room<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    let rest = file.strip_prefix(folder)?.strip_prefix('/')?;
    Some(rest.split('/').next()?.trim_end_matches(".rs"))
}

#[test]
fn extensions_do_not_import_each_other_and_nobody_else_imports_them() {
    let sources = sources();
    let mut offences = Vec::new();
    for (folder, shared) in EXTENSIONS {
        let rooms: Vec<&str> = sources
            .iter()
            .filter_map(|(file, _)| room(file, folder))
            .filter(|name| !shared.contains(name))
            .collect();
        for (file, text) in &sources {
            let own = room(file, folder);
            // The list of the rooms, and tests of them all.
            if file == &format!("{folder}/mod.rs") || own == Some("tests") {
                continue;
            }
            for other in rooms.iter().filter(|other| own != Some(**other)) {
                // Messages have paths with the names of extensions too; those of modules begin at the crate.
                let path = format!("crate::{folder}::{other}");
                let named = [format!("{path}::"), format!("{path};")];
                if named.iter().any(|name| text.contains(name)) {
                    offences.push(format!("{file} imports {folder}::{other}"));
                }
            }
        }
    }
    offences.sort();
    offences.dedup();
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_way_of_a_request_knows_no_protobuf_types() {
    let offences: Vec<_> = sources()
        .into_iter()
        .filter(|(file, text)| {
            // Tests may begin with the configuration that an operator would write.
            let is_tests = file.ends_with("tests.rs");
            !is_tests
                && NO_PROTO.iter().any(|p| file.starts_with(p))
                && text.contains("outrigger_proto::pb")
        })
        .map(|(file, _)| file)
        .collect();
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn unsafe_code_stays_in_the_files_that_are_allowed_to_have_it() {
    let offences: Vec<_> = sources()
        .into_iter()
        .filter(|(file, text)| {
            !file.starts_with("net/") && file != "main.rs" && text.contains("allow(unsafe_code")
        })
        .map(|(file, _)| file)
        .collect();
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
