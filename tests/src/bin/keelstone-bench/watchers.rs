//! Watchers that all see everything that the load puts, and how long it took
//! from the put to each of them.

use crate::etcd;
use crate::load::{LoadOptions, Window};
use crate::report::{Latency, Recorder};
use crate::target::Target;
use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use keelstone_proto::v1;
use serde::Serialize;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

/// What the watchers saw in the measured time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Delivered {
    pub(crate) watchers: usize,
    pub(crate) events: u64,
    pub(crate) events_per_second: f64,
    /// From the put to the watcher.
    pub(crate) latency: Latency,
    /// Watchers whose stream ended before its time.
    pub(crate) broken: usize,
}

/// Running watchers.
pub(crate) struct Watchers {
    tasks: JoinSet<(Recorder, bool)>,
    count: usize,
    seconds: u64,
}

/// Puts the time of this process into the first bytes of a value.
pub(crate) fn stamped(value: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&value[..]);
    if bytes.len() < 8 {
        bytes.resize(8, 0);
    }
    bytes[..8].copy_from_slice(&now_us().to_be_bytes());
    bytes.freeze()
}

fn now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn age(value: &Bytes) -> Option<Duration> {
    let stamp = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    Some(Duration::from_micros(now_us().saturating_sub(stamp)))
}

/// Starts the watchers; they run until the window ends.
pub(crate) async fn start(
    target: Target,
    channels: &[Channel],
    options: &LoadOptions,
    window: Window,
) -> anyhow::Result<Watchers> {
    now_us();
    let mut tasks = JoinSet::new();
    for number in 0..options.watchers {
        let channel = channels[number % channels.len()].clone();
        let stream = match target {
            Target::Keelstone => open_keelstone(channel).await,
            Target::Etcd => open_etcd(channel).await,
        };
        tasks.spawn(watch(stream.context("open a watch")?, window));
    }
    Ok(Watchers { tasks, count: options.watchers, seconds: options.seconds })
}

impl Watchers {
    pub(crate) async fn finish(mut self) -> Delivered {
        let (mut all, mut broken) = (Recorder::new(), 0);
        while let Some(done) = self.tasks.join_next().await {
            let Ok((recorder, is_broken)) = done else { continue };
            all.add(&recorder);
            broken += usize::from(is_broken);
        }
        let latency = all.latency();
        Delivered {
            watchers: self.count,
            events: all.operations(),
            events_per_second: all.operations() as f64 / self.seconds.max(1) as f64,
            latency,
            broken,
        }
    }
}

/// The values of events, response by response.
type Values = BoxStream<'static, Vec<Bytes>>;

async fn watch(mut stream: Values, window: Window) -> (Recorder, bool) {
    let mut recorder = Recorder::new();
    while let Ok(values) = tokio::time::timeout_at(window.end, stream.next()).await {
        let Some(values) = values else { return (recorder, true) };
        if window.contains(Instant::now()) {
            values.iter().filter_map(age).for_each(|age| recorder.record(age, None));
        }
    }
    (recorder, false)
}

async fn open_keelstone(channel: Channel) -> anyhow::Result<Values> {
    let span = v1::KeySpan {
        key: Bytes::from_static(b"bench/"),
        end: Some(v1::key_span::End::Prefix(true)),
    };
    let create = v1::WatchCreate { watch_id: 1, span: Some(span), ..v1::WatchCreate::default() };
    let request = v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut stub = v1::watch_client::WatchClient::new(channel).max_decoding_message_size(64 << 20);
    let mut stream = stub.watch(requests).await?.into_inner();
    let Some(first) = stream.message().await? else { bail!("the watch ended at once") };
    if !matches!(first.response, Some(v1::watch_response::Response::Created(_))) {
        bail!("the watch was not created");
    }
    let values = stream.take_while(|response| futures::future::ready(response.is_ok()));
    Ok(values.filter_map(|response| futures::future::ready(response.ok())).map(values_of).boxed())
}

fn values_of(response: v1::WatchResponse) -> Vec<Bytes> {
    match response.response {
        Some(v1::watch_response::Response::Events(events)) => {
            events.events.into_iter().filter_map(|event| Some(event.kv?.value)).collect()
        }
        _ => Vec::new(),
    }
}

async fn open_etcd(channel: Channel) -> anyhow::Result<Values> {
    let create = etcd::WatchCreateRequest {
        key: Bytes::from_static(b"bench/"),
        range_end: Bytes::from_static(b"bench0"),
        start_revision: 0,
    };
    let union = etcd::watch_request::RequestUnion::CreateRequest(create);
    let request = etcd::WatchRequest { request_union: Some(union) };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut stub =
        etcd::watch_client::WatchClient::new(channel).max_decoding_message_size(64 << 20);
    let mut stream = stub.watch(requests).await?.into_inner();
    let Some(first) = stream.message().await? else { bail!("the watch ended at once") };
    if !first.created {
        bail!("the watch was not created");
    }
    let values = stream.take_while(|response| futures::future::ready(response.is_ok()));
    let values = values.filter_map(|response| futures::future::ready(response.ok()));
    let values_of = |response: etcd::WatchResponse| {
        response.events.into_iter().filter_map(|event| Some(event.kv?.value)).collect()
    };
    Ok(values.map(values_of).boxed())
}
