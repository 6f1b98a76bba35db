//! `VirtualHost.matcher`: routes at the ends of a generic matcher.
//!
//! Type URLs of actions: `envoy.config.route.v3.Route`, `envoy.config.route.v3.RouteList`.

use matcher_pb::matcher::matcher_tree::TreeType;
use matcher_pb::matcher::{MatcherType, OnMatch, on_match};
use outrigger_proto::any;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::pb::xds::r#type::matcher::v3 as matcher_pb;

use super::entry::{Route, RouteContext};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::RequestHead;
use crate::matchers::{Matcher, MatchingData};
use crate::stream_info::StreamInfo;

/// A matcher whose actions are routes of the virtual host: from the first number to before the second.
#[derive(Debug)]
pub(super) struct RouteMatcher(Matcher<(u32, u32)>);

const ROUTE: &str = "envoy.config.route.v3.Route";
const ROUTE_LIST: &str = "envoy.config.route.v3.RouteList";

impl RouteMatcher {
    /// Converts the matcher, and its routes in the order in which they stand in it.
    pub(super) fn from_proto(
        proto: matcher_pb::Matcher,
        context: &RouteContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, Vec<Route>), Rejected> {
        let mut routes = Vec::new();
        let number = |routes: &Vec<Route>| u32::try_from(routes.len()).unwrap_or(u32::MAX);
        let cx = context.per_filter.cx;
        let matcher = Matcher::from_proto(proto, cx, path, |config, path| {
            let first = number(&routes);
            routes.extend(converted(&config, context, path)?);
            Ok((first, number(&routes)))
        });
        Ok((Self(matcher?), routes))
    }

    /// The numbers of the routes that a request may take.
    pub(super) fn find(&self, head: &RequestHead, info: &StreamInfo) -> std::ops::Range<u32> {
        let data = MatchingData {
            connection: &info.connection,
            info: Some(info),
            request: Some(head),
            response: None,
        };
        self.0.find(&data).map_or(0..0, |(first, end)| *first..*end)
    }
}

fn converted(
    config: &TypedConfig,
    context: &RouteContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Vec<Route>, Rejected> {
    match &*config.type_name {
        ROUTE => Route::from_proto(config.decode(path)?, context, path).map(|route| vec![route]),
        ROUTE_LIST => {
            let pb::RouteList { routes } = config.decode(path)?;
            path.each("routes", routes, |route, path| {
                Route::from_proto(route, context, path)
            })
        }
        _ => Err(config.unknown(path, &[ROUTE, ROUTE_LIST])),
    }
}

/// The routes in a matcher, in the order in which the virtual host numbers them.
pub fn routes_in(matcher: &matcher_pb::Matcher) -> Vec<pb::Route> {
    let mut routes = Vec::new();
    collect(matcher, &mut routes);
    routes
}

fn collect(matcher: &matcher_pb::Matcher, routes: &mut Vec<pb::Route>) {
    match &matcher.matcher_type {
        Some(MatcherType::MatcherList(list)) => {
            for entry in &list.matchers {
                entry
                    .on_match
                    .iter()
                    .for_each(|on| collect_from(on, routes));
            }
        }
        Some(MatcherType::MatcherTree(tree)) => {
            if let Some(TreeType::ExactMatchMap(map) | TreeType::PrefixMatchMap(map)) =
                &tree.tree_type
            {
                let mut entries: Vec<_> = map.map.iter().collect();
                entries.sort_by_key(|(a, _)| *a);
                entries.iter().for_each(|(_, on)| collect_from(on, routes));
            }
        }
        None => {}
    }
    if let Some(on_no_match) = &matcher.on_no_match {
        collect_from(on_no_match, routes);
    }
}

fn collect_from(on_match: &OnMatch, routes: &mut Vec<pb::Route>) {
    match &on_match.on_match {
        Some(on_match::OnMatch::Matcher(matcher)) => collect(matcher, routes),
        Some(on_match::OnMatch::Action(action)) => {
            routes.extend(action.typed_config.iter().flat_map(decoded));
        }
        None => {}
    }
}

fn decoded(any: &Any) -> Vec<pb::Route> {
    match any::type_name(&any.type_url) {
        ROUTE => any::decode(any).into_iter().collect(),
        ROUTE_LIST => any::decode::<pb::RouteList>(any).map_or_else(|_| Vec::new(), |l| l.routes),
        _ => Vec::new(),
    }
}
