//! Flow-control windows (RFC 9113, section 5.2).

/// The largest window that there may be.
pub(super) const LARGEST: i64 = i32::MAX as i64;

/// What the peer may still send.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiveWindow {
    size: u32,
    left: i64,
    /// Taken by the reader and not yet given back to the peer.
    consumed: u32,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            left: i64::from(size),
            consumed: 0,
        }
    }

    /// Notes bytes that came in. False: the peer was not allowed to send them.
    pub(super) fn received(&mut self, count: u32) -> bool {
        self.left -= i64::from(count);
        self.left >= 0
    }

    /// Notes bytes that were taken. Gives the increment to tell the peer, once it is worth a frame: at half of the window.
    pub(super) fn consume(&mut self, count: u32) -> Option<u32> {
        self.consumed = self.consumed.saturating_add(count);
        if self.consumed < self.size / 2 || self.consumed == 0 {
            return None;
        }
        let increment = std::mem::take(&mut self.consumed);
        self.left += i64::from(increment);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_is_worth_an_update() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.received(100));
        assert!(!window.received(1));
        let mut window = ReceiveWindow::new(100);
        assert!(window.received(80));
        assert_eq!(window.consume(49), None);
        assert_eq!(window.consume(1), Some(50));
        assert!(window.received(70));
        assert!(!window.received(1));
        assert_eq!(window.consume(0), None);
    }
}
