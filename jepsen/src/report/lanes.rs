//! Timelines: a lane for each process, a bar for each operation.

use super::markup::escape;
use super::plot::{Band, colour, label, seconds};
use crate::history::{History, Operation, Process};
use std::collections::BTreeMap;

const WIDTH: f64 = 1150.0;
const LEFT: f64 = 90.0;
const LANE: f64 = 26.0;
/// Lanes of one timeline.
const LANES_MAX: usize = 40;
/// Bars of one timeline.
const BARS_MAX: usize = 1_500;

/// The operations that overlap a span of time, with those of `marked` outlined.
pub(super) fn lanes(
    history: &History,
    bands: &[Band],
    (from, to): (u64, u64),
    marked: &[u64],
) -> String {
    let operations = history.operations();
    let end = |operation: &Operation<'_>| operation.completion.map_or(u64::MAX, |event| event.time);
    let is_marked =
        |operation: &Operation<'_>| operation.indices().iter().any(|index| marked.contains(index));
    let mut shown: Vec<_> = operations
        .iter()
        .filter(|operation| operation.invoked() <= to && end(operation) >= from)
        .filter(|operation| operation.completion.is_some() || is_marked(operation))
        .collect();
    let total = shown.len();
    // What the timeline is about stays, whatever has to go.
    shown.sort_by_key(|operation| (!is_marked(operation), operation.invoke.index));
    let mut lanes: BTreeMap<Process, usize> = BTreeMap::new();
    shown.truncate(BARS_MAX);
    for operation in &shown {
        if lanes.len() < LANES_MAX {
            lanes.entry(operation.invoke.process).or_insert(0);
        }
    }
    for (lane, place) in lanes.values_mut().enumerate() {
        *place = lane;
    }
    let mut height = 20.0;
    for _ in 0..lanes.len() {
        height += LANE;
    }
    let length = seconds(to.saturating_sub(from)).max(1e-9);
    let x = |time: u64| {
        let share = seconds(time.clamp(from, to) - from) / length;
        LEFT + share * (WIDTH - LEFT - 5.0)
    };
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for band in bands.iter().filter(|band| band.from <= to && band.to >= from) {
        out += &format!(
            "<rect x=\"{:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\" fill=\"#f3c9a5\" \
             fill-opacity=\"0.4\"><title>{}</title></rect>\n",
            x(band.from),
            (x(band.to) - x(band.from)).max(1.5),
            escape(&band.name)
        );
    }
    let mut y = 4.0;
    for process in lanes.keys() {
        out += &format!(
            "<text x=\"4\" y=\"{:.1}\" font-size=\"11\" fill=\"#5b6575\">client {}</text>\n",
            y + 15.0,
            escape(&process.to_string())
        );
        y += LANE;
    }
    for operation in shown {
        let Some(lane) = lanes.get(&operation.invoke.process) else { continue };
        let top = 4.0 + LANE * f64::from(u32::try_from(*lane).unwrap_or(0));
        out +=
            &bar(operation, (x(operation.invoked()), x(end(operation))), top, is_marked(operation));
    }
    out += &format!(
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"11\" fill=\"#5b6575\">{:.6} s</text>\
         <text x=\"{WIDTH}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\" fill=\"#5b6575\">\
         {:.6} s</text>\n</svg>\n",
        height - 4.0,
        seconds(from),
        height - 4.0,
        seconds(to)
    );
    if total > BARS_MAX {
        out += &format!("<small>{BARS_MAX} of {total} operations are shown.</small>\n");
    }
    out
}

fn bar(operation: &Operation<'_>, (from, to): (f64, f64), top: f64, marked: bool) -> String {
    let op = operation.ok().map_or(&operation.invoke.op, |(_, op)| op);
    let colour = colour(operation.outcome());
    let edge = if marked { " stroke=\"#000\" stroke-width=\"2\"" } else { "" };
    let width = (to - from).max(2.0);
    let told = serde_json::to_string(op).unwrap_or_default();
    let error = operation.completion.and_then(|event| event.error.as_deref()).unwrap_or_default();
    let about =
        format!("events {:?} {error}\n{}", operation.indices(), super::markup::cut(&told, 1500));
    let text = if width > 30.0 { label(op) } else { String::new() };
    // Six units are about a letter: what does not fit is cut, the title has all.
    let fits = (width / 6.0).max(0.0);
    let text: String = text
        .chars()
        .scan(0.0, |used, c| {
            *used += 1.0;
            (*used < fits).then_some(c)
        })
        .collect();
    format!(
        "<g><rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"20\" rx=\"3\" \
         fill=\"{colour}\" fill-opacity=\"0.35\"{edge}/><text x=\"{:.1}\" y=\"{:.1}\" \
         font-size=\"10\">{}</text><title>{}</title></g>\n",
        from + 3.0,
        top + 14.0,
        escape(&text),
        escape(&about)
    )
}
