//! The terminal's master side, sent over the socket that the caller listens on (runc's `--console-socket`).

use rustix::net::{self, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};
use swarm_runtime::{Error, Result};

/// Connects to the socket. It is done before the container is made: a socket that is not there is found in time.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd> {
    let failed = |e| {
        Error::io(
            format!("connect to the console socket {}", path.display()),
            e,
        )
    };
    let socket = net::socket_with(
        net::AddressFamily::UNIX,
        net::SocketType::STREAM,
        net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    let address = net::SocketAddrUnix::new(path).map_err(failed)?;
    net::connect(&socket, &address).map_err(failed)?;
    Ok(socket)
}

/// Sends the terminal. The bytes that go with it are its name, as runc has them.
pub(crate) fn send(socket: &OwnedFd, terminal: &OwnedFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    let fds = [terminal.as_fd()];
    extra.push(SendAncillaryMessage::ScmRights(&fds));
    net::sendmsg(
        socket,
        &[IoSlice::new(b"/dev/ptmx")],
        &mut extra,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
    .map_err(|e| Error::io("send the terminal over the console socket", e))
}
