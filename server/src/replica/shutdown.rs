//! How a replica ends well. The order is the point: refuse writes, hand
//! leadership over, let what is under way finish, stop consensus, make the
//! state durable, close the log.

use super::running::Replica;
use crate::raft::blocking;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long leadership may take to be handed over.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// How long writes that are under way may take.
const DRAIN_MAX: Duration = Duration::from_secs(3);

impl Replica {
    /// Ends this replica. Safe to call more than once; without it nothing
    /// acknowledged is lost, but the others take an election to notice.
    pub async fn shutdown(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::info!("shutting down");
        self.leave().await;
        self.parts.tokens.stop.cancel();
        self.parts.consensus.stop().await;
        self.parts.tokens.close.cancel();
        let state = Arc::clone(&self.parts.state);
        if let Err(error) = blocking(move || state.checkpoint()).await {
            tracing::error!(%error, "the last checkpoint failed");
        }
        self.close_log().await;
        tracing::info!("shut down");
    }

    /// Ends this replica at once, as a crash would: nothing is handed over, and
    /// no checkpoint is taken. For tests, and for a process that has failed.
    pub async fn halt(&self) {
        self.stopping.store(true, Ordering::Release);
        self.parts.tokens.stop.cancel();
        self.parts.tokens.close.cancel();
        self.parts.consensus.stop().await;
        self.close_log().await;
    }

    async fn close_log(&self) {
        self.parts.log.close();
        let writer = self.parts.log_writer.lock().ok().and_then(|mut writer| writer.take());
        if let Some(writer) = writer {
            let joined = blocking(move || writer.join()).await;
            if joined.is_err() {
                tracing::error!("the log's writer panicked");
            }
        }
        self.parts.dir.release();
    }

    /// Hands leadership over and waits for what is under way.
    async fn leave(&self) {
        if self.leadership.borrow().leads() {
            self.parts.consensus.set_elects(false);
            let others = self.leadership.borrow().members.voter_ids().len() > 1;
            if others {
                match tokio::time::timeout(HAND_OVER_MAX, self.pass_on()).await {
                    Ok(Ok(leader)) => tracing::info!(leader, "leadership was handed over"),
                    Ok(Err(error)) => tracing::warn!(error, "leadership was not handed over"),
                    Err(_elapsed) => tracing::warn!("leadership was not handed over in time"),
                }
            }
        }
        let until = Instant::now() + DRAIN_MAX;
        while self.waiting_bytes() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Hands over, with writes still being applied: the target has to have
    /// almost all of the log.
    async fn pass_on(&self) -> Result<u64, String> {
        self.hand_over(None).await.map_err(|error| error.to_string())
    }
}
