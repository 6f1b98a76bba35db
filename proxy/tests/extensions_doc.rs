//! `docs/extensions.md` is generated from the factories and from the `Deviations:` lines of the rooms.
//!
//! The test fails when the file is not what the code says; with `UPDATE_DOCS` set it writes the file instead.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

#[test]
fn the_list_of_extensions_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("../docs/extensions.md");
    let expected = document(&root.join("src"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&target, &expected).expect("docs can be written");
    }
    let found = fs::read_to_string(&target).unwrap_or_default();
    assert!(found == expected, "docs/extensions.md is not up to date; run `just gen`");
}

fn document(src: &Path) -> String {
    let mut text = String::from(
        "# Extensions\n\n<!-- Generated from the sources by `just gen`; do not edit. -->\n\n\
         What Outrigger supports, chosen by the type of the configuration, as Envoy does. A type that is not listed here is\n\
         refused with its path; so is every field that a listed type does not support.\n",
    );
    let http: Vec<(&str, Vec<&str>)> = outrigger::http_filters::FACTORIES
        .iter()
        .map(|f| (f.name(), f.type_names().iter().chain(f.per_route_type_names()).copied().collect()))
        .chain([("envoy.filters.http.router", vec![outrigger::http_filters::router::TYPE_NAME])])
        .collect();
    table(&mut text, "HTTP filters", &http);
    let network: Vec<_> = outrigger::network_filters::FACTORIES.iter().map(|f| (f.name(), f.type_names().to_vec())).collect();
    table(&mut text, "Network filters", &network);
    let listener: Vec<_> = outrigger::listener_filters::FACTORIES.iter().map(|f| (f.name(), f.type_names().to_vec())).collect();
    table(&mut text, "Listener filters", &listener);
    let loggers: Vec<_> = outrigger::access_loggers::FACTORIES.iter().map(|f| (f.name(), f.type_names().to_vec())).collect();
    table(&mut text, "Access loggers", &loggers);
    text.push_str("\n## Deviations from Envoy\n\n");
    for (file, deviation) in deviations(src) {
        let _ = writeln!(text, "- `{file}`: {deviation}");
    }
    text
}

fn table(text: &mut String, title: &str, rows: &[(&str, Vec<&str>)]) {
    let _ = write!(text, "\n## {title}\n\n| name | types |\n| --- | --- |\n");
    for (name, types) in rows {
        let types: Vec<_> = types.iter().map(|t| format!("`{t}`")).collect();
        let _ = writeln!(text, "| `{name}` | {} |", types.join(", "));
    }
}

/// The `Deviations:` paragraph at the top of each file, other than "none".
fn deviations(src: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let file = path.strip_prefix(src).expect("below the root").to_string_lossy().into_owned();
                if let Some(deviation) = deviation_of(&fs::read_to_string(&path).expect("a source is text")) {
                    found.insert(file, deviation);
                }
            }
        }
    }
    found
}

fn deviation_of(source: &str) -> Option<String> {
    let header: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let start = header.iter().position(|line| line.starts_with("Deviations:"))?;
    let text: Vec<&str> = header[start..].iter().take_while(|line| !line.is_empty()).copied().collect();
    let text = text.join(" ");
    let text = text.strip_prefix("Deviations:")?.trim();
    (!text.trim_end_matches('.').eq_ignore_ascii_case("none") && !text.is_empty()).then(|| text.to_owned())
}
