//! The backend for bytes.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Act, Seat, reset, script_for};
use crate::http1::{Framing, Reader};
use crate::message::Message;

pub(super) async fn serve(stream: TcpStream, scripts: Vec<Vec<Act>>, seat: Seat) {
    let mut message = Message {
        line: "TCP".into(),
        ..Message::default()
    };
    let number = seat.add(message.clone());
    let Some(acts) = script_for(&scripts, number) else {
        return;
    };
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    for act in acts {
        match act {
            Act::Send(bytes) => {
                let _ = write.write_all(&bytes).await;
            }
            Act::Respond(_) => {}
            Act::Read(length) => {
                reader.body(Framing::Length(length), &mut message).await;
                seat.update(number, &message);
            }
            Act::Wait(time) => sleep(time).await,
            Act::Reset => {
                if let Ok(stream) = reader.into_inner().reunite(write) {
                    reset(&stream);
                }
                return;
            }
            Act::Close => return,
        }
    }
    reader.body(Framing::UntilClose, &mut message).await;
    seat.update(number, &message);
}
