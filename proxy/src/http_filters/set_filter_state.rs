//! `envoy.filters.http.set_filter_state`: leaves objects for other filters, made of the request.
//!
//! Type URLs: `envoy.extensions.filters.http.set_filter_state.v3.Config`, also per route.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/set_filter_state>
//! Stats: none.
//!
//! Deviations: of the factories of objects there are `envoy.string`, `envoy.hashable_string`, `envoy.network.ip` and
//! `envoy.ratelimit.hits_addend`.
//! Deviations: `shared_with_upstream` shares nothing, as no upstream connection reads objects.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use common::filter_state_value::{Key, SharedWithUpstream, Value};
use outrigger_proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::set_filter_state::v3 as pb;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{FormatData, SubstitutionFormatString};
use crate::http::{EndStream, RequestHead};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::FilterStateObject;
use crate::xx_hash::xx_hash64;

/// Makes filters that set filter state.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.set_filter_state"
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.set_filter_state.v3.Config"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        self.type_names()
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            cx,
            path,
        )?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(PerRoute(vec![Arc::new(config)])))
    }

    /// All levels count, the least specific first.
    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let levels = configs
            .iter()
            .filter_map(|config| config.downcast_ref::<PerRoute>())
            .flat_map(|config| config.0.iter().cloned());
        Arc::new(PerRoute(levels.collect()))
    }
}

struct PerRoute(Vec<Arc<Config>>);

struct Config {
    objects: Box<[Object]>,
    /// Lets the route be chosen again. Default false.
    clear_route_cache: bool,
}

/// One object to make.
struct Object {
    name: Box<str>,
    kind: Kind,
    /// Nothing may replace it. Default false.
    read_only: bool,
    /// An empty text makes no object. Default false.
    skip_if_empty: bool,
    format: SubstitutionFormatString,
}

/// What becomes of the text, after the factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A text that can choose a host.
    Hashable,
    /// An address without a port. Any other text makes no object.
    Ip,
    /// A number of 32 bits. Any other text makes no object.
    Number,
}

/// An object that is a text, or was one.
#[derive(Debug)]
struct Text {
    text: String,
    kind: Kind,
    address: Option<IpAddr>,
    read_only: bool,
}

const FACTORIES: &str =
    "envoy.string, envoy.hashable_string, envoy.network.ip and envoy.ratelimit.hits_addend";

impl Config {
    fn from_proto(
        proto: pb::Config,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Config {
            on_request_headers,
            clear_route_cache,
        } = proto;
        let objects = path.each("on_request_headers", on_request_headers, |proto, path| {
            Object::from_proto(proto, cx, path)
        })?;
        Ok(Self {
            objects: objects.into(),
            clear_route_cache,
        })
    }

    fn apply(&self, cx: &mut StreamContext<'_>, head: &RequestHead) {
        for object in &self.objects {
            let mut text = Vec::new();
            let data = FormatData::of_request(cx.info, Some(head));
            object.format.render(&data, &mut text);
            let state = &mut cx.info.filter_state;
            let fixed = state.get_as::<Text>(&object.name);
            let is_fixed = fixed.is_some_and(|text| text.read_only);
            if is_fixed || object.skip_if_empty && text.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(&text);
            if let Some(made) = Text::made(&text, object.kind, object.read_only) {
                state.set(&*object.name, Rc::new(made));
            }
        }
    }
}

impl Object {
    fn from_proto(
        proto: common::FilterStateValue,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "the older fields are decided like all others")]
        let common::FilterStateValue {
            factory_key,
            read_only,
            shared_with_upstream,
            skip_if_empty,
            key,
            value,
        } = proto;
        // Harmless: see the deviations above.
        let shared =
            path.enumeration::<SharedWithUpstream>("shared_with_upstream", shared_with_upstream);
        let name = path
            .required("object_key", key)
            .and_then(|Key::ObjectKey(name)| path.non_empty("object_key", name));
        let format =
            path.required("format_string", value)
                .and_then(|Value::FormatString(format)| {
                    SubstitutionFormatString::from_proto(format, cx, &path.field("format_string"))
                });
        let name = name?;
        let (field, factory) = match factory_key.as_str() {
            "" => ("object_key", name.as_str()),
            key => ("factory_key", key),
        };
        let kind = match factory {
            "envoy.string" => Kind::Text,
            "envoy.hashable_string" => Kind::Hashable,
            "envoy.network.ip" => Kind::Ip,
            "envoy.ratelimit.hits_addend" => Kind::Number,
            other => {
                return Err(path.field(field).reject(format!(
                    "\"{other}\" does not have an object factory; those that are there are {FACTORIES}"
                )));
            }
        };
        shared?;
        Ok(Self {
            name: name.into(),
            kind,
            read_only,
            skip_if_empty,
            format: format?,
        })
    }
}

impl Text {
    fn made(text: &str, kind: Kind, read_only: bool) -> Option<Self> {
        let address: Option<IpAddr> = match kind {
            Kind::Text | Kind::Hashable => None,
            Kind::Ip => Some(text.parse().ok()?),
            Kind::Number => {
                let _: u32 = text.parse().ok()?;
                None
            }
        };
        Some(Self {
            // Envoy prints an address with a port.
            text: address.map_or_else(|| text.to_owned(), |ip| SocketAddr::new(ip, 0).to_string()),
            kind,
            address,
            read_only,
        })
    }
}

impl FilterStateObject for Text {
    fn serialize_as_string(&self) -> Option<String> {
        Some(self.text.clone())
    }

    fn serialize_as_json(&self) -> Option<serde_json::Value> {
        (self.kind != Kind::Ip).then(|| serde_json::Value::String(self.text.clone()))
    }

    fn hash(&self) -> Option<u64> {
        (self.kind == Kind::Hashable).then(|| xx_hash64(self.text.as_bytes(), 0))
    }

    fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(SetFilterState {
                config: config.clone(),
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.objects.is_empty() && !self.clear_route_cache
    }
}

struct SetFilterState {
    config: Rc<Arc<Config>>,
}

impl HttpFilter for SetFilterState {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        self.config.apply(cx, head);
        let of_route = cx.info.route.clone();
        let of_route = of_route.as_ref().zip(cx.slot);
        let of_route = of_route.and_then(|(route, slot)| route.filter_config(slot));
        if let Some(PerRoute(levels)) = of_route.and_then(|config| config.downcast_ref()) {
            levels.iter().for_each(|config| config.apply(cx, head));
        }
        // What a route says about it does not count.
        if self.config.clear_route_cache {
            cx.clear_route_cache();
        }
        HeadersStatus::Continue
    }
}
