//! Expressions in the Common Expression Language over what is known of a request: `request.headers['x-user'] == 'eve'`.
//!
//! They stand in RBAC policies (`condition`), access logs (`%CEL(…)%`, the filter
//! `envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter`) and rate limits
//! (`envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor`), as text or as syntax trees of
//! `google.api.expr.v1alpha1`. The language is what Envoy leaves of it: no comprehensions (`all`, `exists`, `map`), and what
//! makes strings only where `CelExpressionConfig` allows it. An expression is compiled once; names of functions and
//! attributes, and patterns that are constant, are looked up then.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>
//!
//! Deviations: of messages, those of `google.protobuf` can be made for which the language has values of its own
//! (`google.protobuf.Duration{seconds: 1}`), and no others (`envoy.config.core.v3.Node{id: 'a'}`).
//! Deviations: a string that an expression makes has at most 1 MiB; regular expressions may be larger than in Envoy.

mod ast;
mod attributes;
mod eval;
mod format;
mod functions;
mod messages;
mod number;
mod operators;
mod parser;
mod strings;
#[cfg(test)]
mod tests;
mod time;
mod value;

pub use attributes::Activation;
pub use value::Value;

use ast::Node;
use attributes::NodeInfo;
use outrigger_proto::pb::envoy::config::core::v3::CelExpressionConfig;
use outrigger_proto::pb::google::api::expr::v1alpha1 as pb;

use crate::server::LocalInfo;

/// An expression that is ready to be evaluated.
#[derive(Debug)]
pub struct Expression {
    root: Node,
    /// What `xds.node` is, where the expression asks for it.
    node: Option<Box<NodeInfo>>,
}

/// What an expression may do beside the usual: `CelExpressionConfig`. Default: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether there is `string()`.
    pub string_conversion: bool,
    /// Whether `+` joins strings.
    pub string_concat: bool,
    /// Whether there are `replace`, `split`, `format` and their kin.
    pub string_functions: bool,
}

impl Options {
    /// Converts the configuration; none allows nothing.
    pub fn from_proto(proto: Option<CelExpressionConfig>) -> Self {
        let CelExpressionConfig {
            enable_string_conversion,
            enable_string_concat,
            enable_string_functions,
        } = proto.unwrap_or_default();
        Self {
            string_conversion: enable_string_conversion,
            string_concat: enable_string_concat,
            string_functions: enable_string_functions,
        }
    }
}

impl Expression {
    /// Compiles a text. `local_info`: what `xds.node` shows; none: nothing. The error says what is wrong with the text.
    pub fn from_text(
        text: &str,
        options: Options,
        local_info: Option<&LocalInfo>,
    ) -> Result<Self, String> {
        Self::from_proto(&parser::parse(text)?, options, local_info)
    }

    /// Compiles a syntax tree.
    pub fn from_proto(
        expr: &pb::Expr,
        options: Options,
        local_info: Option<&LocalInfo>,
    ) -> Result<Self, String> {
        let root = Node::compile(expr, options)?;
        let node = local_info
            .filter(|_| root.asks_for_node())
            .map(|info| Box::new(NodeInfo::new(info)));
        Ok(Self { root, node })
    }

    /// What it comes to; none: it cannot be said, as where a header is missing.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>) -> Option<Value<'a>> {
        let activation = Activation {
            node: self.node.as_deref(),
            ..*activation
        };
        self.root.evaluate(&activation).ok()
    }

    /// Whether it comes to `true`.
    pub fn matches(&self, activation: &Activation<'_>) -> bool {
        matches!(self.evaluate(activation), Some(Value::Bool(true)))
    }
}
