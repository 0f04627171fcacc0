//! Answers that are ready together are written together.
//!
//! A batch that was applied wakes all requests that waited for it. The first of
//! them that answers wakes its connection, which tokio runs next, before the
//! other requests: it would write each answer by itself. So here a write lets
//! the tasks that are ready go first, once, and then takes all that they left.
//! On a connection with 32 clients that saves three quarters of the system
//! calls, at both ends; a lone answer is a microsecond later for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose writes wait for those of the tasks that are ready.
pub(super) struct Gathering<Io> {
    io: Io,
    /// The others had their turn since the last write.
    gathered: bool,
}

impl<Io> Gathering<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self { io, gathered: false }
    }

    pub(super) fn get_ref(&self) -> &Io {
        &self.io
    }

    /// Goes behind the tasks that are ready.
    fn gather(&mut self, context: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.gathered, true) {
            return Poll::Ready(());
        }
        // tokio puts a task that wakes itself at the end of its queue.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next write gathers anew, unless it is this one, tried again.
    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.gathered = written.is_pending();
        written
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Gathering<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Gathering<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.gather(context));
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.gather(context));
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// What a connection does: everything that was left for it, in one write.
    async fn write_what_is_left(
        left: Arc<Mutex<Vec<u8>>>,
        io: impl AsyncWrite + Unpin,
    ) -> Vec<usize> {
        let mut io = io;
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 4 {
            let written = std::future::poll_fn(|context| {
                let mut left = left.lock().unwrap();
                let written = ready!(Pin::new(&mut io).poll_write(context, &left))?;
                left.drain(..written);
                Poll::Ready(io::Result::Ok(written))
            });
            sizes.push(written.await.unwrap());
        }
        sizes
    }

    #[tokio::test]
    async fn a_write_takes_what_the_ready_tasks_leave() {
        let (mut far, near) = tokio::io::duplex(64);
        let left = Arc::new(Mutex::new(vec![b'a']));
        let connection = tokio::spawn(write_what_is_left(left.clone(), Gathering::new(near)));
        for byte in *b"bcd" {
            let left = left.clone();
            tokio::spawn(async move { left.lock().unwrap().push(byte) });
        }
        assert_eq!(connection.await.unwrap(), [4], "one write for all four");
        let mut read = [0; 4];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
    }

    #[tokio::test]
    async fn a_full_connection_is_tried_again_and_loses_nothing() {
        let (mut far, near) = tokio::io::duplex(8);
        let sent: Vec<u8> = (0..=255).collect();
        let bytes = sent.clone();
        let writer = tokio::spawn(async move {
            let mut io = Gathering::new(near);
            io.write_all(&bytes).await.unwrap();
            io.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        assert_eq!(received, sent);
    }
}
