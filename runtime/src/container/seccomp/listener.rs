//! The way of a filter's listener to whoever answers for it (OCI config-linux, "The Container Process State"): a descriptor and a
//! description, over a socket of the host.

use super::Filter;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rustix::net::{
    self, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
};
use std::{
    cell::OnceCell,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

/// Whom the spec wants to be asked: the path of its socket, and the metadata for it. None if no rule asks.
pub(super) fn wanted(spec: &LinuxSeccomp) -> Result<Option<(PathBuf, String)>> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    if spec.default_action() == notify {
        return Err(Error::Invalid(
            "SCMP_ACT_NOTIFY cannot be the seccomp filter's default action: the runtime itself would be stopped by it"
                .to_owned(),
        ));
    }
    let mut asked = spec
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.action() == notify)
        .peekable();
    if asked.peek().is_none() {
        return Ok(None);
    }
    // With it the descriptor is sent.
    if asked.any(|rule| rule.names().iter().any(|name| name == "sendmsg")) {
        return Err(Error::Invalid(
            "SCMP_ACT_NOTIFY cannot be for sendmsg, with which the runtime hands the listener over"
                .to_owned(),
        ));
    }
    let path = spec.listener_path().clone().ok_or_else(|| {
        Error::Invalid("SCMP_ACT_NOTIFY needs a listenerPath in the seccomp filter".to_owned())
    })?;
    let metadata = spec.listener_metadata().clone().unwrap_or_default();
    Ok(Some((path, metadata)))
}

/// A connection to whoever answers.
#[derive(Debug, Default)]
pub(in crate::container) struct Listener {
    socket: Option<OwnedFd>,
    metadata: String,
    message: OnceCell<String>,
}

impl Listener {
    /// Connects, where the filter has a listener.
    pub(in crate::container) fn connect(filter: &Filter) -> Result<Self> {
        let Some((path, metadata)) = &filter.listener else {
            return Ok(Self::default());
        };
        let failed = |e| {
            Error::io(
                format!("connect to the seccomp listener {}", path.display()),
                e,
            )
        };
        let socket = net::socket_with(
            net::AddressFamily::UNIX,
            net::SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        net::connect(&socket, &address).map_err(failed)?;
        Ok(Self {
            socket: Some(socket),
            metadata: metadata.clone(),
            message: OnceCell::new(),
        })
    }

    /// What to say: the container's state as hooks get it, and the process's number on the host.
    pub(in crate::container) fn prepare(&self, version: &str, state: &str, pid: i32) {
        let state: serde_json::Value = serde_json::from_str(state).unwrap_or_default();
        let _ = self.message.set(
            serde_json::json!({
                "ociVersion": version,
                "fds": ["seccompFd"],
                "pid": pid,
                "metadata": self.metadata,
                "state": state,
            })
            .to_string(),
        );
    }

    /// Hands the descriptor over.
    pub(in crate::container) fn send(&self, listener: &OwnedFd) -> Result<()> {
        let (Some(socket), Some(message)) = (&self.socket, self.message.get()) else {
            return Err(Error::Internal(
                "there is no connection to the seccomp listener".to_owned(),
            ));
        };
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut extra = SendAncillaryBuffer::new(&mut space);
        extra.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::io::retry_on_intr(|| {
            net::sendmsg(
                socket,
                &[IoSlice::new(message.as_bytes())],
                &mut extra,
                SendFlags::NOSIGNAL,
            )
        })
        .map(drop)
        .map_err(|e| Error::io("hand the seccomp listener over", e))
    }
}
