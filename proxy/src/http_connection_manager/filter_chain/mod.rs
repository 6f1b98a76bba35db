//! Runs a message through filters, in either direction, with all of Envoy's statuses.
//!
//! The chain does no I/O and knows neither client nor upstream: heads, data and trailers are pushed in, what passes the last
//! filter comes out as [`Piece`]s. So the same code runs downstream filters (ending in the router) and upstream filters
//! (ending in the upstream codec). Each filter holds back what it stopped; a filter that waits stops only its own direction.

mod body;
mod chain;
mod direction;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_filters::chain_config::ChainEntries;
use crate::http_filters::{
    Effects, HttpFilter, Interests, LocalBoxFuture, LocalReply, StreamContext,
};
use crate::route::RouteTable;
use crate::server::Worker;
use crate::stream_info::StreamInfo;

pub use chain::Chain;
pub use direction::{Decode, Direction, Encode};

/// The filters of one stream, in the order of the configuration, with the number of each one's name in the route table.
#[derive(Default)]
pub struct Filters {
    list: Vec<(Box<dyn HttpFilter>, Interests, Slot)>,
    union: Interests,
    /// What they are made of.
    entries: Option<Rc<ChainEntries>>,
    /// By which table they were numbered anew.
    numbered_by: Option<Rc<Arc<RouteTable>>>,
}

/// Where a filter stands.
#[derive(Clone, Copy)]
struct Slot {
    /// In its chain, which may have more filters than the stream.
    entry: usize,
    /// In the route table.
    number: Option<usize>,
    /// The filter is not made yet, since no route configures it: nothing stands in its place.
    is_idle: bool,
}

/// Stands in the place of a filter that has nothing to do.
struct Idle;

impl HttpFilter for Idle {
    fn interests(&self) -> Interests {
        Interests::NONE
    }
}

/// What the filters may see of their stream, lent for one call.
pub struct ChainEnv<'a> {
    /// All that is known about the stream.
    pub info: &'a mut StreamInfo,
    /// The worker that runs it.
    pub worker: &'a Rc<Worker>,
    /// The request head.
    pub request: &'a mut RequestHead,
    /// The response head, once there is one.
    pub response: &'a mut Option<ResponseHead>,
    /// Chooses a route anew when a filter has cleared the old one.
    pub routes: &'a dyn RouteResolver,
    /// What filters asked for and the owner of the stream has to carry out.
    pub effects: &'a mut Effects,
}

/// Chooses the route of a request.
pub trait RouteResolver {
    /// Fills `info.route` for this head. Gives the table if it may be another one than the filters were numbered by.
    fn resolve(&self, head: &mut RequestHead, info: &mut StreamInfo)
    -> Option<Rc<Arc<RouteTable>>>;

    /// The same by the newest table.
    fn resolve_anew(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) -> Option<Rc<Arc<RouteTable>>> {
        self.resolve(head, info)
    }

    /// Asks for the virtual host of this head, which the table lacks. None: there is nobody to ask.
    fn find_host(&self, _head: &RequestHead) -> Option<LocalBoxFuture<'static, ()>> {
        None
    }
}

/// What passed the last filter.
#[derive(Debug)]
pub enum Piece {
    /// The head, which lies in the environment.
    Head(EndStream),
    /// A piece of the body.
    Data(Bytes, EndStream),
    /// The trailers.
    Trailers(Fields),
}

/// How a call on the chain ended.
#[derive(Debug)]
pub enum Flow {
    /// As far as the filters let it.
    Done,
    /// A filter answers itself.
    LocalReply(LocalReply),
    /// The stream begins anew, with the request head and the route that are in the environment now.
    Recreate,
    /// More was to be buffered than the limit allows: 413 for a request, 500 for a response.
    BufferFull,
}

impl Filters {
    /// None yet, with room for all that these entries may make.
    pub fn with_room(entries: &Rc<ChainEntries>) -> Self {
        Self {
            list: Vec::with_capacity(entries.len()),
            union: Interests::NONE,
            entries: Some(entries.clone()),
            numbered_by: None,
        }
    }

    /// Adds a filter after the others: the entry `entry` of its chain, whose number in the route table is `number`.
    pub fn push(&mut self, filter: Box<dyn HttpFilter>, entry: usize, number: Option<usize>) {
        let interests = filter.interests();
        self.union = self.union.and(interests);
        let slot = Slot {
            entry,
            number,
            is_idle: false,
        };
        self.list.push((filter, interests, slot));
    }

    /// Keeps a place after the others for the entry `entry`, which has nothing to do: no route of the table configures it. It is
    /// made when another table does.
    pub fn push_idle(&mut self, entry: usize) {
        let slot = Slot {
            entry,
            number: None,
            is_idle: true,
        };
        self.list.push((Box::new(Idle), Interests::NONE, slot));
    }

    /// Takes the numbers of another route table, and makes the filters to which that gives something to do.
    #[cold]
    fn renumber(&mut self, table: Rc<Arc<RouteTable>>) {
        let known = self.numbered_by.as_ref();
        let Some(entries) = &self.entries else { return };
        if known.is_some_and(|known| Rc::ptr_eq(known, &table)) {
            return;
        }
        for (filter, interests, slot) in &mut self.list {
            slot.number = entries.number(slot.entry, &table);
            if slot.is_idle && slot.number.is_some() {
                slot.is_idle = false;
                *filter = entries.new_filter(slot.entry);
                *interests = filter.interests();
                self.union = self.union.and(*interests);
            }
        }
        self.numbered_by = Some(table);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Tells every filter that its stream has ended.
    pub fn complete(&mut self, info: &mut StreamInfo) {
        if self.union.contains(Interests::COMPLETE) {
            for (filter, interests, _) in &mut self.list {
                if interests.contains(Interests::COMPLETE) {
                    filter.on_stream_complete(info);
                }
            }
        }
    }

    /// Shows an informational response to the filters, the last one first.
    pub fn encode_1xx(&mut self, env: &mut ChainEnv<'_>, head: &mut ResponseHead) {
        for (filter, interests, slot) in self.list.iter_mut().rev() {
            if interests.contains(Interests::ENCODE_HEADERS) {
                let mut cx = StreamContext {
                    info: env.info,
                    worker: env.worker,
                    request: Some(env.request),
                    response: None,
                    effects: env.effects,
                    slot: slot.number,
                };
                filter.encode_1xx(&mut cx, head);
            }
        }
    }
}

#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod tests;
