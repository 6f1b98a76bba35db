//! Matchers that configurations share: strings and regular expressions.

mod regex;
mod string;

pub use regex::Regex;
pub use string::StringMatcher;
