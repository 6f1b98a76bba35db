//! Options of sockets by level and number, as `SocketOption` of the API has them.

#![allow(
    unsafe_code,
    reason = "no safe library sets options whose numbers are configured"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an option of a socket to the bytes `value`, whose length the option decides.
pub fn set_socket_option(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads `length` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
