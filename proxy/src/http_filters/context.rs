//! What a filter may see and do beside its own part of the message.

use std::any::Any;
use std::rc::Rc;

use bytes::Bytes;

use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::route::{Route, SelectedRoute};
use crate::server::Worker;
use crate::stream_info::StreamInfo;

/// The stream around a filter, lent for one call.
pub struct StreamContext<'a> {
    /// All that is known about the stream.
    pub info: &'a mut StreamInfo,
    /// The worker that runs it.
    pub worker: &'a Rc<Worker>,
    /// The request head; none while it is an argument of the call.
    pub request: Option<&'a mut RequestHead>,
    /// The response head; none before it came and while it is an argument of the call.
    pub response: Option<&'a mut ResponseHead>,
    /// What the call asks of the pump.
    pub effects: &'a mut Effects,
    /// The number of the filter's name in the route table; none where no route mentions it.
    pub slot: Option<usize>,
}

/// What a filter asked for during a call; the pump carries it out when the call has returned.
#[derive(Debug, Default)]
pub struct Effects {
    /// Data to send on after this filter, before what the call returned.
    pub injected: Vec<Injected>,
    /// Trailers to send behind the data that ends the direction, of a call that returned `Continue`.
    pub trailers: Option<Fields>,
    /// Informational responses to send to the client.
    pub informational: Vec<ResponseHead>,
    /// The route must be looked up again before the next filter runs.
    pub route_cleared: bool,
    /// The virtual host of the request is to be asked for; a filter whose call returned `Continue` waits for it, where there is
    /// anybody to ask.
    pub host_wanted: bool,
    /// The route must be looked up again, in the newest table, before the next call.
    pub routes_renewed: bool,
    /// A new buffer limit of the stream, in bytes.
    pub buffer_limit: Option<u64>,
    /// Close the downstream connection after this stream.
    pub close_connection: bool,
}

/// A piece of a body that a filter sends on by itself, in the direction of the call.
#[derive(Debug)]
pub struct Injected {
    /// The bytes.
    pub data: Bytes,
    /// Whether the direction ends with it.
    pub end: EndStream,
}

/// The route by which a filter finds its configuration, where one is found for the whole stream: that of its first call.
#[derive(Debug, Default)]
pub(super) struct FirstRoute(Option<Option<(SelectedRoute, usize)>>);

impl FirstRoute {
    /// As `StreamContext::route_config`.
    pub(super) fn config<T: Any>(&mut self, cx: &StreamContext<'_>) -> Option<&T> {
        let chosen = || cx.info.route.clone().zip(cx.slot);
        let (route, slot) = self.0.get_or_insert_with(chosen).as_ref()?;
        route.filter_config(*slot)?.downcast_ref()
    }
}

impl StreamContext<'_> {
    /// The chosen route.
    pub fn route(&self) -> Option<&Route> {
        self.info.route.as_ref().map(|selected| selected.route())
    }

    /// This filter's configuration for the chosen route, merged over virtual host, route and weighted cluster.
    pub fn route_config<T: Any>(&self) -> Option<&T> {
        self.info
            .route
            .as_ref()?
            .filter_config(self.slot?)?
            .downcast_ref()
    }

    /// Sends data on in the direction of the call, after this filter and before what the call returns.
    pub fn inject_data(&mut self, data: Bytes, end: EndStream) {
        self.effects.injected.push(Injected { data, end });
    }

    /// Trailers for a message that would end with the data of this call, whose filter returns `Continue`.
    pub fn add_trailers(&mut self) -> &mut Fields {
        self.effects.trailers.get_or_insert_with(Fields::new)
    }

    /// Sends an informational response to the client.
    pub fn send_informational(&mut self, head: ResponseHead) {
        self.effects.informational.push(head);
    }

    /// Lets the route be chosen again before the next filter runs.
    pub fn clear_route_cache(&mut self) {
        self.effects.route_cleared = true;
    }

    /// Lets this stream buffer up to `bytes` for its filters, in place of the connection's limit.
    pub fn set_buffer_limit(&mut self, bytes: u64) {
        self.effects.buffer_limit = Some(bytes);
    }
}
