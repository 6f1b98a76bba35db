//! The HTTP/2 backend, on the crate `h2`.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::{Act, Response, Script, Seat, script_for};
use crate::client::http2::{field_map, fields_of, read_body};
use crate::message::Message;

pub(super) async fn serve(stream: TcpStream, scripts: Vec<Script>, seat: Seat) {
    let handshake = h2::server::Builder::new()
        .enable_connect_protocol()
        .handshake(stream);
    let Ok(mut connection) = handshake.await else {
        return;
    };
    let (hang_up, mut hung_up) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(Ok((request, respond))) = next else { return };
                spawn_local(answer(request, respond, scripts.clone(), seat.clone(), hang_up.clone()));
            }
            _ = hung_up.recv() => return,
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    scripts: Vec<Script>,
    seat: Seat,
    hang_up: tokio::sync::mpsc::Sender<()>,
) {
    let (head, body) = request.into_parts();
    let mut message = Message {
        line: "HTTP/2".into(),
        ..Message::default()
    };
    message
        .fields
        .push((":method".into(), head.method.to_string()));
    if let Some(protocol) = head.extensions.get::<h2::ext::Protocol>() {
        let protocol = protocol.as_str().to_owned();
        message.fields.push((":protocol".into(), protocol));
    }
    let uri = head.uri;
    let pseudo = [
        (":scheme", uri.scheme_str()),
        (
            ":authority",
            uri.authority().map(http::uri::Authority::as_str),
        ),
        (
            ":path",
            uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        ),
    ];
    for (name, value) in pseudo {
        if let Some(value) = value {
            message.fields.push((name.into(), value.into()));
        }
    }
    message.fields.extend(fields_of(&head.headers));
    let number = seat.add(message.clone());
    let Some(script) = script_for(&scripts, number) else {
        return;
    };
    let reading = async {
        read_body(body, &mut message).await;
        seat.update(number, &message);
    };
    let acting = play(&script.acts, &mut respond, &hang_up);
    if script.early {
        tokio::join!(acting, reading);
    } else {
        reading.await;
        acting.await;
    }
}

async fn play(
    acts: &[Act],
    respond: &mut SendResponse<Bytes>,
    hang_up: &tokio::sync::mpsc::Sender<()>,
) {
    let mut body = None;
    for act in acts {
        match act {
            Act::Respond(response) => body = send(response, respond, acts.len() > 1),
            Act::Wait(time) => sleep(*time).await,
            Act::Reset => match body.take() {
                Some(mut body) => h2::SendStream::send_reset(&mut body, Reason::INTERNAL_ERROR),
                None => respond.send_reset(Reason::REFUSED_STREAM),
            },
            Act::Close => {
                let _ = hang_up.send(()).await;
            }
            Act::Send(_) | Act::Read(_) => {}
        }
    }
    if let Some(mut body) = body {
        let _ = body.send_data(Bytes::new(), true);
    }
}

/// Sends a response; keeps its body open when `more` is to be done.
fn send(
    response: &Response,
    respond: &mut SendResponse<Bytes>,
    more: bool,
) -> Option<h2::SendStream<Bytes>> {
    let mut head = http::Response::builder()
        .status(response.status)
        .body(())
        .ok()?;
    *head.headers_mut() = field_map(&response.fields);
    if response.status < 200 {
        let _ = respond.send_informational(head);
        return None;
    }
    let trailers = !response.trailers.is_empty();
    let end = !more && !trailers && response.body.is_empty();
    let mut body = respond.send_response(head, end).ok()?;
    if end {
        return None;
    }
    if !response.body.is_empty() {
        let end = !more && !trailers;
        body.send_data(Bytes::from(response.body.clone()), end)
            .ok()?;
        if end {
            return None;
        }
    }
    if trailers {
        let _ = body.send_trailers(field_map(&response.trailers));
        return None;
    }
    Some(body)
}
