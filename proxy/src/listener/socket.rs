//! Listen sockets. The main thread binds them; workers get duplicates.

use std::cell::Cell;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use socket2::{Domain, SockAddr, Socket, Type};

use super::address::ListenAddress;
use crate::net::{Address, Keepalive, SocketOption, SocketStage, set_socket_option};

/// What all sockets of a listener have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// One socket for each worker, so that the kernel spreads connections. Default for TCP.
    pub reuse_port: bool,
    /// Accepts connections for addresses that are not ours.
    pub transparent: Option<bool>,
    /// Binds to addresses that no interface has yet.
    pub freebind: Option<bool>,
    /// The queue length of TCP Fast Open; 0 turns it off, none leaves it as the system has it.
    pub fast_open_queue: Option<u32>,
    /// How many connections the kernel keeps that were not accepted yet. Default: the most that it allows.
    pub backlog: Option<u32>,
    /// Keepalive of accepted connections, which inherit it.
    pub keepalive: Option<Keepalive>,
    /// Further options.
    pub options: Vec<SocketOption>,
    /// Multipath TCP.
    pub mptcp: bool,
}

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub(super) struct BoundAddress {
    /// The address with the port that the system chose.
    pub address: Address,
    sockets: Vec<Socket>,
    /// Whether there is only one socket, which all workers share.
    shared: bool,
    listening: Cell<bool>,
}

/// Binds and listens on an address that one thread alone serves: the admin interface.
pub fn listen_alone(
    address: &ListenAddress,
    options: Vec<SocketOption>,
) -> io::Result<(Socket, Address)> {
    let settings = SocketSettings {
        reuse_port: false,
        transparent: None,
        freebind: None,
        fast_open_queue: None,
        backlog: None,
        keepalive: None,
        options,
        mptcp: false,
    };
    let bound = BoundAddress::bind(address, &settings, 1)?;
    bound.listen(address, &settings)?;
    Ok((bound.socket_of(0)?, bound.address))
}

impl BoundAddress {
    /// Binds the sockets for `workers` workers.
    pub(super) fn bind(
        address: &ListenAddress,
        settings: &SocketSettings,
        workers: usize,
    ) -> io::Result<Self> {
        let shared = !settings.reuse_port || matches!(address.address, Address::Pipe(_));
        let first = bind_one(address, &address.address, settings)?;
        let bound = match &address.address {
            Address::Ip(_) => first
                .local_addr()?
                .as_socket()
                .map_or_else(|| address.address.clone(), Address::Ip),
            pipe @ Address::Pipe(_) => pipe.clone(),
        };
        let mut sockets = vec![first];
        if !shared {
            for _ in 1..workers {
                sockets.push(bind_one(address, &bound, settings)?);
            }
        }
        Ok(Self {
            address: bound,
            sockets,
            shared,
            listening: Cell::new(false),
        })
    }

    /// Begins to listen, unless that has been done already.
    pub(super) fn listen(
        &self,
        address: &ListenAddress,
        settings: &SocketSettings,
    ) -> io::Result<()> {
        if self.listening.get() {
            return Ok(());
        }
        let backlog = settings.backlog.unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        for socket in &self.sockets {
            socket.listen(backlog)?;
            if let (Some(queue), Address::Ip(_)) = (settings.fast_open_queue, &self.address) {
                let queue = i32::try_from(queue).unwrap_or(i32::MAX);
                set_socket_option(
                    socket,
                    libc::IPPROTO_TCP,
                    libc::TCP_FASTOPEN,
                    &queue.to_ne_bytes(),
                )?;
            }
            apply_options(socket, address, settings, SocketStage::Listening)?;
        }
        self.listening.set(true);
        Ok(())
    }

    /// A duplicate of the socket of this worker.
    pub(super) fn socket_of(&self, worker: usize) -> io::Result<Socket> {
        let index = if self.shared { 0 } else { worker };
        self.sockets
            .get(index)
            .ok_or_else(|| io::Error::other("there is no such worker"))?
            .try_clone()
    }
}

fn bind_one(
    address: &ListenAddress,
    bind_to: &Address,
    settings: &SocketSettings,
) -> io::Result<Socket> {
    match bind_to {
        Address::Ip(ip) => bind_ip(address, *ip, settings),
        Address::Pipe(path) => bind_pipe(address, path, settings),
    }
}

fn bind_ip(
    address: &ListenAddress,
    bind_to: SocketAddr,
    settings: &SocketSettings,
) -> io::Result<Socket> {
    let protocol = settings.mptcp.then_some(socket2::Protocol::MPTCP);
    let socket = Socket::new(Domain::for_address(bind_to), Type::STREAM, protocol)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if settings.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if bind_to.is_ipv6() {
        socket.set_only_v6(!address.ipv4_compat)?;
    }
    if let Some(transparent) = settings.transparent {
        if bind_to.is_ipv4() {
            socket.set_ip_transparent_v4(transparent)?;
        } else {
            let value = i32::from(transparent).to_ne_bytes();
            set_socket_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, &value)?;
        }
    }
    if let Some(freebind) = settings.freebind {
        if bind_to.is_ipv4() {
            socket.set_freebind_v4(freebind)?;
        } else {
            socket.set_freebind_v6(freebind)?;
        }
    }
    if let Some(keepalive) = address.keepalive.or(settings.keepalive) {
        keepalive.apply(&socket)?;
    }
    apply_options(&socket, address, settings, SocketStage::Prebind)?;
    socket.bind(&bind_to.into())?;
    apply_options(&socket, address, settings, SocketStage::Bound)?;
    Ok(socket)
}

fn bind_pipe(address: &ListenAddress, path: &str, settings: &SocketSettings) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    apply_options(&socket, address, settings, SocketStage::Prebind)?;
    if let Some(name) = path.strip_prefix('@') {
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
    } else {
        // A file that an earlier process left would make the bind fail.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        socket.bind(&SockAddr::unix(path)?)?;
        if address.pipe_mode != 0 {
            fs::set_permissions(path, Permissions::from_mode(address.pipe_mode))?;
        }
    }
    apply_options(&socket, address, settings, SocketStage::Bound)?;
    Ok(socket)
}

fn apply_options(
    socket: &Socket,
    address: &ListenAddress,
    settings: &SocketSettings,
    stage: SocketStage,
) -> io::Result<()> {
    let options = address.socket_options.as_ref().unwrap_or(&settings.options);
    options
        .iter()
        .try_for_each(|option| option.apply(socket, stage, &address.address))
}

/// Linux takes less where `net.core.somaxconn` says so.
const MAX_BACKLOG: u32 = i32::MAX as u32;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(reuse_port: bool) -> SocketSettings {
        SocketSettings {
            reuse_port,
            transparent: None,
            freebind: None,
            fast_open_queue: None,
            backlog: None,
            keepalive: None,
            options: Vec::new(),
            mptcp: false,
        }
    }

    fn any_port() -> ListenAddress {
        ListenAddress {
            address: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 0))),
            ipv4_compat: false,
            pipe_mode: 0,
            socket_options: None,
            keepalive: None,
        }
    }

    #[test]
    fn all_workers_listen_on_the_port_that_the_first_got() {
        let settings = settings(true);
        let bound = BoundAddress::bind(&any_port(), &settings, 3).unwrap();
        bound.listen(&any_port(), &settings).unwrap();
        assert_ne!(bound.address.port(), Some(0));
        for worker in 0..3 {
            let local = bound.socket_of(worker).unwrap().local_addr().unwrap();
            assert_eq!(
                local.as_socket().map(Address::Ip).as_ref(),
                Some(&bound.address)
            );
        }
        assert!(bound.socket_of(3).is_err());
    }

    #[test]
    fn without_reuse_port_a_second_listener_cannot_take_the_address() {
        let settings = settings(false);
        let bound = BoundAddress::bind(&any_port(), &settings, 3).unwrap();
        bound.listen(&any_port(), &settings).unwrap();
        assert!(bound.socket_of(2).is_ok());
        let again = ListenAddress {
            address: bound.address.clone(),
            ..any_port()
        };
        let error = BoundAddress::bind(&again, &settings, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_pipe_replaces_a_left_file_and_gets_its_mode() {
        let path = std::env::temp_dir().join(format!("outrigger-pipe-{}", std::process::id()));
        fs::write(&path, "left").unwrap();
        let address = ListenAddress {
            address: Address::Pipe(path.to_str().unwrap().into()),
            pipe_mode: 0o600,
            ..any_port()
        };
        let bound = BoundAddress::bind(&address, &settings(true), 2).unwrap();
        bound.listen(&address, &settings(true)).unwrap();
        assert!(bound.socket_of(1).is_ok());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::remove_file(path).unwrap();
    }
}
