//! Many connections that ask one after another, each as soon as it has been answered.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_xds_tests::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A load that runs until it is stopped.
pub(crate) struct Load {
    shared: Rc<Shared>,
    tasks: Vec<JoinHandle<Result<(), Error>>>,
}

struct Shared {
    requests: Rc<[Vec<u8>]>,
    next: Cell<usize>,
    answered: Cell<u64>,
    stopped: Cell<bool>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// As it was framed.
    pub(crate) body: Vec<u8>,
}

impl Load {
    /// Sends these requests in turn, again and again.
    pub(crate) fn start(address: SocketAddr, requests: Rc<[Vec<u8>]>, connections: usize) -> Self {
        let shared = Rc::new(Shared {
            requests,
            next: Cell::new(0),
            answered: Cell::new(0),
            stopped: Cell::new(false),
        });
        let task = |_| tokio::task::spawn_local(ask_on(address, Rc::clone(&shared)));
        let tasks = (0..connections).map(task).collect();
        Self { shared, tasks }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.get()
    }

    /// Fails if a request failed.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.shared.stopped.set(true);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn ask_on(address: SocketAddr, shared: Rc<Shared>) -> Result<(), Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    while !shared.stopped.get() {
        let number = shared.next.get();
        shared.next.set(number + 1);
        let request = &shared.requests[number % shared.requests.len()];
        let end = exchange(&mut stream, request, &mut buffer).await?;
        if !buffer.starts_with(b"HTTP/1.1 200") {
            let text = String::from_utf8_lossy(&buffer[..end]);
            return Err(format!("a request was answered with {text}").into());
        }
        shared.answered.set(shared.answered.get() + 1);
    }
    Ok(())
}

/// One request over a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: &[u8]) -> Result<Answer, Error> {
    let mut stream = TcpStream::connect(address).await?;
    let mut buffer = vec![0; 64 * 1024];
    let end = exchange(&mut stream, request, &mut buffer).await?;
    let body = head_end(&buffer[..end]).ok_or("it has a head")?;
    let head = String::from_utf8_lossy(&buffer[..body]).to_ascii_lowercase();
    Ok(Answer {
        status: head[9..12].parse()?,
        head,
        body: buffer[body..end].to_vec(),
    })
}

/// Leaves the answer in the buffer. How long it is.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut [u8],
) -> Result<usize, Error> {
    stream.write_all(request).await?;
    let mut filled = 0;
    let mut end = None;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Err("a connection was closed early".into());
        }
        filled += count;
        let so_far = &buffer[..filled];
        if end.is_none() {
            end = body_end(so_far);
        }
        match end {
            Some(End::At(at)) if filled >= at => return Ok(filled),
            Some(End::LastChunk) if so_far.ends_with(b"\r\n0\r\n\r\n") => return Ok(filled),
            _ => {}
        }
    }
}

/// Where an answer ends.
#[derive(Clone, Copy)]
enum End {
    At(usize),
    LastChunk,
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    Some(memchr::memmem::find(bytes, b"\r\n\r\n")? + 4)
}

fn body_end(bytes: &[u8]) -> Option<End> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let body = head_end(bytes)?;
    let head = &bytes[..body];
    let Some(at) = memchr::memmem::find(head, LENGTH) else {
        return Some(End::LastChunk);
    };
    let digits = head[at + LENGTH.len()..].iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    Some(End::At(body + length))
}
