//! Scripted clients: steps in, a transcript of what came back out.

pub mod frames;
pub mod http1;
pub mod http2;

use std::net::SocketAddr;
use std::time::Duration;

use crate::message::{Field, Message};

/// One step of a client.
#[derive(Clone, Debug)]
pub enum Step {
    /// Goes on with the connection of this number, which is opened on first use. It starts with 0. Frame by frame it only opens one
    /// more connection, and stays where it is.
    On(usize),
    /// Sends a request and reads the response to it.
    Request(Request),
    /// Sends bytes as they are (not for HTTP/2).
    Send(Vec<u8>),
    /// Reads an HTTP/1 response, interim responses included; the flag says whether HEAD was asked.
    Read {
        /// The response has no body, whatever its head says.
        to_head: bool,
    },
    /// Reads this many bytes.
    ReadBytes(usize),
    /// Reads until the connection ends.
    ReadToEnd,
    /// Reads HTTP/2 frames until nothing has come for so long.
    ReadFrames(Duration),
    /// From here on, SETTINGS and what windows grow by are among the frames, and header blocks in which the word `legible`
    /// can be read.
    ShowAllFrames,
    /// Waits.
    Wait(Duration),
    /// Ends the client's side of the connection.
    HalfClose,
    /// Closes the connection at once.
    Close,
    /// Waits up to this time for the peer to close.
    AwaitClose(Duration),
}

/// A request that either protocol can carry.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `host` or `:authority`.
    pub authority: String,
    /// Fields in this order.
    pub fields: Vec<Field>,
    /// The body; `None` sends neither length nor body.
    pub body: Option<Vec<u8>>,
    /// Trailers; HTTP/1 is chunked when there are any.
    pub trailers: Vec<Field>,
    /// Sends an HTTP/1 body in chunks rather than by length.
    pub chunked: bool,
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// Responses, interim ones included, in the order in which they were read.
    pub messages: Vec<Message>,
    /// Bytes that were read by [`Step::ReadBytes`] and [`Step::ReadToEnd`].
    pub bytes: Vec<u8>,
    /// HTTP/2 frames that were read by [`Step::ReadFrames`], in words.
    pub frames: Vec<String>,
    /// Per connection, how it was in the end: `open`, `closed`, `reset`.
    pub fates: Vec<(usize, String)>,
}

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or bytes.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// HTTP/2 without TLS, frame by frame.
    Frames,
}

/// Plays `steps` against `address`.
pub async fn play(address: SocketAddr, protocol: Protocol, steps: &[Step]) -> Transcript {
    match protocol {
        Protocol::Http1 => http1::play(address, steps).await,
        Protocol::Http2 => http2::play(address, steps).await,
        Protocol::Frames => frames::play(address, steps).await,
    }
}
