//! `TlsKeyLog`: the secrets of connections in a file, for those who must look into recorded traffic.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use parking_lot::Mutex;
use rustls::KeyLog;

use crate::config::{ConfigPath, Rejected};
use crate::x509::hex;

/// Appends one line for each secret.
pub(super) struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    pub(super) fn from_proto(
        proto: pb::TlsKeyLog,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TlsKeyLog {
            path: file,
            local_address_range,
            remote_address_range,
        } = proto;
        path.unsupported_if_set("local_address_range", local_address_range)?;
        path.unsupported_if_set("remote_address_range", remote_address_range)?;
        let opened = OpenOptions::new().create(true).append(true).open(&file);
        opened
            .map(|opened| Self(Mutex::new(opened)))
            .map_err(|error| {
                path.field("path")
                    .reject(format!("cannot open {file:?}: {error}"))
            })
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // Whoever debugs notices that lines are missing; connections go on.
        let _ = self.0.lock().write_all(line.as_bytes());
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLogFile")
    }
}
