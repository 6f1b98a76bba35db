//! One step of a header mutation, as the filter `header_mutation` and the connection manager's early mutations take it.

use core::header_value_option::HeaderAppendAction;
use outrigger_proto::pb::envoy::config::common::mutation_rules::v3 as rules;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{FormatData, Formatter};
use crate::http::syntax::is_name;
use crate::http::{Fields, HeaderName, RequestHead};
use crate::matchers::StringMatcher;
use crate::route::append_action_of;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// One step.
#[derive(Debug)]
pub(super) enum Mutation {
    Remove(HeaderName),
    RemoveOnMatch(Box<StringMatcher>),
    Append {
        name: HeaderName,
        value: Formatter,
        action: HeaderAppendAction,
        keep_empty_value: bool,
    },
}

/// Mutations of a request head alone, for `early_header_mutation_extensions`.
#[derive(Debug)]
pub(crate) struct RequestMutations(Box<[Mutation]>);

impl RequestMutations {
    /// Converts `envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation`.
    pub(crate) fn from_extension(
        proto: core::TypedExtensionConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        const EARLY: &str =
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
        let (config, path) = TypedConfig::of_extension(proto, path)?;
        if config.type_name != EARLY {
            return Err(config.unknown(&path, &[EARLY]));
        }
        let early::HeaderMutation { mutations } = config.decode(&path)?;
        path.each("mutations", mutations, |proto, path| {
            Mutation::from_proto(proto, cx, path)
        })
        .map(|mutations| Self(mutations.into()))
    }

    /// Changes a head.
    pub(crate) fn apply(&self, head: &mut RequestHead, info: &StreamInfo) {
        for mutation in &self.0 {
            let value = mutation.value(&FormatData {
                log_type: "NotSet",
                ..FormatData::of_request(info, Some(head))
            });
            mutation.apply(value, &mut head.fields);
        }
    }
}

impl Mutation {
    /// Converts a `HeaderMutation`.
    pub(super) fn from_proto(
        proto: rules::HeaderMutation,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use rules::header_mutation::{Action, RemoveOnMatch};
        let rules::HeaderMutation { action } = proto;
        match path.required("action", action)? {
            Action::Remove(name) if name.starts_with(':') => Err(path
                .field("remove")
                .reject(format!("{name}: a pseudo header cannot be removed"))),
            Action::Remove(name) => Ok(Self::Remove(HeaderName::new(
                path.non_empty("remove", name)?,
            ))),
            Action::RemoveOnMatch(RemoveOnMatch { key_matcher }) => {
                let path = path.field("remove_on_match");
                let matcher = path.required("key_matcher", key_matcher)?;
                let matcher = StringMatcher::from_proto(matcher, &path.field("key_matcher"))?;
                Ok(Self::RemoveOnMatch(Box::new(matcher)))
            }
            Action::Append(option) => Self::append(option, cx, &path.field("append")),
        }
    }

    fn append(
        proto: core::HeaderValueOption,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "control planes still send append")]
        let core::HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = proto;
        let core::HeaderValue {
            key,
            value,
            raw_value,
        } = path.required("header", header)?;
        let action = append_action_of(append, append_action, path)?;
        let path = path.field("header");
        path.unsupported_if_set("raw_value", raw_value)?;
        let key = path.non_empty("key", key)?;
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            return Err(path
                .field("key")
                .reject(":-prefixed or host headers may not be modified"));
        }
        if !is_name(key.as_bytes()) {
            return Err(path
                .field("key")
                .reject(format!("\"{key}\" is not a header name")));
        }
        Ok(Self::Append {
            name: HeaderName::new(key),
            value: Formatter::parse_omitting_empty(&value, cx, &path.field("value"))?,
            action,
            keep_empty_value,
        })
    }

    /// The value to append; none if there is nothing to append.
    pub(super) fn value(&self, data: &FormatData<'_>) -> Option<Vec<u8>> {
        let Self::Append {
            value,
            keep_empty_value,
            ..
        } = self
        else {
            return None;
        };
        let mut out = Vec::new();
        value.render(data, &mut out);
        // What came with a request must not end a line of a head.
        out.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        (*keep_empty_value || !out.is_empty()).then_some(out)
    }

    /// Changes fields; `value` is what [`value`](Self::value) gave.
    pub(super) fn apply(&self, value: Option<Vec<u8>>, fields: &mut Fields) {
        match self {
            Self::Remove(name) => {
                fields.remove(name);
            }
            Self::RemoveOnMatch(matcher) => fields.retain(|name, _| !matcher.matches(name)),
            Self::Append { name, action, .. } => {
                let Some(value) = value else { return };
                let exists = fields.contains(name);
                match action {
                    HeaderAppendAction::AppendIfExistsOrAdd => fields.append(name, value),
                    HeaderAppendAction::AddIfAbsent if !exists => fields.append(name, value),
                    HeaderAppendAction::OverwriteIfExists if !exists => {}
                    // The new value stands at the end, not where the old one stood.
                    HeaderAppendAction::OverwriteIfExists
                    | HeaderAppendAction::OverwriteIfExistsOrAdd => {
                        fields.remove(name);
                        fields.append(name, value);
                    }
                    HeaderAppendAction::AddIfAbsent => {}
                }
            }
        }
    }
}
