//! Compares the schema with the descriptors that are inside an Envoy binary:
//! `ENVOY_BINARY=/path/to/envoy cargo test -p outrigger-proto --test envoy_descriptors -- --ignored --nocapture`

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a test; its lists are what it is for"
)]

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::schema::{Enum, Field, Kind, Message};
use prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

/// Packages that no configuration of ours can name: Envoy's internals, other protocols, extensions that are not on
/// our list. What is missing here is not missed.
const NOT_WANTED: &[&str] = &[
    "Envoy.",
    "cpp2sky",
    "envoy.Cookie",
    "envoy.HotRestart",
    "envoy.data.ai",
    "envoy.extensions.bootstrap.reverse_tunnel",
    "envoy.extensions.clusters.mcp_multicluster",
    "envoy.extensions.filters.http.ai_protocol_manager",
    "envoy.extensions.filters.http.mcp",
    "envoy.extensions.filters.network.ext_authz.ExtAuthzDecision",
    "envoy.extensions.filters.network.reverse_tunnel",
    "envoy.extensions.http.ai_filters",
    "envoy.extensions.http.injected_credentials.oauth2.OAuthResponse",
    "envoy.extensions.http_filters.oauth2",
    "envoy.extensions.router.route_specifiers.dynamic_modules",
    "envoy.extensions.transport_sockets.tls.handshakers.dynamic_modules",
    "envoy.source.",
    "envoy.type.ai",
    // Version 2 of the API, which nothing refers to.
    "envoy.type.DoubleRange",
    "envoy.type.FractionalPercent",
    "envoy.type.HashPolicy",
    "envoy.type.Int",
    "envoy.type.Percent",
    "envoy.type.SemanticVersion",
    "envoy.type.TokenBucket",
    "envoy.type.matcher.DoubleMatcher",
    "envoy.type.matcher.List",
    "envoy.type.matcher.MetadataMatcher",
    "envoy.type.matcher.NodeMatcher",
    "envoy.type.matcher.PathMatcher",
    "envoy.type.matcher.Regex",
    "envoy.type.matcher.StringMatcher",
    "envoy.type.matcher.StructMatcher",
    "envoy.type.matcher.ValueMatcher",
    "google.",
    "grpc.",
    "opentelemetry.",
    "pb.",
    "skywalking.",
    "source.",
    "tcmalloc.",
    "xds.annotations.",
    "zipkin.",
];

#[test]
#[ignore = "needs an Envoy binary, named by ENVOY_BINARY"]
fn the_schema_has_all_that_envoy_has() {
    let path = std::env::var_os("ENVOY_BINARY").expect("ENVOY_BINARY names an Envoy binary");
    let files = descriptors(&std::fs::read(path).expect("readable"));
    assert!(files.len() > 400, "only {} descriptors found", files.len());
    let mut comparison = Comparison::default();
    for file in files.values() {
        let package = file.package();
        file.message_type.iter().for_each(|message| {
            comparison.message(&format!("{package}.{}", message.name()), message)
        });
        file.enum_type
            .iter()
            .for_each(|kind| comparison.enumeration(&format!("{package}.{}", kind.name()), kind));
    }
    let (missed, other): (Vec<_>, Vec<_>) = comparison
        .missing
        .iter()
        .partition(|name| !NOT_WANTED.iter().any(|prefix| name.starts_with(prefix)));
    println!("Missing, and not wanted:");
    other.iter().for_each(|name| println!("  {name}"));
    println!("Not in this Envoy:");
    comparison
        .surplus
        .iter()
        .for_each(|name| println!("  {name}"));
    assert_eq!(missed, Vec::<&String>::new());
}

#[derive(Default)]
struct Comparison {
    missing: BTreeSet<String>,
    surplus: BTreeSet<String>,
}

impl Comparison {
    fn message(&mut self, name: &str, theirs: &DescriptorProto) {
        theirs
            .nested_type
            .iter()
            .for_each(|nested| self.message(&format!("{name}.{}", nested.name()), nested));
        theirs
            .enum_type
            .iter()
            .for_each(|kind| self.enumeration(&format!("{name}.{}", kind.name()), kind));
        let Some(ours) = Message::by_name(name) else {
            self.missing.insert(name.to_owned());
            return;
        };
        for field in &theirs.field {
            let number = u32::try_from(field.number()).expect("positive");
            let same = ours
                .field_by_number(number)
                .is_some_and(|ours| ours.name() == field.name() && is_same_type(ours, field));
            if !same {
                self.missing
                    .insert(format!("{name}.{} = {number}", field.name()));
            }
        }
        let known: Vec<_> = theirs
            .field
            .iter()
            .map(FieldDescriptorProto::number)
            .map(i32::cast_unsigned)
            .collect();
        self.surplus.extend(
            ours.fields()
                .filter(|field| !known.contains(&field.number()))
                .map(|field| format!("{name}.{}", field.name())),
        );
    }

    fn enumeration(&mut self, name: &str, theirs: &EnumDescriptorProto) {
        let Some(ours) = Enum::by_name(name) else {
            self.missing.insert(name.to_owned());
            return;
        };
        for value in &theirs.value {
            if ours
                .value_by_number(value.number())
                .is_none_or(|ours| ours.name() != value.name() && ours.number() != value.number())
            {
                self.missing
                    .insert(format!("{name}.{} = {}", value.name(), value.number()));
            }
        }
    }
}

fn is_same_type(ours: Field, theirs: &FieldDescriptorProto) -> bool {
    let same_kind = match (ours.kind(), theirs.r#type()) {
        (Kind::Message(message), Type::Message) => {
            theirs.type_name().strip_prefix('.') == Some(message.full_name())
        }
        (Kind::Enum(kind), Type::Enum) => {
            theirs.type_name().strip_prefix('.') == Some(kind.full_name())
        }
        (Kind::Message(_) | Kind::Enum(_), _) | (_, Type::Message | Type::Enum) => false,
        (kind, theirs) => format!("{kind:?}") == format!("{theirs:?}"),
    };
    same_kind && ours.is_repeated() == (theirs.label() == Label::Repeated)
}

/// Every file descriptor in a binary, by file name. C++ keeps each as one encoded message, and that begins with the
/// file's name.
fn descriptors(binary: &[u8]) -> BTreeMap<String, FileDescriptorProto> {
    const END: &[u8] = b".proto";
    let mut found = BTreeMap::new();
    let mut from = 0;
    while let Some(at) = binary[from..]
        .windows(END.len())
        .position(|window| window == END)
    {
        let end = from + at + END.len();
        from = end;
        for length in END.len()..=127.min(end.saturating_sub(2)) {
            let start = end - length - 2;
            if binary[start] == 0x0a && usize::from(binary[start + 1]) == length {
                if let Some(file) = decode(&binary[start..]).filter(|file| file.package.is_some()) {
                    found.entry(file.name().to_owned()).or_insert(file);
                }
                break;
            }
        }
    }
    found
}

/// Decodes a descriptor that ends where no further field of it begins.
fn decode(bytes: &[u8]) -> Option<FileDescriptorProto> {
    let (mut end, mut last) = (0, 0);
    while let Some((number, length)) = field(&bytes[end..]).filter(|(number, _)| {
        *number > last || (*number == last && matches!(last, 3..=7 | 10 | 11))
    }) {
        last = number;
        end += length;
    }
    FileDescriptorProto::decode(&bytes[..end]).ok()
}

/// Number and length of the field at the front, if it can be one of a file descriptor.
fn field(bytes: &[u8]) -> Option<(u64, usize)> {
    let (tag, tag_length) = varint(bytes)?;
    let (value, value_length) = varint(bytes.get(tag_length..)?)?;
    match (tag >> 3, tag & 7) {
        (number @ (1..=9 | 12), 2) => {
            let length = tag_length + value_length + usize::try_from(value).ok()?;
            (length <= bytes.len()).then_some((number, length))
        }
        (number @ (10 | 11 | 14), 0) => Some((number, tag_length + value_length)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}
