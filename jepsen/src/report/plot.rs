//! Plots over time as SVG: latencies and rates, with the faults behind them.

use super::markup::{cut, escape};
use crate::history::{Fault, FaultPhase, History, Op, Outcome};

const WIDTH: f64 = 1150.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 26.0;
/// Points that are drawn; of more, every n-th is.
const POINTS_MAX: usize = 6_000;
/// Windows that rates are counted in.
const WINDOWS: usize = 120;

/// A time in which a fault was at work.
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// All faults as spans of time.
pub(super) fn bands(history: &History) -> Vec<Band> {
    let mut open: Vec<(u64, &Fault)> = Vec::new();
    let mut bands = Vec::new();
    let band = |from: u64, to: u64, fault: &Fault| {
        let targets: Vec<String> = fault.targets.iter().map(u64::to_string).collect();
        Band { name: format!("{} {}", fault.fault, targets.join(",")), from, to }
    };
    for (event, fault) in history.faults() {
        match fault.phase {
            FaultPhase::Start => open.push((event.time, fault)),
            FaultPhase::Once => bands.push(band(event.time, event.time, fault)),
            FaultPhase::Stop => {
                let same = |(_, other): &(u64, &Fault)| {
                    other.fault == fault.fault
                        && (fault.targets.is_empty() || other.targets == fault.targets)
                };
                if let Some(place) = open.iter().position(same) {
                    let (from, begun) = open.remove(place);
                    bands.push(band(from, event.time, begun));
                }
            }
            FaultPhase::Heal => {
                bands.extend(open.drain(..).map(|(from, begun)| band(from, event.time, begun)));
            }
            FaultPhase::Skipped => {}
        }
    }
    let end = history.end();
    bands.extend(open.into_iter().map(|(from, begun)| band(from, end, begun)));
    bands.sort_by_key(|band| band.from);
    bands
}

/// Places times on the axis.
struct Axis {
    from: u64,
    length: f64,
}

impl Axis {
    fn of(history: &History) -> Self {
        let from = history.events().first().map_or(0, |event| event.time);
        Self { from, length: seconds(history.end().saturating_sub(from)).max(1e-9) }
    }

    fn x(&self, time: u64) -> f64 {
        let share = seconds(time.saturating_sub(self.from)) / self.length;
        LEFT + share * (WIDTH - LEFT - 10.0)
    }

    /// The frame of a plot: faults, ticks of time, a title.
    fn frame(&self, bands: &[Band], height: f64, title: &str) -> String {
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>{title}</title>\n",
            title = escape(title)
        );
        for band in bands {
            let (x, to) = (self.x(band.from), self.x(band.to));
            out += &format!(
                "<rect x=\"{x:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f3c9a5\" \
                 fill-opacity=\"0.45\"><title>{}</title></rect>\n",
                (to - x).max(1.5),
                height - BOTTOM,
                escape(&format!("{} for {:.2} s", band.name, seconds(band.to - band.from)))
            );
        }
        for tick in 0..=10 {
            let share = f64::from(tick) / 10.0;
            let x = LEFT + share * (WIDTH - LEFT - 10.0);
            out += &format!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"middle\" \
                 fill=\"#5b6575\">{:.1} s</text>\n",
                height - 8.0,
                share * self.length
            );
        }
        out
    }
}

/// Latencies of all operations, one point each, on a logarithmic scale.
pub(super) fn latencies(history: &History, bands: &[Band]) -> String {
    const HEIGHT: f64 = 320.0;
    let axis = Axis::of(history);
    let mut out = axis.frame(bands, HEIGHT, "latency of each operation");
    // From 0.01 ms to 100 s.
    let y = |nanos: u64| {
        let decades = (seconds(nanos).max(1e-5).log10() + 5.0) / 7.0;
        10.0 + (1.0 - decades.min(1.0)) * (HEIGHT - BOTTOM - 20.0)
    };
    for (label, nanos) in [
        ("0.1 ms", 100_000),
        ("1 ms", 1_000_000),
        ("10 ms", 10_000_000),
        ("0.1 s", 100_000_000),
        ("1 s", 1_000_000_000),
        ("10 s", 10_000_000_000),
    ] {
        let y = y(nanos);
        out += &format!(
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e6e9ef\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\" fill=\"#5b6575\">\
             {label}</text>\n",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let operations = history.operations();
    let step = operations.len().div_ceil(POINTS_MAX).max(1);
    for operation in operations.iter().step_by(step) {
        let Some(done) = operation.completion else { continue };
        out += &format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.6\" fill=\"{}\"/>\n",
            axis.x(operation.invoked()),
            y(done.time.saturating_sub(operation.invoked())),
            colour(operation.outcome())
        );
    }
    out + "</svg>\n"
}

/// Completions a second by how they ended.
pub(super) fn rates(history: &History, bands: &[Band]) -> String {
    const HEIGHT: f64 = 220.0;
    let axis = Axis::of(history);
    let mut counts = [[0_u32; WINDOWS]; 3];
    for operation in history.operations() {
        let Some(done) = operation.completion else { continue };
        let share = seconds(done.time.saturating_sub(axis.from)) / axis.length;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share from 0 to 1 of a small number"
        )]
        let window = ((share * WINDOWS as f64) as usize).min(WINDOWS - 1);
        counts[operation.outcome() as usize][window] += 1;
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(0).max(1);
    let span = axis.length / 120.0;
    let mut out = axis.frame(bands, HEIGHT, "completions a second");
    for (outcome, counts) in [Outcome::Ok, Outcome::Fail, Outcome::Info].iter().zip(&counts) {
        let mut points = String::new();
        let mut x = LEFT;
        for count in counts {
            let y = 12.0 + (1.0 - f64::from(*count) / f64::from(most)) * (HEIGHT - BOTTOM - 20.0);
            points += &format!("{x:.1},{y:.1} ");
            x += (WIDTH - LEFT - 10.0) / 120.0;
        }
        out += &format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n",
            colour(*outcome)
        );
    }
    out += &format!(
        "<text x=\"{:.1}\" y=\"16\" font-size=\"11\" text-anchor=\"end\" fill=\"#5b6575\">{:.0}/s\
         </text>\n",
        LEFT - 6.0,
        f64::from(most) / span
    );
    out + "</svg>\n"
}

/// The colour of an outcome, in all plots.
pub(super) fn colour(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "#2f6fde",
        Outcome::Fail => "#d9822b",
        Outcome::Info => "#c1121f",
    }
}

/// A short text of an operation, for a lane.
pub(super) fn label(op: &Op) -> String {
    let text = match op {
        Op::Txn(txn) => {
            let mut parts: Vec<String> = Vec::new();
            let branch = txn.branch(txn.reply.as_ref().is_none_or(|reply| reply.succeeded));
            for action in branch {
                parts.push(match action {
                    crate::history::Action::Put { key, value, .. } => format!("{key}={value}"),
                    crate::history::Action::Delete { key, .. } => format!("del {key}"),
                    crate::history::Action::Range { key, .. } => format!("get {key}"),
                });
            }
            let at = txn.reply.as_ref().map_or(String::new(), |r| format!(" @{}", r.revision));
            let guard = if txn.compares.is_empty() { "" } else { "if " };
            format!("{guard}{}{at}", parts.join("; "))
        }
        op => op.name().to_owned(),
    };
    cut(&text, 48)
}

/// Seconds of so many nanoseconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}
