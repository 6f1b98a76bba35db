//! An expression, compiled: names are looked up, constants are made.

use std::borrow::Cow;

use outrigger_proto::pb::google::api::expr::v1alpha1 as pb;
use outrigger_proto::pb::google::protobuf::{Duration, Timestamp};
use pb::constant::ConstantKind;
use pb::expr::create_struct::Entry;
use pb::expr::create_struct::entry::KeyKind;
use pb::expr::{Call, CreateList, CreateStruct, ExprKind, Select};

use super::attributes::{Attribute, Root};
use super::functions::Function;
use super::messages::WellKnown;
use super::operators::{Arithmetic, Comparison};
use super::parser::MAX_DEPTH;
use super::value::Value;
use super::{Options, time};
use crate::matchers::{HeaderKey, Regex};

/// A part of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Constant),
    Root(Root),
    Attribute(Attribute),
    /// `request.headers['x']`.
    Header(HeaderKey),
    /// A name that nothing has.
    Unknown,
    Select(Box<Node>, Box<str>),
    /// `has(a.b)`.
    Has(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Conditional(Box<[Node; 3]>),
    /// `==`; `!=` where it is turned around.
    Equal(Box<[Node; 2]>, bool),
    Compare(Comparison, Box<[Node; 2]>),
    Arithmetic {
        operator: Arithmetic,
        operands: Box<[Node; 2]>,
        joins_strings: bool,
    },
    In(Box<[Node; 2]>),
    /// `matches` with a pattern that is known.
    Matches(Box<Node>, Regex),
    Call(Function, Box<[Node]>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    /// A message, with its fields.
    Message(WellKnown, Box<[(&'static str, Node)]>),
}

/// A value that stands in the expression.
#[derive(Debug)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    Duration(i128),
    Timestamp(i128),
    Type(&'static str),
}

impl Constant {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(number) => Value::Int(*number),
            Self::Uint(number) => Value::Uint(*number),
            Self::Double(number) => Value::Double(*number),
            Self::String(text) => Value::text(text),
            Self::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
            Self::Duration(nanos) => Value::Duration(*nanos),
            Self::Timestamp(nanos) => Value::Timestamp(*nanos),
            Self::Type(name) => Value::Type(name),
        }
    }
}

impl Node {
    pub(super) fn compile(expr: &pb::Expr, options: Options) -> Result<Self, String> {
        Compiler { options }.node(expr, MAX_DEPTH * 2)
    }

    /// Whether `xds.node` may be asked for.
    pub(super) fn asks_for_node(&self) -> bool {
        let any = |nodes: &[Self]| nodes.iter().any(Self::asks_for_node);
        match self {
            Self::Root(root) => *root == Root::Xds,
            Self::Attribute(attribute) => Attribute::parse(Root::Xds, "node") == Some(*attribute),
            Self::Constant(_) | Self::Header(_) | Self::Unknown => false,
            Self::Select(node, _)
            | Self::Has(node, _)
            | Self::Not(node)
            | Self::Negate(node)
            | Self::Matches(node, _) => node.asks_for_node(),
            Self::Index(nodes)
            | Self::And(nodes)
            | Self::Or(nodes)
            | Self::Equal(nodes, _)
            | Self::Compare(_, nodes)
            | Self::In(nodes)
            | Self::Arithmetic {
                operands: nodes, ..
            } => any(&nodes[..]),
            Self::Conditional(nodes) => any(&nodes[..]),
            Self::Call(_, nodes) | Self::List(nodes) => any(nodes),
            Self::Map(entries) => entries
                .iter()
                .any(|(key, value)| key.asks_for_node() || value.asks_for_node()),
            Self::Message(_, fields) => fields.iter().any(|(_, value)| value.asks_for_node()),
        }
    }
}

struct Compiler {
    options: Options,
}

impl Compiler {
    fn node(&self, expr: &pb::Expr, depth: usize) -> Result<Node, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err("nests too deep".to_owned());
        };
        let pb::Expr {
            // Harmless: by which errors and source positions find it.
            id: _,
            expr_kind,
        } = expr;
        match expr_kind.as_ref().ok_or("has an empty expression")? {
            ExprKind::ConstExpr(value) => constant(value).map(Node::Constant),
            ExprKind::IdentExpr(ident) => Ok(identifier(&ident.name)),
            ExprKind::SelectExpr(select) => self.select(select, depth),
            ExprKind::CallExpr(call) => self.call(call, depth),
            ExprKind::ListExpr(CreateList {
                elements,
                optional_indices,
            }) => {
                if !optional_indices.is_empty() {
                    return Err("optional values are not known".to_owned());
                }
                self.nodes(elements, depth).map(Node::List)
            }
            ExprKind::StructExpr(map) => self.map(map, depth),
            ExprKind::ComprehensionExpr(_) => Err("Comprehension support is disabled".to_owned()),
        }
    }

    fn nodes(&self, exprs: &[pb::Expr], depth: usize) -> Result<Box<[Node]>, String> {
        exprs.iter().map(|expr| self.node(expr, depth)).collect()
    }

    fn select(&self, select: &Select, depth: usize) -> Result<Node, String> {
        let Select {
            operand,
            field,
            test_only,
        } = select;
        let operand = operand.as_deref().ok_or("a field is selected of nothing")?;
        if let Some(name) = qualified(operand)
            && let Some(known) = type_name(&format!("{name}.{field}"))
        {
            return Ok(Node::Constant(Constant::Type(known)));
        }
        let operand = self.node(operand, depth)?;
        if *test_only {
            return Ok(Node::Has(Box::new(operand), field.as_str().into()));
        }
        Ok(member(operand, field))
    }

    fn map(&self, map: &CreateStruct, depth: usize) -> Result<Node, String> {
        let CreateStruct {
            message_name,
            entries,
        } = map;
        if !message_name.is_empty() {
            return self.message(message_name, entries, depth);
        }
        let entries = entries
            .iter()
            .map(|entry| match (&entry.key_kind, &entry.value) {
                (Some(KeyKind::MapKey(key)), Some(value)) if !entry.optional_entry => {
                    Ok((self.node(key, depth)?, self.node(value, depth)?))
                }
                _ => Err("a map needs keys and values".to_owned()),
            });
        entries.collect::<Result<_, _>>().map(Node::Map)
    }

    fn message(&self, name: &str, entries: &[Entry], depth: usize) -> Result<Node, String> {
        let Some(message) = WellKnown::parse(name) else {
            return Err(format!(
                "messages of the type '{name}' cannot be made: only those of google.protobuf for Duration, Timestamp, \
                 wrappers, Struct, Value and ListValue"
            ));
        };
        let fields = entries
            .iter()
            .map(|entry| match (&entry.key_kind, &entry.value) {
                (Some(KeyKind::FieldKey(field)), Some(value)) if !entry.optional_entry => {
                    let field = message.field(field).ok_or_else(|| {
                        format!("Invalid message creation: field '{field}' not found in '{name}'")
                    })?;
                    Ok((field, self.node(value, depth)?))
                }
                _ => Err("a message needs fields and values".to_owned()),
            });
        let fields = fields.collect::<Result<_, _>>()?;
        Ok(Node::Message(message, fields))
    }

    fn call(&self, call: &Call, depth: usize) -> Result<Node, String> {
        let Call {
            target,
            function,
            args,
        } = call;
        let is_method = target.is_some();
        let operands = target.as_deref().into_iter().chain(args);
        let operands: Vec<_> = operands
            .map(|expr| self.node(expr, depth))
            .collect::<Result<_, _>>()?;
        let count = operands.len();
        let unknown = || format!("No overload found in reference resolve step for {function}");
        if !is_method && let Some(operator) = self.operator(function, operands.len()) {
            return operator.apply(operands).ok_or_else(unknown);
        }
        let known = Function::find(function, is_method, count, self.options);
        let known = known.ok_or_else(unknown)?;
        let name = target.as_deref().and_then(qualified);
        if known
            .library()
            .is_some_and(|library| name.as_deref() != Some(library))
        {
            return Err(unknown());
        }
        if known == Function::Matches
            && let [_, Node::Constant(Constant::String(pattern))] = &operands[..]
        {
            let regex = Regex::new(pattern)
                .map_err(|error| format!("invalid regular expression: {error}"))?;
            let subject = operands.into_iter().next().map(Box::new);
            return subject
                .map(|subject| Node::Matches(subject, regex))
                .ok_or_else(unknown);
        }
        Ok(Node::Call(known, operands.into()))
    }

    fn operator(&self, function: &str, count: usize) -> Option<Operator> {
        let joins_strings = self.options.string_concat;
        let operator = match (function, count) {
            ("!_", 1) => Operator::One(|node| Node::Not(Box::new(node))),
            ("-_", 1) => Operator::One(|node| Node::Negate(Box::new(node))),
            ("_&&_", 2) => Operator::Two(Box::new(Node::And)),
            ("_||_", 2) => Operator::Two(Box::new(Node::Or)),
            ("_==_", 2) => Operator::Two(Box::new(|nodes| Node::Equal(nodes, true))),
            ("_!=_", 2) => Operator::Two(Box::new(|nodes| Node::Equal(nodes, false))),
            ("@in" | "_in_" | "in", 2) => Operator::Two(Box::new(Node::In)),
            ("_[_]", 2) => Operator::Two(Box::new(index)),
            ("_?_:_", 3) => Operator::Three,
            (_, 2) => {
                if let Some(comparison) = Comparison::parse(function) {
                    return Some(Operator::Two(Box::new(move |nodes| {
                        Node::Compare(comparison, nodes)
                    })));
                }
                let operator = Arithmetic::parse(function)?;
                Operator::Two(Box::new(move |operands| Node::Arithmetic {
                    operator,
                    operands,
                    joins_strings,
                }))
            }
            _ => return None,
        };
        Some(operator)
    }
}

/// How an operator becomes a node.
enum Operator {
    One(fn(Node) -> Node),
    Two(Box<dyn Fn(Box<[Node; 2]>) -> Node>),
    Three,
}

impl Operator {
    fn apply(self, operands: Vec<Node>) -> Option<Node> {
        Some(match self {
            Self::One(make) => make(operands.into_iter().next()?),
            Self::Two(make) => {
                let operands: [Node; 2] = operands.try_into().ok()?;
                make(Box::new(operands))
            }
            Self::Three => {
                let operands: [Node; 3] = operands.try_into().ok()?;
                Node::Conditional(Box::new(operands))
            }
        })
    }
}

fn identifier(name: &str) -> Node {
    let name = name.trim_start_matches('.');
    match (Root::parse(name), type_name(name)) {
        (Some(root), _) => Node::Root(root),
        (None, Some(known)) => Node::Constant(Constant::Type(known)),
        (None, None) => Node::Unknown,
    }
}

/// The name `a.b` that a chain of fields makes.
fn qualified(expr: &pb::Expr) -> Option<String> {
    match expr.expr_kind.as_ref()? {
        ExprKind::IdentExpr(ident) => Some(ident.name.clone()),
        ExprKind::SelectExpr(select) if !select.test_only => {
            let operand = qualified(select.operand.as_deref()?)?;
            Some(format!("{operand}.{}", select.field))
        }
        _ => None,
    }
}

fn type_name(name: &str) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "bool",
        "bytes",
        "double",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
    ];
    NAMES.iter().find(|known| **known == name).copied()
}

/// `operand.field`, which for attributes and headers is known now.
fn member(operand: Node, field: &str) -> Node {
    match operand {
        Node::Root(root) if root != Root::Metadata && !is_filter_state(root) => {
            Attribute::parse(root, field).map_or(Node::Unknown, Node::Attribute)
        }
        Node::Attribute(attribute)
            if Attribute::parse(Root::Request, "headers") == Some(attribute) =>
        {
            Node::Header(HeaderKey::new(field))
        }
        operand => Node::Select(Box::new(operand), field.into()),
    }
}

fn is_filter_state(root: Root) -> bool {
    matches!(root, Root::FilterState | Root::UpstreamFilterState)
}

/// `operand[key]`: with a text that is known it is as good as a field, but of messages.
fn index(nodes: Box<[Node; 2]>) -> Node {
    let is_map = match &nodes[0] {
        Node::Root(root) => *root != Root::Metadata,
        Node::Attribute(attribute) => {
            Attribute::parse(Root::Request, "headers") == Some(*attribute)
        }
        _ => false,
    };
    let key = match &nodes[1] {
        Node::Constant(Constant::String(key)) if is_map => Some(key.clone()),
        _ => None,
    };
    match key {
        Some(key) => {
            let [operand, _] = *nodes;
            member(operand, &key)
        }
        None => Node::Index(nodes),
    }
}

fn constant(constant: &pb::Constant) -> Result<Constant, String> {
    let seconds =
        |seconds: i64, nanos: i32| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let out_of_range = || "a time is out of range".to_owned();
    #[allow(deprecated, reason = "old trees have constants of these kinds")]
    Ok(
        match constant
            .constant_kind
            .as_ref()
            .ok_or("a constant is empty")?
        {
            ConstantKind::NullValue(_) => Constant::Null,
            ConstantKind::BoolValue(value) => Constant::Bool(*value),
            ConstantKind::Int64Value(value) => Constant::Int(*value),
            ConstantKind::Uint64Value(value) => Constant::Uint(*value),
            ConstantKind::DoubleValue(value) => Constant::Double(*value),
            ConstantKind::StringValue(text) => Constant::String(text.as_str().into()),
            ConstantKind::BytesValue(bytes) => Constant::Bytes(bytes.as_slice().into()),
            ConstantKind::DurationValue(Duration { seconds: s, nanos }) => {
                Constant::Duration(time::duration(seconds(*s, *nanos)).ok_or_else(out_of_range)?)
            }
            ConstantKind::TimestampValue(Timestamp { seconds: s, nanos }) => {
                Constant::Timestamp(time::timestamp(seconds(*s, *nanos)).ok_or_else(out_of_range)?)
            }
        },
    )
}
