//! The only place where types of the consensus library meet ours: those of the
//! log, of the disk formats and of the peer protocol. Nothing of the library
//! reaches a disk or a wire.

use super::types::{
    CommittedLeader, Entry, LeaderId, LogId, Membership, Node, Payload, Request, SnapshotMeta,
    StoredMembership, Types, Vote,
};
use bytes::{BufMut, Bytes, BytesMut};
use keelstone_proto::{disk, peer};
use keelstone_store::disk::LogId as StoreLogId;
use keelstone_store::disk::log::{LogEntry, Vote as StoreVote};
use keelstone_store::state::{Applied, Payload as StatePayload};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId as _;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

/// A message or a record that says something it cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Field 2 of `EntryPayload`, length-delimited: a batch.
const BATCH_TAG: u8 = 0x12;

// --- log ids and votes -------------------------------------------------------

pub(crate) fn log_id_to_store(id: &LogId) -> StoreLogId {
    StoreLogId { term: id.leader_id.term, index: id.index, leader: 0 }
}

pub(crate) fn log_id_from_store(id: StoreLogId) -> LogId {
    LogId::new(CommittedLeader::new(id.term), id.index)
}

pub(crate) fn log_id_to_proto(id: &LogId) -> disk::LogId {
    disk::LogId { term: id.leader_id.term, index: id.index, leader: 0 }
}

pub(crate) fn log_id_from_proto(id: &disk::LogId) -> LogId {
    LogId::new(CommittedLeader::new(id.term), id.index)
}

pub(crate) fn vote_to_store(vote: &Vote) -> StoreVote {
    StoreVote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_store(vote: StoreVote) -> Vote {
    let leader_id = LeaderId::new(vote.term, vote.node);
    Vote { leader_id, committed: vote.committed }
}

pub(crate) fn vote_to_proto(vote: &Vote) -> disk::Vote {
    disk::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: Option<disk::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("no vote"))?;
    Ok(Vote { leader_id: LeaderId::new(vote.term, vote.node), committed: vote.committed })
}

// --- membership --------------------------------------------------------------

pub(crate) fn node_to_member(id: u64, node: &Node) -> disk::Member {
    disk::Member {
        id,
        peer_address: node.peer_address.clone(),
        client_address: node.client_address.clone(),
        labels: node.labels.clone(),
    }
}

pub(crate) fn node_from_member(member: &disk::Member) -> Node {
    Node {
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        labels: member.labels.clone(),
    }
}

fn membership_to_proto(log_id: Option<&LogId>, membership: &Membership) -> disk::Membership {
    let configs = membership.get_joint_config().iter();
    disk::Membership {
        log_id: log_id.map(log_id_to_proto),
        configs: configs.map(|ids| disk::VoterSet { ids: ids.iter().copied().collect() }).collect(),
        members: membership.nodes().map(|(id, node)| node_to_member(*id, node)).collect(),
    }
}

fn membership_from_proto(membership: &disk::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, Node> =
        membership.members.iter().map(|member| (member.id, node_from_member(member))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("a membership without its voters"))
}

pub(crate) fn stored_membership_from_proto(
    membership: &disk::Membership,
) -> Result<StoredMembership, Malformed> {
    let log_id = membership.log_id.as_ref().map(log_id_from_proto);
    Ok(StoredMembership::new(log_id, membership_from_proto(membership)?))
}

pub(crate) fn applied_to_meta(applied: &Applied) -> Result<SnapshotMeta, Malformed> {
    Ok(SnapshotMeta {
        last_log_id: applied.id.map(log_id_from_store),
        last_membership: stored_membership_from_proto(&applied.membership)?,
    })
}

pub(crate) fn applied_to_proto(applied: &Applied) -> disk::Applied {
    let id = applied.id.unwrap_or_default();
    disk::Applied {
        term: id.term,
        index: id.index,
        leader: id.leader,
        membership: Some(applied.membership.clone()),
        present: applied.id.is_some(),
    }
}

pub(crate) fn applied_from_proto(applied: &disk::Applied) -> Applied {
    let id = StoreLogId { term: applied.term, index: applied.index, leader: applied.leader };
    Applied {
        id: applied.present.then_some(id),
        membership: applied.membership.clone().unwrap_or_default(),
    }
}

// --- entries -----------------------------------------------------------------

/// The log payload of an encoded batch.
pub(crate) fn payload_of_batch(batch: &[u8]) -> Bytes {
    let mut payload = BytesMut::with_capacity(batch.len() + 11);
    payload.put_u8(BATCH_TAG);
    prost::encoding::encode_varint(batch.len() as u64, &mut payload);
    payload.put_slice(batch);
    payload.freeze()
}

/// The batch in a log payload made by [`payload_of_batch`], without copying it.
fn batch_of_payload(payload: &Bytes) -> Result<Bytes, Malformed> {
    let mut rest = payload.get(1..).ok_or(Malformed("an empty entry"))?;
    let before = rest.len();
    let length = prost::encoding::decode_varint(&mut rest)
        .map_err(|_| Malformed("an entry without length"))?;
    let start = 1 + before - rest.len();
    let length = usize::try_from(length).map_err(|_| Malformed("an entry's length"))?;
    if payload.len() != start + length {
        return Err(Malformed("an entry's length"));
    }
    Ok(payload.slice(start..))
}

/// What the state has to do for an entry.
pub(crate) fn entry_to_state(entry: &Entry) -> Result<(StoreLogId, StatePayload), Malformed> {
    let payload = match &entry.payload {
        Payload::Blank => StatePayload::Blank,
        Payload::Normal(request) => StatePayload::Batch(batch_of_payload(&request.payload)?),
        Payload::Membership(membership) => {
            StatePayload::Membership(membership_to_proto(Some(&entry.log_id), membership))
        }
    };
    Ok((log_id_to_store(&entry.log_id), payload))
}

fn payload_to_bytes(log_id: &LogId, payload: Payload) -> Bytes {
    let message = match payload {
        Payload::Normal(request) => return request.payload,
        Payload::Blank => disk::entry_payload::Payload::Blank(true),
        Payload::Membership(membership) => {
            disk::entry_payload::Payload::Membership(membership_to_proto(Some(log_id), &membership))
        }
    };
    disk::EntryPayload { payload: Some(message) }.encode_to_vec().into()
}

fn payload_from_bytes(payload: Bytes) -> Result<Payload, Malformed> {
    if payload.first() == Some(&BATCH_TAG) {
        return Ok(Payload::Normal(Request { payload }));
    }
    let message = disk::EntryPayload::decode(payload).map_err(|_| Malformed("an entry"))?;
    match message.payload.ok_or(Malformed("an entry without payload"))? {
        disk::entry_payload::Payload::Blank(_) => Ok(Payload::Blank),
        disk::entry_payload::Payload::Membership(membership) => {
            Ok(Payload::Membership(membership_from_proto(&membership)?))
        }
        disk::entry_payload::Payload::Batch(_) => Err(Malformed("a batch in an odd place")),
    }
}

pub(crate) fn entry_to_log(entry: Entry) -> LogEntry {
    let payload = payload_to_bytes(&entry.log_id, entry.payload);
    LogEntry { id: log_id_to_store(&entry.log_id), payload }
}

pub(crate) fn entry_from_log(entry: LogEntry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_store(entry.id);
    Ok(Entry { log_id, payload: payload_from_bytes(entry.payload)? })
}

// --- peer messages -----------------------------------------------------------

pub(crate) fn append_to_proto(
    request: AppendEntriesRequest<Types>,
    address: peer::Address,
) -> peer::AppendRequest {
    let entry = |entry: Entry| peer::Entry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: payload_to_bytes(&entry.log_id, entry.payload),
    };
    peer::AppendRequest {
        address: Some(address),
        vote: Some(vote_to_proto(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_proto),
        entries: request.entries.into_iter().map(entry).collect(),
        committed: request.leader_commit.as_ref().map(log_id_to_proto),
        hash_index: 0,
        hash: Bytes::new(),
    }
}

pub(crate) fn append_from_proto(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let entry = |entry: peer::Entry| {
        let log_id = entry.log_id.as_ref().ok_or(Malformed("an entry without id"))?;
        let payload = payload_from_bytes(entry.payload)?;
        Ok(Entry { log_id: log_id_from_proto(log_id), payload })
    };
    let entries: Vec<Entry> = request.entries.into_iter().map(entry).collect::<Result<_, _>>()?;
    let previous = request.previous.as_ref().map(log_id_from_proto);
    check_consecutive(previous.as_ref(), &entries)?;
    Ok(AppendEntriesRequest {
        vote: vote_from_proto(request.vote)?,
        prev_log_id: previous,
        entries,
        leader_commit: request.committed.as_ref().map(log_id_from_proto),
    })
}

/// A hole in what a leader sends would become a hole in the log.
fn check_consecutive(previous: Option<&LogId>, entries: &[Entry]) -> Result<(), Malformed> {
    let first = previous.map_or(0, |id| id.index + 1);
    let follow = (first..).zip(entries).all(|(index, entry)| entry.log_id.index == index);
    if follow { Ok(()) } else { Err(Malformed("entries that do not follow each other")) }
}

pub(crate) fn append_result_to_proto(result: &StreamAppendResult<Types>) -> peer::AppendResponse {
    use peer::append_response::Outcome;
    let (outcome, accepted) = match result {
        Ok(accepted) => (Outcome::Success(true), accepted.as_ref().map(log_id_to_proto)),
        Err(StreamAppendError::Conflict(id)) => {
            (Outcome::Conflict(true), Some(log_id_to_proto(id)))
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            (Outcome::HigherVote(vote_to_proto(vote)), None)
        }
    };
    peer::AppendResponse { outcome: Some(outcome), accepted }
}

pub(crate) fn append_result_from_proto(
    response: peer::AppendResponse,
) -> Result<StreamAppendResult<Types>, Malformed> {
    use peer::append_response::Outcome;
    let accepted = response.accepted.as_ref().map(log_id_from_proto);
    match response.outcome.ok_or(Malformed("an append without outcome"))? {
        Outcome::Success(_) => Ok(Ok(accepted)),
        Outcome::Partial(id) => Ok(Ok(Some(log_id_from_proto(&id)))),
        Outcome::Conflict(_) => {
            let id = accepted.ok_or(Malformed("a conflict without its place"))?;
            Ok(Err(StreamAppendError::Conflict(id)))
        }
        Outcome::HigherVote(vote) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_proto(Some(vote))?)))
        }
    }
}

pub(crate) fn vote_request_to_proto(
    request: &VoteRequest<Types>,
    address: peer::Address,
    pre_vote: bool,
) -> peer::VoteRequest {
    peer::VoteRequest {
        address: Some(address),
        vote: Some(vote_to_proto(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_proto),
        pre_vote,
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_proto(
    request: &peer::VoteRequest,
) -> Result<VoteRequest<Types>, Malformed> {
    Ok(VoteRequest {
        vote: vote_from_proto(request.vote)?,
        last_log_id: request.last_log_id.as_ref().map(log_id_from_proto),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_response_to_proto(response: &VoteResponse<Types>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_proto),
    }
}

pub(crate) fn vote_response_from_proto(
    response: &peer::VoteResponse,
) -> Result<VoteResponse<Types>, Malformed> {
    let last_log_id = response.last_log_id.as_ref().map(log_id_from_proto);
    Ok(VoteResponse {
        vote: vote_from_proto(response.vote)?,
        vote_granted: response.granted,
        last_log_id,
    })
}

pub(crate) fn transfer_to_proto(
    request: &TransferLeaderRequest<Types>,
    address: peer::Address,
) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        address: Some(address),
        from_leader: Some(vote_to_proto(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_proto),
    }
}

pub(crate) fn transfer_from_proto(
    request: &peer::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, Malformed> {
    Ok(TransferLeaderRequest::new(
        vote_from_proto(request.from_leader)?,
        request.to,
        request.last_log_id.as_ref().map(log_id_from_proto),
    ))
}
