//! What is asked of a control plane that runs, and its answers for people.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use http::Method;
use outrigger_control_plane::admin::client::{Client, ClientError};
use serde_json::Value as Json;

use super::flags::Remote;

pub(crate) async fn call(
    remote: &Remote,
    method: Method,
    path: &str,
    body: Option<&Json>,
) -> Result<String, ClientError> {
    let tls = if remote.insecure_plaintext {
        None
    } else {
        Some(Client::tls(
            &Client::file(&remote.state.join("roots.pem"))?,
            None,
        )?)
    };
    let client = Client {
        server: remote.server.clone(),
        tls,
        token: Some(
            Client::file(&remote.state.join("operator-token"))?
                .trim()
                .to_owned(),
        ),
    };
    client.call(method, path, body).await
}

pub(crate) fn show(
    remote: &Remote,
    text: &str,
    human: impl Fn(&Json) -> String,
) -> Result<(), Box<dyn Error>> {
    let json: Json = serde_json::from_str(text)?;
    if remote.json {
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        print!("{}", human(&json));
    }
    Ok(())
}

pub(crate) fn texts(root: &Path, directory: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(texts(root, &path)?);
        } else if [".yaml", ".yml", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            found.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

pub(crate) fn status_text(json: &Json) -> String {
    let mut out = String::new();
    let errors = json["input"]["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if errors.is_empty() {
        out.push_str("The input is in force.\n");
    } else {
        out.push_str("The input is refused; the last good one is in force:\n");
        for error in errors {
            out.push_str(&format!(
                "  {}:{}: {}: {}\n",
                plain(&error["file"]),
                error["line"],
                plain(&error["field"]),
                plain(&error["reason"]),
            ));
        }
    }
    for proxy in json["proxies"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "{} ({}, {}, {})\n",
            plain(&proxy["node"]),
            plain(&proxy["agent"]),
            plain(&proxy["variant"]),
            plain(&proxy["address"]),
        ));
        for kind in proxy["types"].as_array().into_iter().flatten() {
            let state = match (&kind["refused"], &kind["waiting"]) {
                (Json::Null, Json::Bool(false)) => "accepted".to_owned(),
                (Json::Null, _) => "waiting".to_owned(),
                (refused, _) => format!("refused: {}", plain(&refused["reason"])),
            };
            out.push_str(&format!(
                "  {:<10} {:>5}  {}  {state}\n",
                plain(&kind["type"]),
                kind["sent"],
                plain(&kind["accepted"]),
            ));
        }
    }
    for object in json["objects"].as_array().into_iter().flatten() {
        out.push_str(&object_text(object));
    }
    out
}

pub(crate) fn object_text(object: &Json) -> String {
    let mut out = format!(
        "{} {} ({}:{})\n",
        plain(&object["kind"]),
        plain(&object["key"]),
        plain(&object["origin"]["file"]),
        object["origin"]["line"],
    );
    for condition in object["conditions"].as_array().into_iter().flatten() {
        let about = plain(&condition["about"]);
        out.push_str(&format!(
            "  {}{}{}={} {} {}\n",
            about,
            if about.is_empty() { "" } else { ": " },
            plain(&condition["type"]),
            condition["status"],
            plain(&condition["reason"]),
            plain(&condition["message"]),
        ));
    }
    out
}

pub(crate) fn diff_text(json: &Json) -> String {
    let mut out = String::new();
    for change in json["changes"].as_array().into_iter().flatten() {
        let sign = match (&change["before"], &change["after"]) {
            (Json::Null, _) => '+',
            (_, Json::Null) => '-',
            _ => '~',
        };
        out.push_str(&format!(
            "{sign} {} {} {}\n",
            plain(&change["node"]),
            plain(&change["type"]),
            plain(&change["name"]),
        ));
        if sign == '~' {
            lines(&change["before"], &change["after"], "", &mut out);
        }
    }
    if out.is_empty() {
        out.push_str("Nothing would change.\n");
    }
    out
}

/// The fields that differ.
fn lines(before: &Json, after: &Json, path: &str, out: &mut String) {
    match (before, after) {
        (Json::Object(old), Json::Object(new)) => {
            let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                lines(&before[name], &after[name], &path, out);
            }
        }
        (Json::Array(old), Json::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                let (old, new) = (
                    old.get(index).unwrap_or(&Json::Null),
                    new.get(index).unwrap_or(&Json::Null),
                );
                lines(old, new, &format!("{path}[{index}]"), out);
            }
        }
        _ if before == after => {}
        _ => out.push_str(&format!("    {path}: {before} -> {after}\n")),
    }
}

fn plain(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}
