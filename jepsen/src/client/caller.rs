//! A process that works through the client library, which is the subject here:
//! it retries, follows leaders, and says whether a write can still take effect.

use keelstone_client::{Error, Outcome};
use keelstone_jepsen::history::{Op, Process, Recorder};
use std::sync::Arc;

/// One process after the other.
pub(crate) struct Caller {
    recorder: Arc<Recorder>,
    process: Process,
}

impl Caller {
    /// Begins under a new number.
    pub(crate) fn new(recorder: Arc<Recorder>) -> Self {
        let process = recorder.new_process();
        Self { recorder, process }
    }

    /// One operation: recorded, done, and recorded again with what `done` makes
    /// of the answer. `None` from `done` says that it did not happen.
    ///
    /// # Errors
    ///
    /// Fails as the call does.
    pub(crate) async fn operation<T>(
        &mut self,
        op: Op,
        call: impl Future<Output = Result<T, Error>>,
        done: impl FnOnce(&T) -> Option<Op>,
    ) -> Result<T, Error> {
        self.recorder.invoke(self.process, op.clone(), None);
        match call.await {
            Ok(answer) => {
                match done(&answer) {
                    Some(op) => self.recorder.ok(self.process, op, None),
                    None => self.recorder.fail(self.process, op, None, "refused".to_owned()),
                };
                Ok(answer)
            }
            Err(error) => {
                let text = format!("{:?}: {error}", error.kind());
                if error.outcome() == Outcome::NotApplied {
                    self.recorder.fail(self.process, op, None, text);
                } else {
                    self.process = self.recorder.info(self.process, op, None, text);
                }
                Err(error)
            }
        }
    }
}
