//! Matchers that configurations share: strings, regular expressions, headers, addresses, metadata.

mod cidr;
mod cookie;
mod header;
mod metadata;
mod query_parameter;
mod regex;
mod regex_rewrite;
mod string;
mod tree;
mod value;

pub use cidr::CidrRanges;
pub use cookie::{CookieMatcher, cookie_value};
pub use header::{HeaderKey, HeaderMatcher, HeaderSource};
pub use metadata::{MetadataMatcher, MetadataPath};
pub use query_parameter::{QueryParameterMatcher, first_query_value};
pub use regex::Regex;
pub use regex_rewrite::RegexRewrite;
pub use string::StringMatcher;
pub use tree::{DataInput, Matcher, MatchingData};
pub use value::{ValueMatcher, metadata_from_proto};
