//! The rules that the API itself states, held against encoded messages.
//!
//! Envoy's rules about what is old: a deprecated field is taken with a warning, one that is disallowed is refused. A runtime key
//! turns either around, `envoy.features.fail_on_any_deprecated_feature` and `envoy.features.enable_all_deprecated_features` all
//! at once. The bootstrap is checked before there is a runtime, and everything old in it is taken.

use outrigger_proto::validate::{self, Problem, Violation};
use outrigger_proto::yaml::{LoadError, UnknownFields};

use super::{ConfigError, ConfigPath, ConfigReport, Rejected};

impl ConfigPath<'_> {
    /// Reports what the encoded message of the type `full_name` that stands here breaks of the API's rules. What is inside an
    /// `Any` is not looked at.
    pub fn check(&self, full_name: &str, bytes: &[u8]) -> Result<(), Rejected> {
        let mut rejected = None;
        for Violation { path, problem } in validate::check(full_name, bytes) {
            let refused = self.report.refuses(&problem);
            let subject = subject(&problem);
            // Without its path it is the bare message.
            let kind = problem.clone();
            let message = Violation {
                path: String::new(),
                problem,
            }
            .to_string();
            if refused {
                rejected = Some(self.reject_below(&path, &message));
            } else if let (Some(dynamic), Problem::UnknownField { .. }) =
                (&self.report.dynamic, &kind)
            {
                dynamic.note(&message);
            } else if let Some(subject) = subject
                && self.report.warned.borrow_mut().insert(subject)
            {
                let (path, _) = self.below(&path);
                self.report
                    .warnings
                    .borrow_mut()
                    .push(format!("{path}: {message}"));
            }
        }
        rejected.map_or(Ok(()), Err)
    }

    /// Reports fields that do not fit their message, found below this path.
    pub(super) fn reject_fields(&self, errors: &[LoadError]) -> Rejected {
        for error in errors {
            self.reject_below(&error.path, &error.reason);
        }
        // The list has one entry at least; where it has none, this still refuses.
        if errors.is_empty() {
            self.reject("does not fit its type")
        } else {
            Rejected(())
        }
    }

    /// What becomes of fields that no message has.
    pub(super) fn unknown_fields(&self) -> UnknownFields {
        if self.report.allow_unknown_fields {
            UnknownFields::Ignore
        } else {
            UnknownFields::Refuse
        }
    }

    fn reject_below(&self, below: &str, message: &str) -> Rejected {
        let (path, place) = self.below(below);
        self.report.broken.borrow_mut().insert(place.clone());
        self.report.errors.borrow_mut().push(ConfigError {
            path,
            place,
            message: message.to_owned(),
        });
        Rejected(())
    }

    /// Path and place of the field `below`, in the form `a.b[0].c["k.l"]`.
    fn below(&self, below: &str) -> (String, String) {
        let (mut path, mut place) = (self.to_string(), self.place());
        if below.is_empty() {
            return (path, place);
        }
        if !place.is_empty() {
            place.push('.');
        }
        place.push_str(below);
        path.push_str(" / ");
        let (mut quoted, mut escaped) = (false, false);
        for character in below.chars() {
            match character {
                '.' if !quoted => path.push_str(" / "),
                _ => path.push(character),
            }
            quoted ^= character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
        }
        (path, place)
    }
}

impl ConfigReport {
    fn refuses(&self, problem: &Problem) -> bool {
        match problem {
            Problem::UnknownField { .. } => !self.allow_unknown_fields,
            Problem::Disallowed { runtime_key } => {
                self.runtime.is_some()
                    && !self.is(runtime_key, true)
                    && (!self.is(ENABLE_ALL, true) || self.is(runtime_key, false))
            }
            Problem::Deprecated { runtime_key } => {
                self.is(runtime_key, false)
                    || (self.is(FAIL_ON_ANY, true) && !self.is(runtime_key, true))
            }
            Problem::Malformed
            | Problem::Rule { .. }
            | Problem::Missing
            | Problem::NoneOf(_)
            | Problem::Patched => true,
        }
    }

    fn is(&self, key: &str, value: bool) -> bool {
        let text = if value { "true" } else { "false" };
        let found = self.runtime.as_ref().and_then(|runtime| runtime.get(key));
        found.is_some_and(|found| found.eq_ignore_ascii_case(text))
    }
}

/// What a warning is about.
fn subject(problem: &Problem) -> Option<String> {
    match problem {
        Problem::Disallowed { runtime_key } | Problem::Deprecated { runtime_key } => {
            Some(runtime_key.clone())
        }
        Problem::UnknownField { message, number } => Some(format!("{message} {number}")),
        _ => None,
    }
}

const ENABLE_ALL: &str = "envoy.features.enable_all_deprecated_features";
const FAIL_ON_ANY: &str = "envoy.features.fail_on_any_deprecated_feature";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
    use outrigger_proto::pb::google::protobuf::Duration;
    use prost::Message;

    use super::*;
    use crate::runtime::Runtime;

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
    const KEY: &str =
        "envoy.deprecated_features:envoy.config.cluster.v3.Cluster.track_timeout_budgets";

    fn check(message: &impl Message, report: &ConfigReport) -> Vec<String> {
        let path = ConfigPath::resource(report, "cluster \"a\"", "static_resources.clusters[0]");
        let result = path.check(CLUSTER, &message.encode_to_vec());
        let errors = report.take();
        assert_eq!(result.is_err(), !errors.is_empty());
        errors.iter().map(ToString::to_string).collect()
    }

    fn runtime(values: &[(&str, &str)]) -> Runtime {
        let runtime = Runtime::default();
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        runtime.set_layer("static", HashMap::from_iter(values));
        runtime
    }

    #[allow(deprecated, reason = "the field is the test's subject")]
    fn old() -> Cluster {
        Cluster {
            name: "a".to_owned(),
            track_timeout_budgets: true,
            ..Cluster::default()
        }
    }

    #[test]
    fn a_broken_rule_names_the_field_and_is_not_reported_twice() {
        let cluster = Cluster {
            name: "a".to_owned(),
            connect_timeout: Some(Duration::default()),
            ..Cluster::default()
        };
        let report = ConfigReport::new();
        let path = ConfigPath::resource(&report, "cluster \"a\"", "static_resources.clusters[0]");
        assert!(path.check(CLUSTER, &cluster.encode_to_vec()).is_err());
        let _ = path
            .field("connect_timeout")
            .reject("must be longer than 0s");
        let errors = report.take();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].path, "cluster \"a\" / connect_timeout");
        assert_eq!(
            errors[0].place,
            "static_resources.clusters[0].connect_timeout"
        );
    }

    #[test]
    fn what_is_old_is_taken_with_one_warning_unless_the_runtime_says_no() {
        let report = ConfigReport::new();
        assert!(check(&old(), &report).is_empty());
        assert!(check(&old(), &report).is_empty());
        assert_eq!(report.take_warnings().len(), 1);
        for values in [&[(KEY, "false")][..], &[(FAIL_ON_ANY, "true")]] {
            let report = ConfigReport::new().with_runtime(&runtime(values));
            let errors = check(&old(), &report);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].starts_with("cluster \"a\" / track_timeout_budgets: "),
                "{errors:?}"
            );
        }
        let both = runtime(&[(FAIL_ON_ANY, "true"), (KEY, "true")]);
        assert!(check(&old(), &ConfigReport::new().with_runtime(&both)).is_empty());
    }

    #[test]
    fn what_is_disallowed_needs_its_runtime_key() {
        let problem = Problem::Disallowed {
            runtime_key: "k".to_owned(),
        };
        let refuses = |values: &[(&str, &str)]| {
            ConfigReport::new()
                .with_runtime(&runtime(values))
                .refuses(&problem)
        };
        assert!(refuses(&[]));
        assert!(refuses(&[("k", "false"), (ENABLE_ALL, "true")]));
        assert!(!refuses(&[("k", "true")]));
        assert!(!refuses(&[(ENABLE_ALL, "true")]));
        assert!(
            !ConfigReport::new().refuses(&problem),
            "there is no runtime yet"
        );
    }

    #[test]
    fn unknown_fields_are_refused_unless_allowed() {
        // Field 999 with the value 1, which no cluster has.
        let mut bytes = old().encode_to_vec();
        bytes.extend([0xb8, 0x3e, 1]);
        for (allow, errors) in [(false, 1), (true, 0)] {
            let report = ConfigReport::new().with_unknown_fields(allow);
            let path = ConfigPath::root(&report, "cluster");
            assert_eq!(path.check(CLUSTER, &bytes).is_err(), !allow);
            assert_eq!(report.take().len(), errors);
        }
    }

    #[test]
    fn keys_with_dots_stay_one_segment() {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "bootstrap");
        let (path, place) = path.field("a").below("b[0].c[\"k.l\"].d");
        assert_eq!(path, "bootstrap / a / b[0] / c[\"k.l\"] / d");
        assert_eq!(place, "a.b[0].c[\"k.l\"].d");
    }
}
