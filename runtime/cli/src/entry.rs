//! Where the program begins. The standard library's own beginning looks for the stack in `/proc/self/maps` and makes a second one for a
//! message about its overflow: more than what a command of a millisecond should spend. What else it does is done here.
//!
//! Why unsafe: the C library calls this function by its name; and the action of a signal is set.
#![allow(unsafe_code)]

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
};

// SAFETY: no other function of this program has this name, and the C library calls it with these arguments.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _words: *const *const libc::c_char) -> libc::c_int {
    open_streams();
    // A pipe that nobody reads is an error, not the end.
    // SAFETY: no handler is given.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    std::process::exit(i32::from(crate::start()))
}

/// Standard streams that the caller has closed become the null device: no file that is opened later may take their place.
fn open_streams() {
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let mut looked = streams.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let closed = match rustix::io::retry_on_intr(|| poll(&mut looked, Some(&at_once))) {
        Ok(0) => return,
        Ok(_) => looked
            .iter()
            .filter(|fd| fd.revents().contains(PollFlags::NVAL))
            .count(),
        Err(_) => streams.len(),
    };
    // The lowest numbers that are free are theirs.
    for _ in 0..closed {
        match open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(fd) => std::mem::forget(fd),
            Err(_) => std::process::abort(),
        }
    }
}
