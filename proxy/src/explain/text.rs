//! The explanation for people.

use std::fmt::{self, Display, Formatter, Write};

use serde_json::Value;

use super::http::{ClusterTaken, FilterShown, HttpExplained, RequestShown, RouteTaken};
use super::{Explanation, Outcome};

/// A line: what it is about, padded, and what there is to say.
fn line(f: &mut Formatter<'_>, about: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{about:<14}{text}")
}

/// A line below another.
fn more(f: &mut Formatter<'_>, text: impl Display) -> fmt::Result {
    line(f, "", text)
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.request)?;
        let listener = &self.listener;
        let name = or_unnamed(&listener.name);
        line(
            f,
            "listener",
            format_args!("{name} ({}): {}", listener.address, listener.because),
        )?;
        let Some(chain) = &self.filter_chain else {
            return line(
                f,
                "filter chain",
                "none matches: the connection is closed, with the flag NR and the details filter_chain_not_found",
            );
        };
        let place = match chain.index {
            Some(index) => format!("#{index} {}", or_unnamed(&chain.name)),
            None => format!("the default chain {}", or_unnamed(&chain.name)),
        };
        let criteria = match &chain.criteria {
            Some(criteria) => format!(": {criteria}"),
            None => ": it takes whatever no other takes".to_owned(),
        };
        line(f, "filter chain", format_args!("{place}{criteria}"))?;
        more(f, format_args!("filters: {}", chain.filters.join(", ")))?;
        match &self.outcome {
            Outcome::Closed => line(
                f,
                "outcome",
                "the chain has no filters: the connection is closed",
            ),
            Outcome::Other(kind) => {
                line(f, "outcome", format_args!("{kind} serves the connection"))
            }
            Outcome::Tcp(shares) => {
                for share in shares {
                    line(
                        f,
                        "cluster",
                        format_args!("{} ({})", share.cluster, percent(share.percent)),
                    )?;
                }
                Ok(())
            }
            Outcome::Http(http) => http.fmt(f),
        }
    }
}

impl Display for HttpExplained {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, "manager", &self.stat_prefix)?;
        line(f, "request", &self.request)?;
        if let Some(refused) = &self.refused {
            return line(
                f,
                "answer",
                format_args!(
                    "{} from the connection manager: {}",
                    refused.status, refused.details
                ),
            );
        }
        let routes = or_unnamed(&self.route_config);
        match &self.virtual_host {
            Some(host) => line(
                f,
                "virtual host",
                format_args!(
                    "#{} {} of {routes}: domains {}",
                    host.index,
                    host.name,
                    host.domains.join(", ")
                ),
            )?,
            None => {
                let authority = &self.request.authority;
                line(
                    f,
                    "virtual host",
                    format_args!("no domain of {routes} matches {authority}"),
                )?;
                if let Some(hint) = &self.hint {
                    more(f, hint)?;
                }
            }
        }
        for lost in &self.lost {
            let name = or_unnamed(&lost.name);
            line(
                f,
                "  not",
                format_args!("#{} {name}: {} is {}", lost.index, lost.unmet, lost.wants),
            )?;
        }
        match &self.route {
            Some(route) => route.fmt(f)?,
            None => line(
                f,
                "route",
                "none: 404, with the flag NR and the details route_not_found",
            )?,
        }
        for (index, filter) in self.filters.iter().enumerate() {
            show_filter(f, if index == 0 { "filters" } else { "" }, filter)?;
        }
        Ok(())
    }
}

impl Display for RouteTaken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = or_unnamed(&self.name);
        line(
            f,
            "route",
            format_args!("#{} {name}: {}", self.index, self.criteria),
        )?;
        if let Some(fraction) = &self.runtime_fraction {
            more(
                f,
                format_args!("by chance: {fraction}; the others go on to later routes"),
            )?;
        }
        if let Some(answer) = &self.answers {
            let location = answer.location.iter().map(|l| format!(" to {l}"));
            let location = location.collect::<String>();
            line(
                f,
                "answer",
                format_args!("{} from the route{location}", answer.status),
            )?;
        }
        for cluster in &self.clusters {
            line(f, "cluster", cluster)?;
        }
        if let Some(request) = &self.upstream_request {
            line(f, "upstream gets", request)?;
        }
        if let Some(timeouts) = &self.timeouts {
            let shown = [
                ("route", timeouts.timeout),
                ("per try", timeouts.per_try_timeout),
                ("per try, idle", timeouts.per_try_idle_timeout),
            ];
            let mut text = String::new();
            for (about, limit) in shown {
                let separator = if text.is_empty() { "" } else { ", " };
                match limit {
                    Some(limit) => write!(text, "{separator}{about} {limit} s")?,
                    None => write!(text, "{separator}{about} none")?,
                }
            }
            line(f, "timeouts", text)?;
        }
        match &self.retry_policy {
            Some(policy) => line(f, "retries", policy),
            None if self.timeouts.is_some() => {
                line(f, "retries", "none, unless headers ask for them")
            }
            None => Ok(()),
        }
    }
}

impl Display for ClusterTaken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "(no name)"
        } else {
            &self.name
        };
        write!(f, "{name} ({})", percent(self.percent))?;
        match (&self.discovery, &self.lb_policy, self.endpoints) {
            (Some(discovery), Some(policy), Some(endpoints)) => {
                write!(
                    f,
                    ": {discovery}, {policy}, {endpoints} endpoints configured"
                )
            }
            _ => write!(f, ": there is no such cluster"),
        }
    }
}

impl Display for RequestShown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.authority, self.path)?;
        for (name, value) in &self.headers {
            write!(f, "\n{:<14}{name}: {value}", "")?;
        }
        Ok(())
    }
}

fn show_filter(f: &mut Formatter<'_>, about: &str, filter: &FilterShown) -> fmt::Result {
    let runs = if filter.runs { "runs" } else { "does not run" };
    let because = filter.because.iter().map(|why| format!(" ({why})"));
    let because = because.collect::<String>();
    line(
        f,
        about,
        format_args!("{} {runs}{because}: {}", filter.name, Short(&filter.config)),
    )?;
    for (level, config) in &filter.per_route {
        more(f, format_args!("  {level}: {}", Short(config)))?;
    }
    Ok(())
}

/// A configuration without its type, on one line.
struct Short<'a>(&'a Value);

impl Display for Short<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Object(fields) => {
                let mut fields = fields.clone();
                fields.remove("@type");
                write!(f, "{}", Value::Object(fields))
            }
            other => write!(f, "{other}"),
        }
    }
}

fn percent(share: f64) -> String {
    if (share - 100.0).abs() < f64::EPSILON {
        "always".to_owned()
    } else {
        format!("{share:.4}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
            + " %"
    }
}

fn or_unnamed(name: &str) -> String {
    if name.is_empty() {
        "(no name)".to_owned()
    } else {
        format!("\"{name}\"")
    }
}
