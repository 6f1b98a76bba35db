//! The configuration of a compressor, of the filter and of a route.

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3::RuntimeFeatureFlag;
use outrigger_proto::pb::envoy::extensions::filters::http::compressor::v3 as pb;
use pb::compressor::{CommonDirectionConfig, RequestDirectionConfig, ResponseDirectionConfig};
use pb::compressor_per_route::Override;

use crate::compression::CompressorLibrary;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, Known};
use crate::matchers::StringMatcher;
use crate::runtime::{Runtime, RuntimeFlag};
use crate::server::FactoryContext;

crate::stats_group! {
    /// What the filter makes of what clients take, and of etags.
    pub(super) struct Stats {
        counter header_compressor_overshadowed;
        counter header_compressor_used;
        counter header_identity;
        counter header_not_valid;
        counter header_wildcard;
        counter no_accept_header;
        counter not_compressed_etag;
    }
}

crate::stats_group! {
    /// What the filter does in one direction.
    pub(super) struct DirectionStats {
        counter compressed;
        counter content_length_too_small;
        counter not_compressed;
        counter total_compressed_bytes;
        counter total_uncompressed_bytes;
    }
}

/// A configured compressor.
pub(super) struct Config {
    pub(super) library: CompressorLibrary,
    /// None: requests pass.
    pub(super) request: Option<Direction>,
    pub(super) response: Direction,
    /// Responses with an etag pass.
    disable_on_etag_header: bool,
    pub(super) weaken_etag_on_compress: bool,
    remove_accept_encoding_header: bool,
    pub(super) uncompressible_response_codes: HashSet<u16>,
    pub(super) status_header_enabled: bool,
    /// Wins where the client gives several encodings one weight.
    pub(super) choose_first: bool,
    pub(super) stats: Stats,
    pub(super) request_stats: DirectionStats,
    pub(super) response_stats: DirectionStats,
}

/// What is packed in one direction.
pub(super) struct Direction {
    pub(super) enabled: RuntimeFlag,
    /// In bytes, default 30.
    pub(super) min_content_length: u32,
    pub(super) content_types: Arc<ContentTypes>,
    pub(super) stats: DirectionStats,
}

/// Content types that are worth it.
#[derive(Debug)]
pub(super) enum ContentTypes {
    /// In lower case; they are found in any case.
    Listed(HashSet<Box<[u8]>>),
    Matched(Box<[StringMatcher]>),
}

const USUAL_CONTENT_TYPES: [&str; 19] = [
    "application/ecmascript",
    "application/grpc-web",
    "application/javascript",
    "application/json",
    "application/x-javascript",
    "application/x-json",
    "application/xhtml+xml",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/ecmascript",
    "text/html",
    "text/javascript",
    "text/js",
    "text/jscript",
    "text/plain",
    "text/x-javascript",
    "text/x-js",
    "text/xml",
];

/// What a route says.
#[derive(Debug)]
pub(super) enum PerRoute {
    /// Responses pass.
    Disabled,
    Overrides {
        /// Responses are packed, whatever the filter says.
        enabled: bool,
        remove_accept_encoding_header: Option<bool>,
        library: Option<CompressorLibrary>,
    },
}

/// The part of both directions.
struct Common {
    enabled: RuntimeFlag,
    min_content_length: u32,
    content_types: Arc<ContentTypes>,
}

impl Config {
    pub(super) fn from_proto(
        proto: pb::Compressor,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "the older fields are still in use")]
        let pb::Compressor {
            content_length,
            content_type,
            disable_on_etag_header,
            remove_accept_encoding_header,
            runtime_enabled,
            compressor_library,
            request_direction_config,
            response_direction_config,
            choose_first,
        } = proto;
        let runtime = &cx.server.runtime;
        let library = path
            .required("compressor_library", compressor_library)
            .and_then(|l| CompressorLibrary::from_proto(l, &path.field("compressor_library")));
        let request = path.optional(
            "request_direction_config",
            request_direction_config,
            |proto, path| {
                let RequestDirectionConfig { common_config } = proto;
                Common::from_proto(common_config, runtime, &path.field("common_config"))
            },
        );
        let (response, common, word) = match response_direction_config {
            Some(mut response) => {
                let path = path.field("response_direction_config");
                let common = response.common_config.take();
                let path = path.field("common_config");
                (
                    response,
                    Common::from_proto(common, runtime, &path),
                    "response.",
                )
            }
            // The older fields count where the message is not there.
            None => {
                let common = Common {
                    enabled: runtime_flag(
                        runtime_enabled,
                        runtime,
                        &path.field("runtime_enabled"),
                    )?,
                    min_content_length: content_length.map_or(30, |length| length.value),
                    content_types: Arc::new(ContentTypes::listed(content_type)),
                };
                let response = ResponseDirectionConfig {
                    disable_on_etag_header,
                    remove_accept_encoding_header,
                    ..Default::default()
                };
                (response, Ok(common), "")
            }
        };
        let ResponseDirectionConfig {
            common_config: _,
            disable_on_etag_header,
            weaken_etag_on_compress,
            remove_accept_encoding_header,
            uncompressible_response_codes,
            status_header_enabled,
        } = response;
        let (request, common) = (request?, common?);
        let (name, library) = library?;
        let scope = cx
            .scope
            .scope(&format!("compressor.{name}.{}.", library.stats_name()));
        let request_stats = DirectionStats::new(&scope.scope("request."));
        let response_stats = DirectionStats::new(&scope.scope(word));
        // The API takes 200..=599 only.
        let codes = uncompressible_response_codes.into_iter();
        Ok(Self {
            library,
            request: request.map(|common| common.direction(&request_stats)),
            response: common.direction(&response_stats),
            disable_on_etag_header: disable_on_etag_header && !weaken_etag_on_compress,
            weaken_etag_on_compress,
            remove_accept_encoding_header,
            uncompressible_response_codes: codes.filter_map(|c| c.try_into().ok()).collect(),
            status_header_enabled,
            choose_first,
            stats: Stats::new(&scope),
            request_stats,
            response_stats,
        })
    }

    /// Whether responses are packed on this route.
    pub(super) fn response_enabled(&self, route: Option<&PerRoute>) -> bool {
        match route {
            Some(PerRoute::Disabled) => false,
            Some(PerRoute::Overrides { enabled: true, .. }) => true,
            Some(PerRoute::Overrides { .. }) | None => self.response.enabled.get(),
        }
    }

    /// Whether the upstream is not to see what the client takes.
    pub(super) fn removes_accept_encoding(&self, route: Option<&PerRoute>) -> bool {
        match route {
            Some(PerRoute::Overrides {
                remove_accept_encoding_header: Some(remove),
                ..
            }) => *remove,
            _ => self.remove_accept_encoding_header,
        }
    }

    /// Whether a response passes because of its etag.
    pub(super) fn disables_on_etag(&self, fields: &Fields) -> bool {
        self.disable_on_etag_header && fields.contains("etag")
    }
}

impl Common {
    fn from_proto(
        proto: Option<CommonDirectionConfig>,
        runtime: &Runtime,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "the older list is still in use")]
        let CommonDirectionConfig {
            enabled,
            min_content_length,
            content_type,
            content_type_matcher,
        } = proto.unwrap_or_default();
        let enabled = runtime_flag(enabled, runtime, &path.field("enabled"));
        let matchers = path.each(
            "content_type_matcher",
            content_type_matcher,
            StringMatcher::from_proto,
        )?;
        Ok(Self {
            enabled: enabled?,
            min_content_length: min_content_length.map_or(30, |length| length.value),
            content_types: Arc::new(match matchers.is_empty() {
                true => ContentTypes::listed(content_type),
                false => ContentTypes::Matched(matchers.into()),
            }),
        })
    }

    fn direction(self, stats: &DirectionStats) -> Direction {
        Direction {
            enabled: self.enabled,
            min_content_length: self.min_content_length,
            content_types: self.content_types,
            stats: stats.clone(),
        }
    }
}

fn runtime_flag(
    proto: Option<RuntimeFeatureFlag>,
    runtime: &Runtime,
    path: &ConfigPath<'_>,
) -> Result<RuntimeFlag, Rejected> {
    match proto {
        Some(proto) => RuntimeFlag::from_proto(proto, runtime, path),
        None => Ok(runtime.flag("", true)),
    }
}

impl Direction {
    /// Whether a message is worth it by its content type; one that says none is.
    pub(super) fn takes_content_type(&self, fields: &Fields) -> bool {
        fields
            .get(Known::ContentType)
            .is_none_or(|value| self.content_types.take(value))
    }
}

impl ContentTypes {
    /// These, or the usual ones.
    pub(super) fn listed(types: impl IntoIterator<Item = String>) -> Self {
        let lower = |name: String| name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        let mut listed: HashSet<_> = types.into_iter().map(lower).collect();
        if listed.is_empty() {
            listed.extend(USUAL_CONTENT_TYPES.map(|name| name.as_bytes().into()));
        }
        Self::Listed(listed)
    }

    /// Whether a `content-type` is among them. Its parameters do not count.
    pub(super) fn take(&self, value: &[u8]) -> bool {
        let name = value.split(|b| *b == b';').next().unwrap_or_default();
        let name = name.trim_ascii();
        match self {
            Self::Listed(types) if !name.iter().any(u8::is_ascii_uppercase) => types.contains(name),
            Self::Listed(types) => types.contains(&*name.to_ascii_lowercase()),
            Self::Matched(matchers) => matchers.iter().any(|matcher| matcher.matches(name)),
        }
    }
}

impl PerRoute {
    pub(super) fn from_proto(
        proto: pb::CompressorPerRoute,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CompressorPerRoute { r#override } = proto;
        match path.required("override", r#override)? {
            Override::Disabled(true) => Ok(Self::Disabled),
            Override::Disabled(false) => Err(path.field("disabled").reject("must be true")),
            Override::Overrides(overrides) => {
                let pb::CompressorOverrides {
                    response_direction_config,
                    compressor_library,
                } = overrides;
                let path = path.field("overrides");
                let library = path.optional("compressor_library", compressor_library, |l, path| {
                    // Its stats are those of the filter.
                    CompressorLibrary::from_proto(l, path).map(|(_, library)| library)
                });
                let response = response_direction_config.map(|response| {
                    let pb::ResponseDirectionOverrides {
                        remove_accept_encoding_header,
                    } = response;
                    remove_accept_encoding_header.map(|remove| remove.value)
                });
                Ok(Self::Overrides {
                    enabled: response.is_some(),
                    remove_accept_encoding_header: response.flatten(),
                    library: library?,
                })
            }
        }
    }

    /// The library of the route, if it has one of its own.
    pub(super) fn library(&self) -> Option<&CompressorLibrary> {
        match self {
            Self::Overrides { library, .. } => library.as_ref(),
            Self::Disabled => None,
        }
    }
}
