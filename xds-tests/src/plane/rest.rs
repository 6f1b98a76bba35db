//! REST polling over HTTP/1.1.

use std::rc::Rc;

use outrigger_proto::json::{Style, to_json};
use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use outrigger_proto::yaml::{self, Format, Source, UnknownFields};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::{Answer, Ask, Kind, Shared, State};
use crate::http1::{Reader, request_framing};
use crate::message::Message;

pub(super) async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    let mut last = 0;
    while let Ok((stream, _)) = listener.accept().await {
        last += 1;
        let task = spawn_local(serve(stream, last, shared.clone()));
        let mut state = shared.state.borrow_mut();
        state.connections.push(task.abort_handle());
    }
}

async fn serve(stream: TcpStream, connection: usize, shared: Rc<Shared>) {
    let mut reader = Reader::new(stream);
    while let Ok(mut message) = reader.head().await {
        reader.body(request_framing(&message), &mut message).await;
        let response = match read(&message, connection) {
            Ok(ask) => shared.change(|state| state.poll(ask)),
            Err(complaint) => {
                shared.change(|state| state.complaints.push(complaint));
                response("400 Bad Request", "")
            }
        };
        let stream = reader.get_mut();
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn read(message: &Message, connection: usize) -> Result<Ask, String> {
    let kind = Kind::of_path(&message.line);
    let kind = kind.ok_or_else(|| format!("no kind in {}", message.line))?;
    let source = Source {
        name: "request",
        format: Format::Json,
        bytes: &message.body,
    };
    let request: DiscoveryRequest =
        yaml::load(&[source], UnknownFields::Ignore).map_err(|errors| format!("{errors:?}"))?;
    let mut ask = Ask::of_world(request, Some(kind))?;
    ask.connection = connection;
    Ok(ask)
}

impl State {
    /// Answers a poll: with what there is, or that nothing is new.
    fn poll(&mut self, ask: Ask) -> String {
        let refusal = self.refusal;
        let answer = match self.shelves.get(&ask.kind) {
            _ if refusal.is_some() => response("503 Service Unavailable", ""),
            Some(shelf) if !shelf.held => match &shelf.version {
                Some(version) if *version != ask.version => {
                    let everything = ask.names.is_empty();
                    let wanted = shelf
                        .resources
                        .iter()
                        .filter(|resource| everything || ask.names.contains(&resource.name));
                    let answer = Answer::new(ask.kind, version, wanted.cloned());
                    let world = answer.world(ask.kind.type_url(), "");
                    let json = to_json(&world, Style::default()).expect("known types");
                    response("200 OK", &json)
                }
                Some(_) => response("304 Not Modified", ""),
                None => response("500 Internal Server Error", ""),
            },
            _ => response("500 Internal Server Error", ""),
        };
        self.asks.push(ask);
        answer
    }
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    let head = "content-type: text/plain";
    if status.starts_with("304") {
        return format!("HTTP/1.1 {status}\r\n\r\n");
    }
    format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")
}
