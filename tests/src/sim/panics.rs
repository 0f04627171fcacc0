//! Panics of tasks on the machines, wherever they are caught.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// Notes panics of this thread from now on, instead of printing them.
pub fn watch() {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let text = format!("{panic}\n{}", frames());
            SEEN.with(|seen| seen.borrow_mut().push(text));
        }));
    });
    SEEN.with(|seen| seen.borrow_mut().clear());
}

/// The panics since it was last asked.
pub fn take() -> Vec<String> {
    SEEN.with(RefCell::take)
}

/// Where it came from: the frames that are ours or of the consensus library.
fn frames() -> String {
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    let ours = |line: &&str| line.contains("keelstone") || line.contains("openraft");
    let frames: Vec<&str> = trace.lines().filter(ours).take(8).map(str::trim).collect();
    frames.join("\n")
}
