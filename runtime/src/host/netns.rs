//! What is done in a container's network namespace from outside: work in a thread of its own, and the loopback interface.
//! Must not know of tasks.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::AsFd;

/// Lets a thread do `work` in the network namespace, and end: one that went on would stay there.
pub(super) async fn within<T: Send + 'static>(
    namespace: impl AsFd + Send + 'static,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let enter = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(64 << 10)
        .spawn(move || {
            // Who asked may have gone.
            let _ = done.send(enter());
        })?;
    outcome.await.unwrap_or_else(|_| {
        let why = "the thread in the network namespace ended";
        Err(io::Error::other(why))
    })
}

/// Sets the loopback interface of this thread's network namespace up (rtnetlink(7)).
pub(super) fn loopback_up() -> io::Result<()> {
    // In every network namespace.
    const LOOPBACK: i32 = 1;
    const LENGTH: u32 = 32;
    let up = u32::from_ne_bytes(libc::IFF_UP.to_ne_bytes());
    let mut message = Vec::with_capacity(LENGTH as usize);
    // nlmsghdr: length, type, flags, sequence, port.
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    // ifinfomsg: family, padding, type, index, flags, which of them change.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message.extend_from_slice(&up.to_ne_bytes());
    message.extend_from_slice(&up.to_ne_bytes());
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // nlmsgerr: 0, or an error number below it.
    let error = answer[..length].get(16..20).and_then(|e| e.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}
