//! Talking to the kernel: messages, sockets, and what each [`Change`](crate::Change) is in them. It must not decide
//! anything: what to change comes from the plan.

pub(crate) mod abi;
pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod conntrack;
pub(crate) mod nft;
pub(crate) mod observe;
pub(crate) mod socket;
pub(crate) mod sysctl;
pub(crate) mod wire;
