//! Progress bars for long work, on standard error, for people only.

use super::output::note;
use crate::backup::{Observer, Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A bar for each phase. Without a terminal the phases are named, once each.
#[derive(Debug, Default)]
pub(super) struct Bars {
    current: Mutex<Option<(Phase, ProgressBar)>>,
}

impl Observer for Bars {
    fn progress(&self, progress: &Progress) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(phase, _)| *phase != progress.phase) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((progress.phase, begin(progress)));
        }
        if let Some((_, bar)) = current.as_ref() {
            // An estimate may be too low; a bar beyond its end would be a lie.
            let total = progress.bytes_total.map(|total| total.max(progress.bytes));
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} rows", progress.rows));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = current.take() {
            bar.finish_and_clear();
        }
    }
}

fn begin(progress: &Progress) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        note(&format!("{} ...", progress.phase));
        return ProgressBar::hidden();
    }
    let bar = match progress.bytes_total {
        Some(total) => ProgressBar::new(total).with_style(style(
            "{prefix:>8} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta} {msg}",
        )),
        None => ProgressBar::new_spinner()
            .with_style(style("{prefix:>8} {spinner} {bytes} {binary_bytes_per_sec} {msg}")),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_prefix(progress.phase.to_string())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .progress_chars("=> ")
}
