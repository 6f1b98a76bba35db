//! `/xds_log`: what management servers have changed lately. Envoy has no such page.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Admin, Request, Response, json};
use crate::xds::{LogEntry, LogNames};

pub(super) fn show(admin: &Admin, request: &Request<'_>) -> Response {
    let entries = admin.source.xds_log();
    if request.query.value("format") == Some("json") {
        let entries: Vec<Value> = entries.iter().map(value).collect();
        return json::page(&json!({ "updates": entries }));
    }
    let mut out = String::new();
    for entry in &entries {
        // Writing to a string cannot fail.
        let _ = write(&mut out, entry);
    }
    Response::text(out)
}

fn write(out: &mut String, entry: &LogEntry) -> std::fmt::Result {
    writeln!(
        out,
        "{} {} version \"{}\"",
        time(entry),
        entry.kind.type_name(),
        entry.version
    )?;
    for (title, names) in [("added", &entry.added), ("removed", &entry.removed)] {
        for name in &names.first {
            writeln!(out, "  {title} {name}")?;
        }
        more(out, title, names.count - names.first.len())?;
    }
    for (name, fields) in &entry.changed {
        writeln!(out, "  changed {name}")?;
        for field in fields {
            writeln!(out, "    {field}")?;
        }
    }
    more(out, "changed", entry.more_changed)?;
    for refused in &entry.refused {
        let reason = refused.reason.replace('\n', "\n    ");
        writeln!(out, "  refused {}\n    {reason}", refused.name)?;
    }
    if entry.unchanged > 0 {
        writeln!(out, "  unchanged {}", entry.unchanged)?;
    }
    Ok(())
}

fn more(out: &mut String, title: &str, count: usize) -> std::fmt::Result {
    match count {
        0 => Ok(()),
        count => writeln!(out, "  {title} {count} more"),
    }
}

fn value(entry: &LogEntry) -> Value {
    let names = |names: &LogNames| json!({ "count": names.count, "names": names.first.iter().map(|name| &**name).collect::<Vec<_>>() });
    let changed: Vec<Value> = entry
        .changed
        .iter()
        .map(|(name, fields)| json!({ "name": &**name, "fields": fields }))
        .collect();
    let refused: Vec<Value> = entry
        .refused
        .iter()
        .map(|refused| json!({ "name": &*refused.name, "reason": refused.reason }))
        .collect();
    json!({
        "time": time(entry),
        "type": entry.kind.type_name(),
        "version": &*entry.version,
        "added": names(&entry.added),
        "changed": changed,
        "more_changed": entry.more_changed,
        "removed": names(&entry.removed),
        "unchanged": entry.unchanged,
        "refused": refused,
    })
}

fn time(entry: &LogEntry) -> String {
    Timestamp::try_from(entry.at).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}
