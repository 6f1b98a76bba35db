//! What becomes of the `server` header, the scheme and the host.

use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::config::{ConfigPath, Rejected};

/// `server_name` and `server_header_transformation`.
pub struct ServerHeader {
    /// The value. Default `envoy`.
    pub name: Box<str>,
    /// When it is written.
    pub transformation: ServerHeaderTransformation,
}

/// When the `server` header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeaderTransformation {
    /// Always, in place of the upstream's.
    Overwrite,
    /// Where the upstream sent none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// `scheme_header_transformation`.
#[derive(Debug, Clone, Default)]
pub struct SchemeTransformation {
    /// The scheme that every request gets.
    pub overwrite: Option<Box<str>>,
    /// The scheme follows the upstream's transport socket.
    pub match_upstream: bool,
}

/// What is done to the host of a request before it is routed.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNormalization {
    /// `strip_matching_host_port`: the port goes if it is the listener's.
    pub strip_matching_port: bool,
    /// `strip_any_host_port`: the port goes.
    pub strip_any_port: bool,
    /// `strip_trailing_host_dot`.
    pub strip_trailing_dot: bool,
}

impl SchemeTransformation {
    pub(super) fn from_proto(
        proto: core::SchemeHeaderTransformation,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use core::scheme_header_transformation::Transformation;
        let core::SchemeHeaderTransformation {
            match_upstream,
            transformation,
        } = proto;
        let overwrite = match transformation {
            Some(Transformation::SchemeToOverwrite(scheme))
                if matches!(&*scheme, "http" | "https") =>
            {
                Some(scheme.into())
            }
            Some(Transformation::SchemeToOverwrite(scheme)) => {
                return Err(path
                    .field("scheme_to_overwrite")
                    .reject(format!("{scheme:?} is not one of \"http\", \"https\"")));
            }
            None => None,
        };
        Ok(Self {
            overwrite,
            match_upstream,
        })
    }
}
