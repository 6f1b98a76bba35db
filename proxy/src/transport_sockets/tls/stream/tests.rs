use std::pin::Pin;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::net::IoLayer;

/// Both sides of a connection whose handshake is over.
fn established() -> (ServerConnection, ClientConnection) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.send_tls13_tickets = 0;
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut read = &wire[..];
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut read = &wire[..];
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (server, client)
}

#[tokio::test]
async fn what_is_held_goes_out_with_the_close() {
    let (server, mut client) = established();
    let (near, mut far) = duplex(4096);
    let mut stream = TlsStream::new(Io::from(near), State::Open(Box::new(server.into())));
    stream.hold();
    stream.write_all(b"the last").await.unwrap();
    stream.flush().await.unwrap();
    let mut wire = [0; 4096];
    let mut none = ReadBuf::new(&mut wire);
    let early = Pin::new(&mut far).poll_read(&mut Context::from_waker(Waker::noop()), &mut none);
    assert!(early.is_pending(), "nothing is sent yet");
    stream.shutdown().await.unwrap();
    let count = far.read(&mut wire).await.unwrap();
    client.read_tls(&mut &wire[..count]).unwrap();
    let state = client.process_new_packets().unwrap();
    assert_eq!(state.plaintext_bytes_to_read(), 8);
    assert!(state.peer_has_closed(), "one packet carries both");
}
