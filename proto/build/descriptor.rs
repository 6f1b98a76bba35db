//! Google's `descriptor.proto`, as far as the schema needs it. Options stay encoded, because the extensions in them
//! (`validate.rules`, `envoy.annotations`) are read as bytes.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub(crate) file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct File {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) package: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) messages: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) enums: Vec<EnumType>,
    #[prost(string, tag = "12")]
    pub(crate) syntax: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) fields: Vec<Field>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nested: Vec<MessageType>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) enums: Vec<EnumType>,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) options: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) oneofs: Vec<Oneof>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Field {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "3")]
    pub(crate) number: i32,
    /// 1 optional, 2 required, 3 repeated.
    #[prost(int32, tag = "4")]
    pub(crate) label: i32,
    /// `FieldDescriptorProto.Type`.
    #[prost(int32, tag = "5")]
    pub(crate) kind: i32,
    #[prost(string, tag = "6")]
    pub(crate) type_name: String,
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) options: Vec<u8>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) oneof: Option<i32>,
    #[prost(string, tag = "10")]
    pub(crate) json_name: String,
    #[prost(bool, tag = "17")]
    pub(crate) proto3_optional: bool,
    /// Not in Google's message: set for fields that the types of `envoy-types` do not have.
    #[prost(bool, tag = "100000")]
    pub(crate) patched: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Oneof {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) options: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumType {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) values: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumValue {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) number: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) options: Vec<u8>,
}

impl File {
    /// `name` inside this file's package, fully qualified, without a leading dot.
    pub(crate) fn qualify(&self, name: &str) -> String {
        if self.package.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.package)
        }
    }
}
