//! What became of each object: conditions with the Gateway API's names and reasons.

use serde::Serialize;

use crate::model::{Key, Kind, Origin};

/// The conditions of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// Where it is written.
    pub origin: Origin,
    /// What is known, each type once per `about`.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The parent, listener or field that it is about; empty for the whole object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// One word, such as `NoMatchingParent`.
    pub reason: &'static str,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Status {
    pub(super) fn new(kind: Kind, key: &Key, origin: &Origin) -> Self {
        Self {
            kind,
            key: key.clone(),
            origin: origin.clone(),
            conditions: Vec::new(),
        }
    }

    /// Adds a condition that holds, for the reason that is its own name.
    pub(super) fn holds(&mut self, about: &str, name: &'static str) {
        self.conditions.push(Condition {
            about: about.to_owned(),
            name,
            status: true,
            reason: name,
            message: String::new(),
        });
    }

    /// The same, with a message.
    pub(super) fn holds_with(&mut self, about: &str, name: &'static str, message: String) {
        self.holds(about, name);
        if let Some(condition) = self.conditions.last_mut() {
            condition.message = message;
        }
    }

    /// Adds a condition that does not hold.
    pub(super) fn fails(
        &mut self,
        about: &str,
        name: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.conditions.push(Condition {
            about: about.to_owned(),
            name,
            status: false,
            reason,
            message: message.into(),
        });
    }

    /// Whether something does not hold.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| !condition.status && condition.name != "Conflicted")
    }
}
