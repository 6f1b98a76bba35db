//! Bytes from one socket to another that the proxy never sees: `splice(2)` through a pipe.

#![allow(
    unsafe_code,
    reason = "the standard library has pipes, but neither splices nor sizes them"
)]

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::null_mut;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe may hold, and the most that is moved at once, in bytes.
const SIZE: usize = 256 * 1024;

/// A pipe between two sockets.
#[derive(Debug)]
pub struct SplicePipe {
    reader: PipeReader,
    writer: PipeWriter,
    held: usize,
}

impl SplicePipe {
    /// An empty pipe. Fails where the process has too many files open.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let size = libc::c_int::try_from(SIZE).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open while `writer` lives. Where the user has too many pages in pipes it stays small.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, size) };
        Ok(Self {
            reader,
            writer,
            held: 0,
        })
    }

    /// Bytes that were taken from a source and not given to a target yet.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what `source` has, into an empty pipe. Gives how many bytes that were, 0 at the end.
    pub fn poll_fill(
        &mut self,
        source: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "a full pipe would look like an empty source");
        loop {
            ready!(source.poll_read_ready(cx))?;
            let moved = source.try_io(Interest::READABLE, || {
                splice(source.as_fd(), self.writer.as_fd(), SIZE)
            });
            match moved {
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.held = count;
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Gives `target` what it takes of what the pipe holds. Gives how many bytes that were.
    pub fn poll_drain(
        &mut self,
        target: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(target.poll_write_ready(cx))?;
            let moved = target.try_io(Interest::WRITABLE, || {
                splice(self.reader.as_fd(), target.as_fd(), self.held)
            });
            match moved {
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.held = self.held.saturating_sub(count);
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }
}

/// Whether the call is worth another try, once the socket is ready again.
fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both descriptors are open while they are borrowed, and without offsets no memory of ours is touched.
    let moved = unsafe { libc::splice(from, null_mut(), to, null_mut(), most, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
