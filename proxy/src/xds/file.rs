//! Files that hold a `DiscoveryResponse`, in YAML, JSON or encoded, and are read again when they are replaced.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrigger_proto::yaml::{Format, Source};
use tokio::sync::Notify;
use tracing::warn;

use super::channel::Channel;
use super::client::XdsClient;
use super::resource::load_response;
use super::{PathSource, Refused};
use crate::config::DynamicFields;
use crate::files::{DirectoryListener, directory_of};

/// Is rung when something was moved into the directory; a file that is written where it is may not be whole yet.
struct Bell {
    rung: Notify,
    /// Changes in place ring it too.
    modify: bool,
}

impl DirectoryListener for Bell {
    fn directory_changed(&self) {
        if self.modify {
            self.rung.notify_one();
        }
    }

    fn moved_into_place(&self) {
        self.rung.notify_one();
    }
}

/// Reads the file now, and whenever it is replaced, for as long as anybody wants to know.
pub(super) async fn run(client: &Rc<XdsClient>, channel: &Rc<Channel>, source: &PathSource) {
    let bell = Arc::new(Bell {
        rung: Notify::new(),
        modify: source.watch_modify,
    });
    let listener: Arc<dyn DirectoryListener> = bell.clone();
    let directory = source.directory.clone();
    let directory: PathBuf = directory.unwrap_or_else(|| directory_of(&source.path));
    if let Err(error) = client.server.directories.watch(&directory, &listener) {
        let directory = directory.display();
        warn!(%directory, %error, "A directory of xDS cannot be watched.");
    }
    let mut last = None;
    while !channel.is_closed() {
        client.take_commands();
        read(
            channel,
            &source.path,
            &mut last,
            &client.server.unknown_fields,
        );
        tokio::select! {
            () = bell.rung.notified() => {}
            () = closed(channel) => return,
        }
    }
}

async fn closed(channel: &Channel) {
    while !channel.is_closed() {
        channel.changed.notified().await;
    }
}

/// Reads the file, and hands on what is in it if that has changed.
fn read(channel: &Rc<Channel>, file: &Path, last: &mut Option<Vec<u8>>, unknown: &DynamicFields) {
    let shown = file.display().to_string();
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            warn!(file = shown, %error, "A file of xDS cannot be read.");
            channel.connection_failed();
            return;
        }
    };
    if last.as_ref() == Some(&bytes) {
        return;
    }
    let source = Source {
        name: &shown,
        format: Format::of_path(file),
        bytes: &bytes,
    };
    let response = load_response(&source, unknown);
    *last = Some(bytes);
    match response {
        Ok(response) => take(channel, &shown, response),
        Err(reason) => {
            warn!(
                file = shown,
                reason, "A file of xDS is no DiscoveryResponse."
            );
            channel.connection_failed();
        }
    }
}

fn take(channel: &Rc<Channel>, file: &str, response: DiscoveryResponse) {
    for kind in channel.kinds() {
        let taken = channel.take_state(kind, response.clone());
        for Refused { name, reason } in taken.refused {
            warn!(file, resource = &*name, reason, "A resource is refused.");
        }
    }
}
