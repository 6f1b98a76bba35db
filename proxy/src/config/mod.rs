//! The conversion kit: how protobuf messages become runtime types.
//!
//! A conversion is `fn from_proto(proto, path: &ConfigPath<'_>) -> Result<Self, Rejected>`. What is wrong is *reported on the
//! path*, which knows where it is; the `Rejected` that comes back only proves that a report was made. So a conversion can run
//! all of its children before it gives up with `?`, and a refused configuration lists every error it contains.

mod check;
mod data_source;
mod dynamic_fields;
mod extension;
mod field;
mod json;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::runtime::Runtime;
use crate::server::ServerContext;

pub use data_source::data_source;
pub use dynamic_fields::{DynamicFieldPolicy, DynamicFields};
pub use extension::TypedConfig;
pub use field::{Fraction, Unset, timestamp};
pub use json::{json_object, json_to_struct, json_to_value, json_value};

/// What one load of a configuration found wrong, and how strict it is with what is old or unknown.
#[derive(Debug, Default)]
pub struct ConfigReport {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
    /// What the warnings are about: each is given once.
    warned: RefCell<HashSet<String>>,
    /// Where rules of the API are broken: a conversion need not say it again.
    broken: RefCell<HashSet<String>>,
    /// Decides about fields that Envoy is giving up. None: there is no runtime yet, and all of them are taken.
    runtime: Option<Runtime>,
    allow_unknown_fields: bool,
    /// Who is told of unknown fields that are left out. None: the warnings here are.
    dynamic: Option<Arc<DynamicFields>>,
}

/// One thing wrong with a configuration: where, and what would be legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// The resource and the field path in it: `listener "ingress" / filter_chains[0] / name`.
    pub path: String,
    /// The same field from the root of what was loaded, as `outrigger_proto::yaml::locate` takes it:
    /// `static_resources.listeners[0].filter_chains[0].name`.
    pub place: String,
    /// The value that was found and what is legal.
    pub message: String,
}

/// Proof that a [`ConfigError`] was reported on a [`ConfigPath`]. It cannot be made in any other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected(());

/// Where in a configuration a conversion stands. Grows by one segment per call and lives on the stack.
#[derive(Clone, Copy)]
pub struct ConfigPath<'a> {
    parent: Option<&'a ConfigPath<'a>>,
    segment: Segment<'a>,
    report: &'a ConfigReport,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Root(&'a str),
    Resource(&'a str, &'a str),
    Field(&'a str),
    Index(&'a str, usize),
    Key(&'a str, &'a str),
}

impl ConfigReport {
    /// An empty report.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with runtime values that decide about fields that Envoy is giving up.
    #[must_use]
    pub fn with_runtime(self, runtime: &Runtime) -> Self {
        Self {
            runtime: Some(runtime.clone()),
            ..self
        }
    }

    /// The same; `allow`: fields that no message has are left out and not refused.
    #[must_use]
    pub fn with_unknown_fields(self, allow: bool) -> Self {
        Self {
            allow_unknown_fields: allow,
            ..self
        }
    }

    /// What was taken, but should be looked at.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// The errors reported so far, in the order of their discovery.
    pub fn take(&self) -> Vec<ConfigError> {
        self.errors.take()
    }

    /// A report on a resource that came while the process runs, as strict as runtime values and flags say.
    pub fn of_resource(server: &ServerContext) -> Self {
        let fields = &server.unknown_fields;
        Self {
            dynamic: Some(fields.clone()),
            ..Self::new()
                .with_runtime(&server.runtime)
                .with_unknown_fields(fields.policy() != DynamicFieldPolicy::Reject)
        }
    }

    /// All errors reported so far, one per line.
    pub fn text(&self) -> String {
        let errors: Vec<String> = self.take().iter().map(ToString::to_string).collect();
        errors.join("\n")
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }
}

impl<'a> ConfigPath<'a> {
    /// The path of a whole resource, such as `listener "ingress"` or `bootstrap`.
    pub fn root(report: &'a ConfigReport, resource: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Root(resource),
            report,
        }
    }

    /// The path of a resource that stands at `place` in the bootstrap, such as `static_resources.clusters[0]`.
    pub fn resource(report: &'a ConfigReport, resource: &'a str, place: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Resource(resource, place),
            report,
        }
    }

    /// The path of field `name` below this one.
    pub fn field(&'a self, name: &'a str) -> ConfigPath<'a> {
        self.child(Segment::Field(name))
    }

    /// The path of entry `index` of the repeated field `name`.
    pub fn index(&'a self, name: &'a str, index: usize) -> ConfigPath<'a> {
        self.child(Segment::Index(name, index))
    }

    /// The path of the entry called `key` of the field `name`: `http_filters["envoy.filters.http.fault"]`.
    pub fn key(&'a self, name: &'a str, key: &'a str) -> ConfigPath<'a> {
        self.child(Segment::Key(name, key))
    }

    /// Reports that what stands here is wrong.
    pub fn reject(&self, message: impl Into<String>) -> Rejected {
        let place = self.place();
        if !self.report.broken.borrow().contains(&place) {
            self.report.errors.borrow_mut().push(ConfigError {
                path: self.to_string(),
                place,
                message: message.into(),
            });
        }
        Rejected(())
    }

    /// The path without names of resources.
    fn place(&self) -> String {
        let mut place = self.parent.map(Self::place).unwrap_or_default();
        if !place.is_empty() {
            place.push('.');
        }
        match self.segment {
            Segment::Root(_) => {}
            Segment::Resource(_, name) | Segment::Field(name) => place.push_str(name),
            Segment::Index(name, index) => place.push_str(&format!("{name}[{index}]")),
            Segment::Key(name, key) => {
                let key = key.replace('\\', "\\\\").replace('"', "\\\"");
                place.push_str(&format!("{name}[\"{key}\"]"));
            }
        }
        place
    }

    fn child(&'a self, segment: Segment<'a>) -> ConfigPath<'a> {
        ConfigPath {
            parent: Some(self),
            segment,
            report: self.report,
        }
    }
}

impl fmt::Display for ConfigPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent} / ")?;
        }
        match self.segment {
            Segment::Root(name) | Segment::Resource(name, _) | Segment::Field(name) => {
                f.write_str(name)
            }
            Segment::Index(name, index) => write!(f, "{name}[{index}]"),
            Segment::Key(name, key) => write!(f, "{name}[\"{key}\"]"),
        }
    }
}

impl fmt::Debug for ConfigPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_resource_fields_and_keys() {
        let report = ConfigReport::new();
        let root = ConfigPath::root(&report, "listener \"ingress\"");
        let chain = root.index("filter_chains", 0);
        let filter = chain.key("http_filters", "envoy.filters.http.fault");
        let _ = filter
            .field("abort")
            .field("http_status")
            .reject("42 is not in 200..=599");
        assert_eq!(
            report.take()[0].to_string(),
            "listener \"ingress\" / filter_chains[0] / http_filters[\"envoy.filters.http.fault\"] / abort / http_status: 42 is not in 200..=599"
        );
    }

    #[test]
    fn every_entry_of_a_list_is_converted_before_the_list_is_refused() {
        let report = ConfigReport::new();
        let root = ConfigPath::root(&report, "cluster \"a\"");
        let odd = root.each("ports", [1u32, 2, 3, 4], |value, path| {
            if value % 2 == 0 {
                Err(path.reject("even"))
            } else {
                Ok(value)
            }
        });
        assert!(odd.is_err());
        assert_eq!(
            report
                .take()
                .iter()
                .map(|e| e.path.clone())
                .collect::<Vec<_>>(),
            ["cluster \"a\" / ports[1]", "cluster \"a\" / ports[3]"]
        );
    }
}
