//! What the filter leaves in the filter state.

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::verdict::Pairs;
use crate::stream_info::FilterStateObject;

/// How long the call took, for access logs.
#[derive(Default)]
pub(super) struct LoggingInfo {
    pub(super) latency: Cell<Option<Duration>>,
}

impl FilterStateObject for LoggingInfo {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "latency_us" => self.latency.get().map(|took| took.as_micros().to_string()),
            _ => None,
        }
    }
}

/// `ShadowDecision`: what would have been done.
pub(super) struct ShadowDecision {
    pub(super) check_result: &'static str,
    pub(super) status_code: u16,
    pub(super) response_headers: Pairs,
}

impl ShadowDecision {
    /// As JSON with these names.
    fn to_json(&self, [check_result, status_code, response_headers]: [&str; 3]) -> Value {
        let mut decision = Map::new();
        decision.insert(check_result.to_owned(), self.check_result.into());
        decision.insert(status_code.to_owned(), self.status_code.into());
        if !self.response_headers.is_empty() {
            let headers = self.response_headers.iter();
            let headers = headers
                .map(|(key, value)| json!({"key": key, "value": String::from_utf8_lossy(value)}));
            decision.insert(response_headers.to_owned(), headers.collect());
        }
        Value::Object(decision)
    }
}

impl FilterStateObject for ShadowDecision {
    fn serialize_as_string(&self) -> Option<String> {
        let names = ["check_result", "status_code", "response_headers"];
        Some(self.to_json(names).to_string())
    }

    fn serialize_as_json(&self) -> Option<Value> {
        Some(self.to_json(["checkResult", "statusCode", "responseHeaders"]))
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "check_result" => Some(self.check_result.to_owned()),
            "status_code" => Some(self.status_code.to_string()),
            _ => None,
        }
    }
}
