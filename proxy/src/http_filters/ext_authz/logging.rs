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

impl FilterStateObject for ShadowDecision {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }

    fn serialize_as_json(&self) -> Option<Value> {
        let mut decision = Map::new();
        decision.insert("checkResult".to_owned(), self.check_result.into());
        decision.insert("statusCode".to_owned(), self.status_code.into());
        if !self.response_headers.is_empty() {
            let headers = self.response_headers.iter();
            let headers = headers
                .map(|(key, value)| json!({"key": key, "value": String::from_utf8_lossy(value)}));
            decision.insert("responseHeaders".to_owned(), headers.collect());
        }
        Some(Value::Object(decision))
    }
}
