//! Small clients: one connection each, which tells whether it lives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use outrigger_xds_tests::http1::{Reader, Stop, response_framing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// An HTTP/1.1 connection.
pub struct Connection {
    reader: Reader<TcpStream>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Connection {
    /// Connects from 127.0.0.1.
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_from([127, 0, 0, 1].into(), address).await
    }

    /// Connects from this address.
    pub async fn open_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        Self {
            reader: Reader::new(connect_from(source, address).await),
        }
    }

    /// Sends a GET, and reads the response; `Err` when the connection has gone.
    pub async fn try_get(&mut self, path: &str) -> Result<Reply, String> {
        self.request(&format!("GET {path} HTTP/1.1\r\nhost: example.com\r\n\r\n"))
            .await
    }

    /// Sends a request as it is, and reads the response.
    pub async fn request(&mut self, request: &str) -> Result<Reply, String> {
        let stream = self.reader.get_mut();
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(|error| error.to_string())?;
        let mut message = self
            .reader
            .head()
            .await
            .map_err(|stop: Stop| format!("{stop:?}"))?;
        if message.status != 101 {
            let framing = response_framing(&message, false);
            self.reader.body(framing, &mut message).await;
        }
        Ok(Reply {
            status: message.status,
            body: String::from_utf8_lossy(&message.body).into_owned(),
        })
    }

    /// The same for a connection that must live.
    pub async fn get(&mut self, path: &str) -> Reply {
        self.try_get(path).await.expect("the connection lives")
    }

    /// Sends bytes over an upgraded connection, and reads as many back.
    pub async fn echo(&mut self, bytes: &[u8]) -> Result<(), String> {
        echo(self.reader.get_mut(), bytes).await
    }

    /// Waits until the peer closes.
    pub async fn closed_within(&mut self, patience: Duration) -> bool {
        self.reader.fate(patience).await == "closed"
    }
}

pub async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(source), 0).into()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes, and reads as many back.
pub async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    let exchange = async {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        Ok::<_, std::io::Error>(back)
    };
    let back = timeout(Duration::from_secs(6), exchange).await;
    let back = back
        .map_err(|_| "silence")?
        .map_err(|error| error.to_string())?;
    if back == bytes {
        Ok(())
    } else {
        Err(format!("{back:?} came back"))
    }
}
