//! `/logging`.

use std::fmt::Write;

use super::{Admin, LogLevels, Request, Response};

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

pub(super) fn change(admin: &Admin, request: &Request<'_>) -> Response {
    match wanted(request)
        .and_then(|change| change.map_or(Ok(()), |change| admin.source.set_log_levels(change)))
    {
        Ok(()) => Response::text(loggers(admin)),
        Err(error) => Response::error(
            400,
            format!(
                "error: {error}\n\n\
                 usage: /logging?<name>=<level> (change single level)\n\
                 usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                 usage: /logging?level=<level> (change all levels)\n\
                 levels: {}\n{}",
                LEVELS.join(" "),
                loggers(admin)
            ),
        ),
    }
}

/// The change that is asked for, if any. A form sends the parameters that nobody filled in, too.
fn wanted(request: &Request<'_>) -> Result<Option<LogLevels>, String> {
    let mut given = request.query.iter().filter(|(_, value)| !value.is_empty());
    let Some((name, value)) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err("invalid number of parameters".to_owned());
    }
    match name {
        "level" => Ok(Some(LogLevels::All(level(value)?))),
        "paths" => {
            let pairs = value.split(',').map(|pair| match pair.split_once(':') {
                Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                    Ok((name.to_owned(), level(value)?))
                }
                _ => Err("empty logger name or empty logger level".to_owned()),
            });
            Ok(Some(LogLevels::Some(pairs.collect::<Result<_, _>>()?)))
        }
        name => Ok(Some(LogLevels::Some(vec![(
            name.to_owned(),
            level(value)?,
        )]))),
    }
}

fn level(name: &str) -> Result<String, String> {
    if LEVELS.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err("unknown logger level".to_owned())
    }
}

fn loggers(admin: &Admin) -> String {
    let mut out = String::from("active loggers:\n");
    for (name, level) in admin.source.log_levels() {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name}: {level}");
    }
    out
}
