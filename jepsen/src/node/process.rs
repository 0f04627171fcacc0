//! One replica's process: start, stop, kill, pause, and what it left behind.

use super::{CLIENT_PORT, Common};
use crate::disk::Disk;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The library that gives a process a wall clock of its own.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A replica: its place and, if it runs, its process.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its node id.
    pub(crate) id: u64,
    /// Its address on all ports.
    pub(crate) address: Ipv4Addr,
    prefix: Vec<String>,
    dir: PathBuf,
    disk: Disk,
    child: Option<Child>,
    paused: bool,
    retired: bool,
    exits: Vec<String>,
}

impl Node {
    pub(super) fn new(
        id: u64,
        address: Ipv4Addr,
        prefix: Vec<String>,
        dir: PathBuf,
        disk: Disk,
    ) -> Self {
        let (child, exits) = (None, Vec::new());
        Self { id, address, prefix, dir, disk, child, paused: false, retired: false, exits }
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}:{CLIENT_PORT}", self.address)
    }

    /// The words before a command that put it into the replica's network.
    pub(crate) fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// Its disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where it keeps log and state.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    /// Where its configuration and log file are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// What it wrote to its standard error.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    fn clock_file(&self) -> PathBuf {
        self.dir.join("clock")
    }

    /// The library for clocks, if this machine has it.
    pub(crate) fn clock_library() -> Option<&'static Path> {
        let path = Path::new(FAKETIME);
        path.is_file().then_some(path)
    }

    /// The number of its process, while there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends that nobody asked for, in the words of the system.
    pub(crate) fn unasked_exits(&self) -> &[String] {
        &self.exits
    }

    /// Whether it left the cluster for good.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// It leaves the cluster for good: nobody starts it again.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether its process runs, paused or not.
    pub(crate) fn is_running(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                self.exits.push(status.to_string());
                (self.child, self.paused) = (None, false);
                false
            }
            Err(_) => false,
        }
    }

    /// Whether it is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn start(&mut self, common: &Common) -> Result<()> {
        ensure!(!self.is_running(), "replica {} runs already", self.id);
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.context("open a replica's log file")?;
        let mut words = self.prefix.clone();
        words.push(common.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["serve", "--stop-with-parent", "--config"])
            .arg(self.config_file())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("share the log file")?)
            .stderr(log);
        if let (true, Some(library)) = (common.clocks, Self::clock_library()) {
            // The monotonic clock stays real: timers go by it, and no machine's
            // jumps.
            self.set_clock(0)?;
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_TIMESTAMP_FILE", self.clock_file());
        }
        self.child = Some(command.spawn().context("start a replica")?);
        Ok(())
    }

    /// Sets the wall clock `seconds` beside the real one.
    ///
    /// # Errors
    ///
    /// Fails if the file that the clock is read from cannot be replaced.
    pub(crate) fn set_clock(&self, seconds: i64) -> Result<()> {
        // Renamed into place: the clock is read all the time, and must not be
        // read half written.
        let part = self.clock_file().with_extension("part");
        std::fs::write(&part, format!("{seconds:+}s\n")).context("write a clock")?;
        std::fs::rename(part, self.clock_file()).context("set a clock")
    }

    /// Ends it at once, as a crash would. Of no effect if it does not run.
    ///
    /// # Errors
    ///
    /// Fails if the process cannot be killed.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.paused = false;
        child.kill().context("kill a replica")?;
        child.wait().context("wait for a killed replica")?;
        Ok(())
    }

    /// Sends SIGTERM. Of no effect if it does not run.
    ///
    /// # Errors
    ///
    /// Fails if the signal cannot be sent.
    pub(crate) fn ask_to_stop(&mut self) -> Result<()> {
        if self.is_running() {
            if self.paused {
                self.pause(false)?;
            }
            self.signal(Signal::TERM)?;
        }
        Ok(())
    }

    /// Waits for a process that was asked to stop, and kills it after `timeout`.
    /// Whether it stopped by itself.
    ///
    /// # Errors
    ///
    /// Fails if the system does not say how it ended.
    pub(crate) fn wait_stopped(&mut self, timeout: Duration) -> Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(true) };
        let until = Instant::now() + timeout;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().context("wait for a replica")? {
                self.note_end(status);
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().context("kill a replica that did not stop")?;
        child.wait().context("wait for a killed replica")?;
        Ok(false)
    }

    fn note_end(&mut self, status: ExitStatus) {
        if !status.success() {
            self.exits.push(status.to_string());
        }
    }

    /// Freezes it, or lets it go on.
    ///
    /// # Errors
    ///
    /// Fails if it does not run.
    pub(crate) fn pause(&mut self, paused: bool) -> Result<()> {
        if !self.is_running() {
            bail!("replica {} does not run", self.id);
        }
        self.signal(if paused { Signal::STOP } else { Signal::CONT })?;
        self.paused = paused;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.context("there is no process")?;
        kill_process(pid, signal).context("send a signal to a replica")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
