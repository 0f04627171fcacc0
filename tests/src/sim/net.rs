//! The simulated network: byte streams between hosts, as TCP would carry them.
//!
//! What a program sends arrives in order and whole, or not at all. A packet that
//! is lost is sent again after a while, and everything behind it waits; a link
//! that is cut delays what is under way until it heals, in that direction only.
//! A process that dies has its connections reset by its system; a machine that
//! loses power falls silent, and answers what it does not know once it is back.
//!
//! Time moves only by [`Net::deliver`]; all chance comes from the seed.

use super::HostId;
use crate::durability::Random;
use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};
use keelstone_server::replica::{BoxStream, PeerAcceptor, PeerConnector};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may be under way or unread in one direction of a connection.
const WINDOW_BYTES: usize = 1024 * 1024;
/// How long after a loss a packet is sent again, at first, in microseconds.
const RESEND_US: u64 = 200_000;
/// The longest pause between two attempts, in microseconds.
const RESEND_MAX_US: u64 = 1_600_000;

/// How a link between two hosts behaves, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// The shortest time under way, in microseconds.
    pub latency_min_us: u64,
    /// The longest, but for spikes.
    pub latency_max_us: u64,
    /// Of a thousand packets so many are lost and sent again.
    pub loss_permille: u64,
    /// Of a thousand packets so many take up to [`spike_max_us`](Self::spike_max_us).
    pub spike_permille: u64,
    /// The longest time under way of those.
    pub spike_max_us: u64,
}

impl Quality {
    /// A quiet local network.
    pub const GOOD: Self = Self {
        latency_min_us: 1_000,
        latency_max_us: 2_000,
        loss_permille: 0,
        spike_permille: 0,
        spike_max_us: 0,
    };
}

/// How a process ends, as the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Its system resets its connections.
    Killed,
    /// It falls silent.
    PowerCut,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that arrived.
    pub delivered: u64,
    /// Packets that had to be sent again because they were lost.
    pub lost: u64,
    /// Packets that waited because their link was cut.
    pub cut: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Packets that were late.
    pub spikes: u64,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    now_us: u64,
    random: Random,
    quality: Quality,
    cut: BTreeSet<(HostId, HostId)>,
    /// Hosts without power.
    silent: BTreeSet<HostId>,
    listeners: BTreeMap<HostId, Listener>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    counts: Counts,
    /// How the host whose programs are being dropped leaves.
    leaving: Option<Leave>,
}

#[derive(Default)]
struct Listener {
    waiting: VecDeque<u64>,
    waker: Option<Waker>,
}

struct Connection {
    established: bool,
    /// Who connected, and who was connected to.
    ends: [End; 2],
}

struct End {
    host: HostId,
    /// On the way to this end.
    under_way: VecDeque<Packet>,
    under_way_bytes: usize,
    last_due_us: u64,
    resend_us: u64,
    /// Arrived and unread.
    unread: BytesMut,
    finished: bool,
    reset: bool,
    /// The program has said that it sends nothing more.
    shut: bool,
    /// The program has let go of it.
    gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Packet {
    due_us: u64,
    what: What,
}

enum What {
    Syn,
    SynAck,
    Bytes(Bytes),
    Fin,
    Reset,
}

/// Woken after the lock is given back: a waker may drop a task, and with it a
/// stream that takes the lock.
type Wakers = Vec<Waker>;

fn wake_all(wakers: Wakers) {
    for waker in wakers {
        waker.wake();
    }
}

impl End {
    fn new(host: HostId) -> Self {
        Self {
            host,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            last_due_us: 0,
            resend_us: RESEND_US,
            unread: BytesMut::new(),
            finished: false,
            reset: false,
            shut: false,
            gone: false,
            reader: None,
            writer: None,
        }
    }

    fn take_wakers(&mut self, wakers: &mut Wakers) {
        wakers.extend(self.reader.take());
        wakers.extend(self.writer.take());
    }
}

impl Shared {
    fn send(&mut self, id: u64, to: usize, what: What) {
        let mut due = self.now_us + self.delay();
        if self.random.below(1000) < self.quality.loss_permille {
            self.counts.lost += 1;
            due += RESEND_US * (1 + self.random.below(3));
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[to];
        if let What::Bytes(bytes) = &what {
            end.under_way_bytes += bytes.len();
        }
        end.last_due_us = end.last_due_us.max(due);
        end.under_way.push_back(Packet { due_us: end.last_due_us, what });
    }

    fn delay(&mut self) -> u64 {
        let quality = self.quality;
        let spread = quality.latency_max_us.saturating_sub(quality.latency_min_us);
        let mut delay = quality.latency_min_us + self.random.below(spread + 1);
        if quality.spike_permille > 0 && self.random.below(1000) < quality.spike_permille {
            self.counts.spikes += 1;
            delay += self.random.below(quality.spike_max_us + 1);
        }
        delay
    }

    /// Lets arrive at one end what is due.
    fn arrive(&mut self, id: u64, to: usize, wakers: &mut Wakers) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let from_host = connection.ends[1 - to].host;
            let end = &mut connection.ends[to];
            let Some(head) = end.under_way.front_mut() else { return };
            if head.due_us > self.now_us {
                return;
            }
            if self.cut.contains(&(from_host, end.host)) || self.silent.contains(&end.host) {
                self.counts.cut += 1;
                head.due_us = self.now_us + end.resend_us;
                end.resend_us = (end.resend_us * 2).min(RESEND_MAX_US);
                return;
            }
            if matches!(head.what, What::Bytes(_)) && !end.gone && end.unread.len() >= WINDOW_BYTES
            {
                return;
            }
            let Some(packet) = end.under_way.pop_front() else { return };
            end.resend_us = RESEND_US;
            self.counts.delivered += 1;
            self.take(id, to, packet.what, wakers);
        }
    }

    fn take(&mut self, id: u64, to: usize, what: What, wakers: &mut Wakers) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[to];
        match what {
            What::Syn => {
                let host = end.host;
                if let Some(listener) = self.listeners.get_mut(&host) {
                    listener.waiting.push_back(id);
                    wakers.extend(listener.waker.take());
                    self.send(id, 1 - to, What::SynAck);
                } else {
                    end.gone = true;
                    self.send(id, 1 - to, What::Reset);
                }
            }
            What::SynAck => {
                connection.established = true;
                wakers.extend(connection.ends[to].reader.take());
            }
            What::Bytes(bytes) => {
                end.under_way_bytes -= bytes.len();
                if end.gone {
                    self.send(id, 1 - to, What::Reset);
                } else {
                    end.unread.extend_from_slice(&bytes);
                    wakers.extend(end.reader.take());
                }
            }
            What::Fin => {
                end.finished = true;
                wakers.extend(end.reader.take());
            }
            What::Reset => {
                end.reset = true;
                end.take_wakers(wakers);
            }
        }
    }

    /// Forgets connections that nobody holds an end of.
    fn forget(&mut self, wakers: &mut Wakers) {
        self.connections.retain(|_, connection| {
            let [a, b] = &mut connection.ends;
            let keep = !(a.gone && b.gone);
            if !keep {
                a.take_wakers(wakers);
                b.take_wakers(wakers);
            }
            keep
        });
    }
}

impl Net {
    /// A network whose chance is drawn from `seed`.
    pub fn new(seed: u64, quality: Quality) -> Self {
        let shared = Shared {
            now_us: 0,
            random: Random::new(seed),
            quality,
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 1,
            counts: Counts::default(),
            leaving: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets arrive what is due at `now_us`.
    pub fn deliver(&self, now_us: u64) {
        let mut wakers = Wakers::new();
        {
            let mut shared = self.lock();
            shared.now_us = now_us;
            let ids: Vec<u64> = shared.connections.keys().copied().collect();
            for id in ids {
                shared.arrive(id, 0, &mut wakers);
                shared.arrive(id, 1, &mut wakers);
            }
            shared.forget(&mut wakers);
        }
        wake_all(wakers);
    }

    /// How all links behave from now on.
    pub fn set_quality(&self, quality: Quality) {
        self.lock().quality = quality;
    }

    /// Cuts or heals the way from one host to another.
    pub fn set_cut(&self, from: HostId, to: HostId, cut: bool) {
        let mut shared = self.lock();
        if cut {
            shared.cut.insert((from, to));
        } else {
            shared.cut.remove(&(from, to));
        }
    }

    /// Heals all links.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// Whether packets pass from one host to another.
    pub fn passes(&self, from: HostId, to: HostId) -> bool {
        !self.lock().cut.contains(&(from, to))
    }

    /// Says how the host leaves whose programs are dropped in `dropped`.
    pub fn leave<T>(&self, host: HostId, how: Leave, dropped: impl FnOnce() -> T) -> T {
        {
            let mut shared = self.lock();
            shared.leaving = Some(how);
            if how == Leave::PowerCut {
                shared.silent.insert(host);
            }
        }
        let done = dropped();
        self.lock().leaving = None;
        done
    }

    /// The host has power again.
    pub fn power_on(&self, host: HostId) {
        self.lock().silent.remove(&host);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// What opens connections from `host`.
    pub fn connector(&self, host: HostId) -> Arc<dyn PeerConnector> {
        Arc::new(Connector { net: self.clone(), host })
    }

    /// What takes connections to `host`, from now until it is dropped.
    pub fn listen(&self, host: HostId) -> Box<dyn PeerAcceptor> {
        self.lock().listeners.insert(host, Listener::default());
        Box::new(Acceptor { net: self.clone(), host })
    }
}

/// The address of a host's peer port.
pub fn address(host: HostId) -> String {
    format!("n{host}:1")
}

fn host_of(address: &str) -> io::Result<HostId> {
    let name = address.strip_prefix('n').and_then(|rest| rest.split(':').next());
    name.and_then(|name| name.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a simulated address"))
}

struct Connector {
    net: Net,
    host: HostId,
}

#[async_trait]
impl PeerConnector for Connector {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let to = host_of(address)?;
        let stream = {
            let mut shared = self.net.lock();
            let id = shared.next;
            shared.next += 1;
            shared.counts.connections += 1;
            let ends = [End::new(self.host), End::new(to)];
            shared.connections.insert(id, Connection { established: false, ends });
            shared.send(id, 1, What::Syn);
            Stream { net: self.net.clone(), id, end: 0 }
        };
        std::future::poll_fn(|context| stream.poll_established(context)).await?;
        Ok(Box::new(stream))
    }
}

struct Acceptor {
    net: Net,
    host: HostId,
}

#[async_trait]
impl PeerAcceptor for Acceptor {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let id = std::future::poll_fn(|context| {
            let mut shared = self.net.lock();
            let Some(listener) = shared.listeners.get_mut(&self.host) else {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
            };
            if let Some(id) = listener.waiting.pop_front() {
                return Poll::Ready(Ok(id));
            }
            let old = listener.waker.replace(context.waker().clone());
            drop(shared);
            drop(old);
            Poll::Pending
        })
        .await?;
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Ok((Box::new(Stream { net: self.net.clone(), id, end: 1 }), from))
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let mut wakers = Wakers::new();
        {
            let mut shared = self.net.lock();
            let Some(listener) = shared.listeners.remove(&self.host) else { return };
            wakers.extend(listener.waker);
            for id in listener.waiting {
                let silent = shared.leaving == Some(Leave::PowerCut);
                if let Some(connection) = shared.connections.get_mut(&id) {
                    connection.ends[1].gone = true;
                }
                if !silent {
                    shared.send(id, 0, What::Reset);
                }
            }
        }
        // Whoever was to be woken goes down with the host.
        drop(wakers);
    }
}

/// One end of a connection, in a program's hands.
struct Stream {
    net: Net,
    id: u64,
    end: usize,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Stream {
    fn poll_established(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.net.lock();
        let Some(connection) = shared.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset()));
        };
        if connection.established {
            return Poll::Ready(Ok(()));
        }
        let end = &mut connection.ends[self.end];
        if end.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let old = end.reader.replace(context.waker().clone());
        drop(shared);
        drop(old);
        Poll::Pending
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.net.lock();
        let Some(connection) = shared.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset()));
        };
        let end = &mut connection.ends[self.end];
        if !end.unread.is_empty() {
            let length = end.unread.len().min(buffer.remaining());
            buffer.put_slice(&end.unread[..length]);
            end.unread.advance(length);
            let writer = connection.ends[1 - self.end].writer.take();
            drop(shared);
            wake_all(writer.into_iter().collect());
            return Poll::Ready(Ok(()));
        }
        if end.reset {
            return Poll::Ready(Err(reset()));
        }
        if end.finished {
            return Poll::Ready(Ok(()));
        }
        let old = end.reader.replace(context.waker().clone());
        drop(shared);
        drop(old);
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.net.lock();
        let Some(connection) = shared.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(reset()));
        };
        if connection.ends[self.end].reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let other = &connection.ends[1 - self.end];
        if other.under_way_bytes + other.unread.len() >= WINDOW_BYTES {
            let old = connection.ends[self.end].writer.replace(context.waker().clone());
            drop(shared);
            drop(old);
            return Poll::Pending;
        }
        shared.send(self.id, 1 - self.end, What::Bytes(Bytes::copy_from_slice(bytes)));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.net.lock();
        let Some(connection) = shared.connections.get_mut(&self.id) else {
            return Poll::Ready(Ok(()));
        };
        let end = &mut connection.ends[self.end];
        if !std::mem::replace(&mut end.shut, true) {
            shared.send(self.id, 1 - self.end, What::Fin);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut wakers = Wakers::new();
        {
            let mut shared = self.net.lock();
            let silent = shared.leaving == Some(Leave::PowerCut);
            let Some(connection) = shared.connections.get_mut(&self.id) else { return };
            let end = &mut connection.ends[self.end];
            end.gone = true;
            end.take_wakers(&mut wakers);
            let clean = end.unread.is_empty() && end.shut;
            if !silent && !clean {
                let unread = !end.unread.is_empty();
                let what = if unread { What::Reset } else { What::Fin };
                shared.send(self.id, 1 - self.end, what);
            }
        }
        drop(wakers);
    }
}
