//! Panics of this thread's agents: an async runtime keeps them to itself. The database's own are no fault: agents catch them
//! where they open what a bad disk has made of it.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// The first panic of this thread since the last time.
pub fn take() -> Option<String> {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info
                .location()
                .map(std::panic::Location::file)
                .unwrap_or_default();
            if !place.contains("/redb-") {
                FIRST.with_borrow_mut(|first| {
                    first.get_or_insert_with(|| info.to_string());
                });
                usual(info);
            }
        }));
    });
    FIRST.take()
}
