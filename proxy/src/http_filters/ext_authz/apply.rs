//! The changes that a service makes to a request.

use super::config::Config;
use super::verdict::{Changes, Pairs};
use crate::http::RequestHead;
use crate::http::syntax::{is_name, is_value};
use crate::http_filters::mutation_rules::{Check, Operation};
use crate::http_filters::query::Query;
use crate::stream_info::HeaderLimits;

/// Why the answer of the service may not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invalid {
    /// What it asks for is not allowed, or not legal.
    Change,
    /// The head of the request would be larger than it may be.
    TooLarge,
}

/// Changes a request; what was changed before an error stays so.
pub(super) fn apply(
    changes: &Changes,
    config: &Config,
    limits: HeaderLimits,
    head: &mut RequestHead,
) -> Result<(), Invalid> {
    let Changes {
        set,
        add,
        append,
        remove,
        query_set,
        query_remove,
        response,
    } = changes;
    each(set, Operation::Set, config, |name, value| {
        write(head, name, value);
        check_size(head, limits)
    })?;
    each(add, Operation::Set, config, |name, value| {
        if !name.starts_with(':') {
            head.fields.append(name, value);
        }
        check_size(head, limits)
    })?;
    each(append, Operation::Append, config, |name, value| {
        append_to(head, name, value);
        check_size(head, limits)
    })?;
    for name in remove {
        let name = name.to_ascii_lowercase();
        let check = match &config.mutation_rules {
            Some(rules) => rules.check(Operation::Remove, name.as_bytes(), b""),
            None if name.starts_with(':') || name == "host" => Check::Ignored,
            None => Check::Allowed,
        };
        match check {
            Check::Allowed => {
                head.fields.remove(name.as_str());
            }
            Check::Ignored => {}
            Check::Failed => return Err(Invalid::Change),
        }
    }
    if config.validate_mutations {
        response.all().try_for_each(validate)?;
    }
    if !query_set.is_empty() || !query_remove.is_empty() {
        change_query(query_set, query_remove, config.validate_mutations, head)?;
        check_size(head, limits)?;
    }
    Ok(())
}

/// Whether the head is not too large.
fn check_size(head: &RequestHead, limits: HeaderLimits) -> Result<(), Invalid> {
    let (count, bytes) = head.size();
    limits
        .allow(count, bytes)
        .then_some(())
        .ok_or(Invalid::TooLarge)
}

/// Whether all of it may stand in a message.
pub(super) fn validate(pairs: &Pairs) -> Result<(), Invalid> {
    let legal = |(name, value): &(String, Vec<u8>)| {
        let name = name.strip_prefix(':').unwrap_or(name);
        (name.is_empty() || is_name(name.as_bytes())) && is_value(value)
    };
    pairs.iter().all(legal).then_some(()).ok_or(Invalid::Change)
}

/// Whether the changes are such that the route is to be chosen again.
pub(super) fn clears_route(changes: &Changes, config: &Config) -> bool {
    let listed = &config.clear_route_cache_headers;
    if !config.clear_route_cache || !changes.changes_request() {
        return false;
    }
    let is_listed = |name: &String| listed.iter().any(|known| name.eq_ignore_ascii_case(known));
    let names = changes.set.iter().chain(&changes.append);
    listed.is_empty()
        || !changes.query_set.is_empty()
        || !changes.query_remove.is_empty()
        || names.map(|(name, _)| name).any(is_listed)
        || changes.remove.iter().any(is_listed)
}

/// Hands over what the rules let through, with names in lower case.
fn each(
    pairs: &Pairs,
    operation: Operation,
    config: &Config,
    mut change: impl FnMut(&str, &[u8]) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    if config.validate_mutations {
        validate(pairs)?;
    }
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        let check = match &config.mutation_rules {
            Some(rules) => rules.check(operation, name.as_bytes(), value),
            None => Check::Allowed,
        };
        match check {
            Check::Failed => return Err(Invalid::Change),
            // What no message may carry is found when the request is sent on.
            Check::Allowed if !name.is_empty() => change(&name, value)?,
            Check::Allowed | Check::Ignored => {}
        }
    }
    Ok(())
}

fn write(head: &mut RequestHead, name: &str, value: &[u8]) {
    let is_one_word = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
    match name {
        ":path" if is_one_word => head.set_path(value),
        ":authority" | "host" if is_one_word => head.set_authority(value),
        ":method" if is_name(value) => head.set_method(value),
        ":scheme" if matches!(value, b"http" | b"https") => head.set_scheme(value),
        "host" => {}
        name if name.starts_with(':') => {}
        name => head.fields.set(name, value),
    }
}

/// Adds to a field that is there.
fn append_to(head: &mut RequestHead, name: &str, value: &[u8]) {
    let old = match name {
        ":path" => head.path(),
        ":authority" | "host" => head.authority(),
        name => {
            if head.fields.contains(name) {
                head.fields.append_to(name, b",", value);
            }
            return;
        }
    };
    if let Some(old) = old {
        let joined = [old, b",", value].concat();
        write(head, name, &joined);
    }
}

fn change_query(
    set: &Pairs,
    remove: &[String],
    validate: bool,
    head: &mut RequestHead,
) -> Result<(), Invalid> {
    let path = head.path().unwrap_or_default();
    let mut query = Query::of_path(path);
    for (key, value) in set {
        if validate && !(is_url_encoded(key.as_bytes()) && is_url_encoded(value)) {
            return Err(Invalid::Change);
        }
        query.set_written(&escaped(key.as_bytes()), &escaped(value));
    }
    for key in remove {
        query.remove_written(key.as_bytes());
    }
    let path = query.in_path(path);
    head.set_path(&path);
    Ok(())
}

fn is_url_encoded(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (byte, after) if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) => after,
            _ => return false,
        };
    }
    true
}

/// The text with escapes for what would end a path or a line.
fn escaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_graphic() && *byte != b'#' {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}
