//! Where the rows of a backup come from: a cluster, over the network, or a state
//! in this process. Both are consistent at one revision and end with a trailer
//! that says what they must have been.

use super::manifest::MemberEntry;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use keelstone_client::{Export, ExportPart};
use keelstone_store::machine::View as _;
use keelstone_store::state::StateView;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Runs of rows that wait between the state and the packs: 2 MiB.
const RUNS_WAITING: usize = 2;

/// What is being copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceHeader {
    /// Names the cluster.
    pub cluster_id: [u8; 16],
    /// The history that the revision counts in.
    pub history: [u8; 16],
    /// The revision.
    pub revision: u64,
    /// About how many bytes will come; 0: nobody knows.
    pub estimated_bytes: u64,
    /// The term of the last applied log entry.
    pub raft_term: u64,
    /// Its index.
    pub raft_index: u64,
    /// The replicas.
    pub members: Vec<MemberEntry>,
}

/// What the copy must have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTrailer {
    /// Rows.
    pub rows: u64,
    /// BLAKE3 over the sorted live records.
    pub state_root: [u8; 32],
    /// BLAKE3 over the bytes of all rows, in order.
    pub hash: [u8; 32],
}

/// A piece of the copy.
#[derive(Clone, PartialEq, Eq)]
pub enum SourcePart {
    /// A framed run of rows.
    Rows(Bytes),
    /// The end.
    Trailer(SourceTrailer),
}

/// A consistent copy of a store, as it is read.
pub struct Source {
    /// What is being copied.
    pub header: SourceHeader,
    /// Its rows, and then the trailer.
    pub parts: BoxStream<'static, Result<SourcePart, String>>,
}

impl Source {
    /// The state that `view` shows. It is read on a thread of its own, a little
    /// ahead of the reader.
    pub fn of_view(view: StateView, cluster_id: [u8; 16]) -> Self {
        let head = view.head();
        let applied = view.applied();
        let id = applied.id.unwrap_or_default();
        let voters: Vec<u64> =
            applied.membership.configs.iter().flat_map(|set| set.ids.iter().copied()).collect();
        let members = applied.membership.members.iter().map(|member| MemberEntry {
            id: member.id,
            role: role(voters.contains(&member.id)),
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            labels: member.labels.clone(),
        });
        let header = SourceHeader {
            cluster_id,
            history: head.history,
            revision: head.revision.get(),
            estimated_bytes: 0,
            raft_term: id.term,
            raft_index: id.index,
            members: members.collect(),
        };
        let (sender, receiver) = mpsc::channel(RUNS_WAITING);
        tokio::task::spawn_blocking(move || read_view(&view, &sender));
        let parts = tokio_stream::wrappers::ReceiverStream::new(receiver).boxed();
        Self { header, parts }
    }

    /// A copy that a cluster sends.
    ///
    /// # Errors
    ///
    /// Fails if the cluster does not say who it is.
    pub fn of_export(export: Export) -> Result<Self, String> {
        let from = export.header();
        let cluster_id = from.cluster_id.as_ref().try_into();
        let members = from.members.iter().map(|member| MemberEntry {
            id: member.id,
            role: role(member.voter),
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            labels: member.labels.clone(),
        });
        let header = SourceHeader {
            cluster_id: cluster_id.map_err(|_| "the cluster does not tell its id".to_owned())?,
            history: *from.history.as_bytes(),
            revision: from.revision.get(),
            estimated_bytes: from.estimated_bytes,
            raft_term: from.raft_term,
            raft_index: from.raft_index,
            members: members.collect(),
        };
        let parts = futures::stream::unfold(export, |mut export| async move {
            let part = export.next().await.transpose()?;
            Some((part.map_err(|error| error.to_string()).and_then(part_of), export))
        });
        Ok(Self { header, parts: parts.boxed() })
    }
}

fn role(voter: bool) -> String {
    if voter { "voter" } else { "learner" }.to_owned()
}

fn part_of(part: ExportPart) -> Result<SourcePart, String> {
    match part {
        ExportPart::Rows(rows) => Ok(SourcePart::Rows(rows)),
        ExportPart::Trailer(trailer) => {
            let hash = |bytes: &Bytes| {
                let hash = bytes.as_ref().try_into();
                hash.map_err(|_| "the trailer of the export is malformed".to_owned())
            };
            Ok(SourcePart::Trailer(SourceTrailer {
                rows: trailer.rows,
                state_root: hash(&trailer.state_root)?,
                hash: hash(&trailer.hash)?,
            }))
        }
        _ => Err("the export has a part that this version does not know".to_owned()),
    }
}

/// Reads the whole view; ends early if nobody listens.
fn read_view(view: &StateView, sender: &mpsc::Sender<Result<SourcePart, String>>) {
    let send = |part| sender.blocking_send(part).is_ok();
    let mut export = match view.export_rows(view.head().revision) {
        Ok(export) => export,
        Err(rejection) => {
            send(Err(rejection.to_string()));
            return;
        }
    };
    let mut hasher = blake3::Hasher::new();
    loop {
        match export.next_chunk() {
            Ok(Some(chunk)) => {
                hasher.update(&chunk.bytes);
                if !send(Ok(SourcePart::Rows(chunk.bytes))) {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                send(Err(error.to_string()));
                return;
            }
        }
    }
    let trailer = export.trailer();
    send(Ok(SourcePart::Trailer(SourceTrailer {
        rows: trailer.rows,
        state_root: trailer.state_root,
        hash: *hasher.finalize().as_bytes(),
    })));
}

/// Milliseconds since the Unix epoch.
pub(super) fn millis_of(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
