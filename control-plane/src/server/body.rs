//! The responses of a stream as the body of an HTTP response.
//!
//! Each message has bytes of its own, which go when they are sent. An encoder with one buffer for all, as tonic has it, keeps
//! the largest of them as long as the stream lives, which is the first: all that a proxy has.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use http_body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

/// Messages as they come, and the status at the end.
#[derive(Debug)]
pub(super) struct Responses<M> {
    messages: mpsc::Receiver<Result<M, Status>>,
    is_over: bool,
}

impl<M> Responses<M> {
    pub(super) fn new(messages: mpsc::Receiver<Result<M, Status>>) -> Self {
        Self {
            messages,
            is_over: false,
        }
    }
}

impl<M: Message + Unpin> http_body::Body for Responses<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let message = ready!(self.messages.poll_recv(context));
        let encoded = message.map(|message| message.and_then(|message| encode(&message)));
        let status = match encoded {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.is_over = true;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}

/// A message of gRPC: no compression, its length, itself.
fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let header = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted("the response is larger than 4 GiB"))?;
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(header);
    message.encode_raw(&mut bytes);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn messages_come_one_by_one_and_the_status_in_the_trailers() {
        let (send, receive) = mpsc::channel(2);
        let message = pb::DiscoveryResponse {
            nonce: "7".to_owned(),
            ..Default::default()
        };
        send.send(Ok(message.clone())).await.unwrap();
        send.send(Err(Status::permission_denied("no")))
            .await
            .unwrap();
        let mut body = Responses::new(receive);
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data[..5], [0, 0, 0, 0, 3]);
        assert_eq!(pb::DiscoveryResponse::decode(&data[5..]).unwrap(), message);
        let trailers = body.frame().await.unwrap().unwrap();
        let trailers = trailers.into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "no")
        );
        assert!(body.frame().await.is_none());
        let (send, receive) = mpsc::channel::<Result<pb::DiscoveryResponse, _>>(1);
        drop(send);
        let end = Responses::new(receive).frame().await.unwrap().unwrap();
        assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
    }
}
