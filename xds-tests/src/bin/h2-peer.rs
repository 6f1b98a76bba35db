//! HTTP/2 of the crate `h2` in clear text: `h2-peer serve PORT` or `h2-peer call PORT PATH TRAILERS`, as the peers of other makers.
#![allow(clippy::print_stdout, reason = "the story reads what a peer says")]

use std::error::Error;
use std::future::poll_fn;
use std::process::ExitCode;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// A large body.
const BODY: usize = 600_000;
const STREAMS: usize = 3000;
const AT_ONCE: usize = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match &arguments[..] {
        ["serve", port] => LocalSet::new().run_until(serve(port)).await,
        ["call", port, path, trailers] => {
            let called = call(port, path, *trailers == "trailers");
            LocalSet::new().run_until(called).await
        }
        _ => Err("serve PORT, or call PORT PATH TRAILERS".into()),
    };
    match result {
        Ok(()) => {
            println!("OK");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        spawn_local(async move {
            let Ok(mut connection) = h2::server::handshake(socket).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(async move {
                    // A client that goes away sees to that itself.
                    let _ = echo(request, respond).await;
                });
            }
        });
    }
}

async fn echo(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), Box<dyn Error>> {
    let (body, trailers) = receive(request.into_body()).await?;
    let mut last = HeaderMap::new();
    last.insert("x-length", body.len().into());
    if let Some(sent) = trailers.get("x-sent") {
        last.insert("x-sent", sent.clone());
    }
    let response = Response::builder().status(200).body(())?;
    let mut stream = respond.send_response(response, false)?;
    send(&mut stream, body.into(), last).await
}

async fn call(port: &str, path: &str, trailers: bool) -> Result<(), Box<dyn Error>> {
    let socket = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    spawn_local(connection);
    post(client.clone(), path, vec![b'b'; BODY].into(), trailers).await?;
    let mut running = JoinSet::new();
    for number in 0..STREAMS {
        if running.len() == AT_ONCE {
            ended(running.join_next().await)?;
        }
        let body = vec![b's'; number % 300 + 1].into();
        let (client, path) = (client.clone(), path.to_owned());
        running.spawn_local(async move {
            let posted = post(client, &path, body, trailers).await;
            posted.map_err(|error| error.to_string())
        });
    }
    while !running.is_empty() {
        ended(running.join_next().await)?;
    }
    Ok(())
}

/// What came of one of the streams.
fn ended(
    stream: Option<Result<Result<(), String>, tokio::task::JoinError>>,
) -> Result<(), Box<dyn Error>> {
    if let Some(stream) = stream {
        stream??;
    }
    Ok(())
}

async fn post(
    client: SendRequest<Bytes>,
    path: &str,
    body: Bytes,
    trailers: bool,
) -> Result<(), Box<dyn Error>> {
    let request = Request::post(format!("http://peer{path}"))
        // Without it Go's server drops the trailer.
        .header("trailer", "x-sent")
        .body(())?;
    let (response, mut stream) = client.ready().await?.send_request(request, false)?;
    let mut last = HeaderMap::new();
    last.insert("x-sent", http::HeaderValue::from_static("yes"));
    let received = async {
        let response = response.await?;
        if response.status() != 200 {
            return Err(response.status().to_string().into());
        }
        receive(response.into_body()).await
    };
    let (sent, received) = tokio::join!(send(&mut stream, body.clone(), last), received);
    sent?;
    let (got, last) = received?;
    if got != body {
        return Err(format!("sent {}, got {}", body.len(), got.len()).into());
    }
    let seen = |name| last.get(name).and_then(|value| value.to_str().ok());
    let expected = body.len().to_string();
    if trailers && (seen("x-length"), seen("x-sent")) != (Some(&expected), Some("yes")) {
        return Err(format!("trailers: {last:?}").into());
    }
    Ok(())
}

/// A whole body and what came behind it.
async fn receive(mut stream: RecvStream) -> Result<(Vec<u8>, HeaderMap), Box<dyn Error>> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok((body, stream.trailers().await?.unwrap_or_default()))
}

/// Sends a body as the windows allow, and trailers.
async fn send(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    trailers: HeaderMap,
) -> Result<(), Box<dyn Error>> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or("the stream ended")??;
        stream.send_data(body.split_to(room.min(body.len())), false)?;
    }
    stream.send_trailers(trailers)?;
    Ok(())
}
