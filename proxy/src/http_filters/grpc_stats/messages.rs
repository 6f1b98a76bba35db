//! The messages of a call: where each begins in the body, and how many there were, for logs.

use std::cell::Cell;
use std::rc::Rc;

use crate::stream_info::FilterStateObject;

/// Counts the messages of a body: each has a byte of flags, four bytes of length, and so many bytes.
#[derive(Debug, Default)]
pub(super) struct FrameCounter {
    pub(super) frames: u64,
    /// How many bytes of the head of a frame have come: 0..=4.
    head: u8,
    length: u32,
    /// How many bytes of the frame are still to come.
    left: u32,
}

impl FrameCounter {
    /// Looks at the next piece, wherever it was cut; says how many messages begin in it.
    pub(super) fn inspect(&mut self, mut data: &[u8]) -> u64 {
        let before = self.frames;
        while let Some((&byte, rest)) = data.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                data = &data[skipped..];
                continue;
            }
            data = rest;
            if self.head == 0 {
                self.frames += 1;
                self.length = 0;
                self.head = 1;
                continue;
            }
            self.length = self.length << 8 | u32::from(byte);
            self.head += 1;
            if self.head == 5 {
                self.head = 0;
                self.left = self.length;
            }
        }
        self.frames - before
    }
}

/// What the filter leaves for logs: how many messages went each way.
#[derive(Debug, Default)]
pub(super) struct MessageCounts {
    pub(super) request: Cell<u64>,
    pub(super) response: Cell<u64>,
}

impl FilterStateObject for Rc<MessageCounts> {
    fn serialize_as_string(&self) -> Option<String> {
        Some(format!("{},{}", self.request.get(), self.response.get()))
    }

    /// As the `FilterObject` of the API: 64 bits are text in JSON, and 0 is left out.
    fn serialize_as_json(&self) -> Option<serde_json::Value> {
        let mut map = serde_json::Map::new();
        for (name, count) in [
            ("requestMessageCount", self.request.get()),
            ("responseMessageCount", self.response.get()),
        ] {
            if count > 0 {
                map.insert(name.to_owned(), count.to_string().into());
            }
        }
        Some(map.into())
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "request_message_count" => Some(self.request.get().to_string()),
            "response_message_count" => Some(self.response.get().to_string()),
            _ => None,
        }
    }
}
