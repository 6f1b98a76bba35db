//! What the kind `RateLimit` says.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Limits of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// The `domain` that proxies name. Default `outrigger`.
    #[serde(default = "default_domain")]
    pub domain: String,
    /// Tells clients in `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset` how they are with the limit that has
    /// least left. Default false.
    #[serde(default)]
    pub headers: bool,
    /// The limits.
    #[serde(deserialize_with = "some")]
    pub limits: Vec<LimitSpec>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitSpec {
    /// What clients are told that it is called. Default: nothing.
    #[serde(default)]
    pub name: String,
    /// What a request is counted under, in the order in which the proxy has it.
    #[serde(rename = "match", deserialize_with = "some")]
    pub matches: Vec<MatchSpec>,
    /// How many requests may pass.
    pub requests: u32,
    /// In which time: `10s`, `1m`, `24h`, `30d`. At least a second, at most 366 days.
    #[serde(deserialize_with = "window")]
    pub per: Duration,
    /// Counts and lets everything pass. Default false.
    #[serde(default)]
    pub shadow: bool,
}

/// A key, and perhaps its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MatchSpec {
    /// The key.
    #[serde(deserialize_with = "some_text")]
    pub key: String,
    /// The value. None: any, and each has a counter of its own.
    pub value: Option<String>,
}

fn default_domain() -> String {
    "outrigger".to_owned()
}

fn some<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    match list.is_empty() {
        true => Err(D::Error::custom("must not be empty")),
        false => Ok(list),
    }
}

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.is_empty() {
        true => Err(D::Error::custom("must not be empty")),
        false => Ok(text),
    }
}

/// A time such as `1m`, see [`LimitSpec::per`].
pub(crate) fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || D::Error::custom(format!("{text:?} is no time such as 10s, 1m, 24h or 30d"));
    let (number, unit) = text
        .char_indices()
        .next_back()
        .map(|(at, unit)| (&text[..at], unit))
        .ok_or_else(wrong)?;
    let unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds @ 1..=31_622_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(D::Error::custom(format!(
            "{text} is not from a second to 366 days"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<RateLimitSpec, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_limit_is_short_to_write() {
        let json = r#"{"limits": [{"match": [{"key": "user"}], "requests": 100, "per": "1m"}]}"#;
        let expected = RateLimitSpec {
            headers: false,
            domain: "outrigger".to_owned(),
            limits: vec![LimitSpec {
                name: String::new(),
                matches: vec![MatchSpec {
                    key: "user".to_owned(),
                    value: None,
                }],
                requests: 100,
                per: Duration::from_secs(60),
                shadow: false,
            }],
        };
        assert_eq!(spec(json), Ok(expected));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let limit = |matches: &str, per: &str| {
            spec(&format!(
                r#"{{"limits": [{{"match": {matches}, "requests": 1, "per": "{per}"}}]}}"#
            ))
        };
        let one = r#"[{"key": "a"}]"#;
        for per in ["1s", "10m", "24h", "366d"] {
            assert!(limit(one, per).is_ok(), "{per}");
        }
        for per in [
            "",
            "s",
            "0s",
            "1w",
            "-1s",
            "1.5s",
            "367d",
            "9999999999999999999d",
            "1ü",
        ] {
            assert!(limit(one, per).is_err(), "{per}");
        }
        assert!(limit("[]", "1s").is_err());
        assert!(limit(r#"[{"key": ""}]"#, "1s").is_err());
        assert!(limit(r#"[{"key": "a", "values": []}]"#, "1s").is_err());
        assert!(spec(r#"{"limits": []}"#).is_err());
    }
}
