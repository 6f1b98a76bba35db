//! From text to a syntax tree, as Envoy would have sent it.

mod lexer;

use lexer::{Lexer, Token};
use outrigger_proto::pb::google::api::expr::v1alpha1 as pb;
use pb::constant::ConstantKind;
use pb::expr::create_struct::Entry;
use pb::expr::create_struct::entry::KeyKind;
use pb::expr::{Call, CreateList, CreateStruct, ExprKind, Ident, Select};

/// How deep expressions may nest.
pub(super) const MAX_DEPTH: usize = 96;

/// How many operands `&&` or `||` may link.
const MAX_OPERANDS: usize = 4096;

/// Parses an expression; the error says where it is wrong.
pub(super) fn parse(text: &str) -> Result<pb::Expr, String> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        next: Token::End,
        depth: 0,
    };
    parser.advance()?;
    let expr = parser.expression()?;
    match parser.next {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("the end")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token,
    depth: usize,
}

/// Binary operators, those that bind least first, with the names of their functions.
const LEVELS: &[&[(&str, &str)]] = &[
    &[("||", "_||_")],
    &[("&&", "_&&_")],
    &[
        ("<", "_<_"),
        ("<=", "_<=_"),
        (">", "_>_"),
        (">=", "_>=_"),
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, String> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(&self.next, Token::Symbol(found) if *found == symbol)
    }

    fn take(&mut self, symbol: &str) -> Result<bool, String> {
        let found = self.is(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.take(symbol)? {
            Ok(())
        } else {
            Err(self.unexpected(&format!("'{symbol}'")))
        }
    }

    fn unexpected(&self, wanted: &str) -> String {
        let at = self.lexer.start();
        format!("column {}: {} where {wanted} should be", at + 1, self.next)
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nests more than {MAX_DEPTH} times"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&mut self) -> Result<pb::Expr, String> {
        self.deeper(|parser| {
            let condition = parser.binary(0)?;
            if !parser.take("?")? {
                return Ok(condition);
            }
            let yes = parser.binary(0)?;
            parser.expect(":")?;
            let no = parser.expression()?;
            Ok(call("_?_:_", None, vec![condition, yes, no]))
        })
    }

    fn binary(&mut self, level: usize) -> Result<pb::Expr, String> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let first = self.binary(level + 1)?;
        // Long lists of alternatives and conditions are usual, and their order within the tree does not matter.
        let is_decision = level < 2;
        let most = if is_decision { MAX_OPERANDS } else { MAX_DEPTH };
        let mut operands = vec![first];
        let mut function = "";
        let mut links = 0;
        while let Some((_, found)) = operators.iter().find(|(symbol, _)| self.is(symbol)) {
            links += 1;
            if links > most {
                return Err(format!("links more than {most} operators"));
            }
            self.advance()?;
            let right = self.binary(level + 1)?;
            function = found;
            match operands.pop() {
                Some(left) if !is_decision => operands.push(call(found, None, vec![left, right])),
                left => operands.extend(left.into_iter().chain([right])),
            }
        }
        Ok(balanced(function, operands))
    }

    fn unary(&mut self) -> Result<pb::Expr, String> {
        let function = if self.is("!") {
            "!_"
        } else if self.is("-") {
            "-_"
        } else {
            let primary = self.primary()?;
            return self.member(primary);
        };
        self.advance()?;
        if function == "-_"
            && let Token::Int(_) | Token::Double(_) = self.next
        {
            // The sign belongs to the number, whose range reaches further below zero than above.
            let number = self.number(true)?;
            return self.member(number);
        }
        let operand = self.deeper(Self::unary)?;
        Ok(call(function, None, vec![operand]))
    }

    fn number(&mut self, negative: bool) -> Result<pb::Expr, String> {
        let range = || "a number is too large".to_owned();
        Ok(constant(match self.advance()? {
            Token::Int(number) => {
                let number = i128::from(number) * if negative { -1 } else { 1 };
                ConstantKind::Int64Value(i64::try_from(number).map_err(|_| range())?)
            }
            Token::Double(number) => {
                ConstantKind::DoubleValue(if negative { -number } else { number })
            }
            other => return Err(format!("{other} where a number should be")),
        }))
    }

    fn primary(&mut self) -> Result<pb::Expr, String> {
        if let Token::Int(_) | Token::Double(_) = self.next {
            return self.number(false);
        }
        if self.take("(")? {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take("[")? {
            let elements = self.list("]")?;
            return Ok(expr(ExprKind::ListExpr(CreateList {
                elements,
                optional_indices: Vec::new(),
            })));
        }
        if self.take("{")? {
            return self.map();
        }
        let rooted = self.take(".")?;
        if !rooted {
            let constant_kind = match &self.next {
                Token::Uint(number) => Some(ConstantKind::Uint64Value(*number)),
                Token::String(text) => Some(ConstantKind::StringValue(text.clone())),
                Token::Bytes(bytes) => Some(ConstantKind::BytesValue(bytes.clone())),
                Token::Name(name) => match name.as_str() {
                    "true" => Some(ConstantKind::BoolValue(true)),
                    "false" => Some(ConstantKind::BoolValue(false)),
                    "null" => Some(ConstantKind::NullValue(0)),
                    _ => None,
                },
                _ => None,
            };
            if let Some(kind) = constant_kind {
                self.advance()?;
                return Ok(constant(kind));
            }
        }
        let name = self.name()?;
        if RESERVED.contains(&name.as_str()) {
            return Err(format!("'{name}' is a reserved word"));
        }
        if self.take("(")? {
            let args = self.list(")")?;
            return macro_or_call(&name, None, args);
        }
        Ok(expr(ExprKind::IdentExpr(Ident { name })))
    }

    fn name(&mut self) -> Result<String, String> {
        match &self.next {
            Token::Name(_) => match self.advance()? {
                Token::Name(name) => Ok(name),
                other => Err(other.to_string()),
            },
            _ => Err(self.unexpected("a value")),
        }
    }

    /// What follows a value: `.field`, `.call(…)`, `[index]`.
    fn member(&mut self, mut value: pb::Expr) -> Result<pb::Expr, String> {
        let mut links = 0;
        loop {
            links += 1;
            if links > MAX_DEPTH {
                return Err(format!("links more than {MAX_DEPTH} parts"));
            }
            if self.take(".")? {
                let name = self.name()?;
                value = if self.take("(")? {
                    let args = self.list(")")?;
                    macro_or_call(&name, Some(value), args)?
                } else {
                    select(value, name, false)
                };
            } else if self.take("[")? {
                let index = self.expression()?;
                self.expect("]")?;
                value = call("_[_]", None, vec![value, index]);
            } else if self.is("{")
                && let Some(name) = name_of(&value)
            {
                self.advance()?;
                value = self.message(name)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// Expressions separated by commas, up to `end`.
    fn list(&mut self, end: &str) -> Result<Vec<pb::Expr>, String> {
        let mut elements = Vec::new();
        while !self.take(end)? {
            elements.push(self.expression()?);
            if !self.take(",")? {
                self.expect(end)?;
                break;
            } else if end == ")" && self.is(end) {
                return Err(self.unexpected("an argument"));
            }
        }
        Ok(elements)
    }

    fn map(&mut self) -> Result<pb::Expr, String> {
        self.entries(String::new(), |parser| {
            parser.expression().map(KeyKind::MapKey)
        })
    }

    fn message(&mut self, name: String) -> Result<pb::Expr, String> {
        self.entries(name, |parser| parser.name().map(KeyKind::FieldKey))
    }

    /// What stands between braces, the first of which has been read.
    fn entries(
        &mut self,
        message_name: String,
        key: impl Fn(&mut Self) -> Result<KeyKind, String>,
    ) -> Result<pb::Expr, String> {
        let mut entries = Vec::new();
        while !self.take("}")? {
            let key = key(self)?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry {
                id: 0,
                value: Some(value),
                optional_entry: false,
                key_kind: Some(key),
            });
            if !self.take(",")? {
                self.expect("}")?;
                break;
            }
        }
        Ok(expr(ExprKind::StructExpr(CreateStruct {
            message_name,
            entries,
        })))
    }
}

const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// A tree of operands, as flat as can be.
fn balanced(function: &str, mut operands: Vec<pb::Expr>) -> pb::Expr {
    while operands.len() > 1 {
        let mut pairs = operands.into_iter();
        let mut next = Vec::with_capacity(pairs.len().div_ceil(2));
        while let Some(left) = pairs.next() {
            next.push(match pairs.next() {
                Some(right) => call(function, None, vec![left, right]),
                None => left,
            });
        }
        operands = next;
    }
    operands.pop().unwrap_or_default()
}

/// What it says, if it is a name, of one word or several.
fn name_of(value: &pb::Expr) -> Option<String> {
    match &value.expr_kind {
        Some(ExprKind::IdentExpr(ident)) => Some(ident.name.clone()),
        Some(ExprKind::SelectExpr(select)) if !select.test_only => {
            let operand = select.operand.as_deref().and_then(name_of)?;
            Some(format!("{operand}.{}", select.field))
        }
        _ => None,
    }
}

fn macro_or_call(
    name: &str,
    target: Option<pb::Expr>,
    mut args: Vec<pb::Expr>,
) -> Result<pb::Expr, String> {
    match (name, &target, args.len()) {
        ("has", None, 1) => match args.pop().and_then(|arg| arg.expr_kind) {
            Some(ExprKind::SelectExpr(select)) if !select.test_only => {
                let test = Select {
                    test_only: true,
                    ..*select
                };
                Ok(expr(ExprKind::SelectExpr(Box::new(test))))
            }
            _ => Err("has() needs a field: has(a.b)".to_owned()),
        },
        ("all" | "exists" | "exists_one" | "existsOne" | "filter", Some(_), 2)
        | ("map", Some(_), 2 | 3) => Err("Comprehension support is disabled".to_owned()),
        _ => Ok(call(name, target, args)),
    }
}

fn expr(kind: ExprKind) -> pb::Expr {
    pb::Expr {
        id: 0,
        expr_kind: Some(kind),
    }
}

fn constant(kind: ConstantKind) -> pb::Expr {
    expr(ExprKind::ConstExpr(pb::Constant {
        constant_kind: Some(kind),
    }))
}

fn select(operand: pb::Expr, field: String, test_only: bool) -> pb::Expr {
    expr(ExprKind::SelectExpr(Box::new(Select {
        operand: Some(Box::new(operand)),
        field,
        test_only,
    })))
}

fn call(function: &str, target: Option<pb::Expr>, args: Vec<pb::Expr>) -> pb::Expr {
    expr(ExprKind::CallExpr(Box::new(Call {
        target: target.map(Box::new),
        function: function.to_owned(),
        args,
    })))
}
