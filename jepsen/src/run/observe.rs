//! Looking at the replicas from outside while they work: state hashes, views of
//! the membership, metrics.

use crate::client::{Directory, Raw, within};
use keelstone_jepsen::history::{MemberView, Op, Recorder, StateHash};
use keelstone_proto::v1;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often each replica is asked.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_millis(400);
/// Bytes of metrics that are kept.
const METRICS_BYTES_MAX: u64 = 4 << 20;

/// Asks all replicas for their state's hash and the membership until `stop`.
pub(crate) fn sample(
    recorder: Arc<Recorder>,
    directory: Arc<Directory>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut raws: Vec<Raw> = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let known = directory.nodes();
            raws.retain(|raw| known.iter().any(|(id, _)| *id == raw.node));
            for (id, endpoint) in known {
                if !raws.iter().any(|raw| raw.node == id) {
                    raws.extend(directory.raw(id, &endpoint).ok());
                }
            }
            let looks = raws.iter().map(|raw| look(&recorder, raw, ANSWER));
            futures::future::join_all(looks).await;
        }
    })
}

/// One look at one replica; an answer that does not come leaves no trace.
pub(crate) async fn look(recorder: &Recorder, raw: &Raw, answer: Duration) {
    let Ok(status) = raw.status(answer).await else { return };
    let member = raw.node;
    let process = recorder.new_process();
    let asked = StateHash { member, ..StateHash::default() };
    recorder.invoke(process, Op::StateHash(asked), Some(member));
    let hash = hex(&status.state_hash);
    let answered = StateHash { member, at: Some(status.transitions), hash: Some(hash) };
    recorder.ok(process, Op::StateHash(answered), Some(member));

    let mut cluster = raw.cluster();
    let request = v1::MembersRequest { consistency: v1::Consistency::Serializable.into() };
    let asked = cluster.members(within(answer, request));
    let Ok(Ok(members)) = tokio::time::timeout(answer, asked).await else { return };
    let Some(applied) = members.into_inner().applied else { return };
    recorder.invoke(
        process,
        Op::MemberView(MemberView { member, ..MemberView::default() }),
        Some(member),
    );
    let view = MemberView {
        member,
        log_index: Some(applied.log_index),
        voters: Some(applied.voters),
        learners: Some(applied.learners),
        term: status.header.as_ref().map(|header| header.term),
        leader: Some(status.leader),
    };
    recorder.ok(process, Op::MemberView(view), Some(member));
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Keeps what a replica counts in `file`; nothing if it does not answer.
pub(crate) async fn keep_metrics(address: &str, file: &Path) {
    let reading = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.take(METRICS_BYTES_MAX).read_to_end(&mut text).await?;
        tokio::fs::write(file, text).await
    };
    tokio::time::timeout(Duration::from_secs(2), reading).await.ok();
}
