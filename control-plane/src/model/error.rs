//! What is wrong with an input, and where.

use std::fmt;

use serde::Serialize;

/// One error of the input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
pub struct InputError {
    /// The file, relative to the directory.
    pub file: String,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: u32,
    /// The object and the field in it, such as `HTTPRoute default/shop: spec.rules[0].timeouts`; may be empty.
    pub field: String,
    /// What is wrong, and what is legal.
    pub reason: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            field,
            reason,
        } = self;
        out.write_str(file)?;
        if *line > 0 {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if !field.is_empty() {
            write!(out, "{field}: ")?;
        }
        out.write_str(reason)
    }
}
