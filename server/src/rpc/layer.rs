//! What all requests have in common: limits, the deadline, the caller, the span
//! and the metrics. It knows no service.
//!
//! A request is refused here, before anything of it is read, if the node works
//! on as many as it takes on. What is read of all requests together is bounded
//! too: each holds its bytes from a common budget until it is answered.

use super::context::Deadline;
use super::methods::{self, Kind, Method};
use super::status;
use crate::config::LimitsConfig;
use crate::metrics::{self, Answered, Metrics, Reason};
use crate::tls::Caller;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span};

/// Of a client's time limit this much is kept for the answer to travel, at most
/// a tenth.
const TRAVEL: Duration = Duration::from_millis(20);

/// Puts [`Guarded`] around the services.
#[derive(Clone)]
pub(super) struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: LimitsConfig,
}

impl Guard {
    pub(super) fn new(limits: &LimitsConfig, metrics: Arc<Metrics>) -> Self {
        let requests = Arc::new(Semaphore::new(limits.requests_max));
        let bytes = limits.requests_bytes_max.min(Semaphore::MAX_PERMITS);
        let bytes = Arc::new(Semaphore::new(bytes));
        Self { shared: Arc::new(Shared { metrics, requests, bytes, limits: limits.clone() }) }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, shared: self.shared.clone() }
    }
}

/// The services, guarded.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    shared: Arc<Shared>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering {
        let shared = self.shared.clone();
        let method = methods::of(request.uri().path());
        let span = span_of(method, &request);
        let mut account = Account::open(&shared, method, span.clone());
        if method.kind == Kind::Unary {
            let Ok(permit) = shared.requests.clone().try_acquire_owned() else {
                let status = shared.overloaded("requests", shared.limits.requests_max);
                account.code = status.code();
                return Box::pin(async move { Ok(account.close_over(status.into_http())) });
            };
            account.permits.push(permit);
            request = request.map(|body| Body::new(Metered::new(body, shared.clone())));
        }
        let deadline = Instant::now() + shared.time_of(request.headers());
        request.extensions_mut().insert(Deadline(deadline));
        let answer = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(code) = status::amend(&mut response) {
                account.code = code;
            }
            Ok(account.close_over(response))
        })
    }
}

fn span_of<B>(method: Method, request: &Request<B>) -> Span {
    // Not at the default level: there can be ten thousand requests a second.
    let span = tracing::debug_span!(
        "request",
        method = method.name,
        caller = Empty,
        command = Empty,
        revision = Empty,
        outcome = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    match request.extensions().get::<Caller>() {
        Some(caller) => span.record("caller", display(&caller.subject)),
        None => span.record("caller", display("anonymous")),
    };
    span
}

impl Shared {
    fn overloaded(&self, what: &'static str, limit: usize) -> Status {
        self.metrics.requests_refused.get_or_create(&Reason { reason: what }).inc();
        status::too_many_requests(what, limit as u64)
    }

    /// How long a request may take: what it says, within the limits.
    fn time_of(&self, headers: &HeaderMap) -> Duration {
        let said = headers.get("grpc-timeout").and_then(|text| parse_timeout(text.to_str().ok()?));
        match said {
            None => self.limits.request_timeout,
            Some(said) => {
                let said = said.min(self.limits.request_timeout_max);
                said.saturating_sub(TRAVEL.min(said / 10))
            }
        }
    }
}

/// The header `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// What has to be said of a request when it is over.
struct Account {
    metrics: Arc<Metrics>,
    method: Method,
    begun: Instant,
    code: Code,
    span: Span,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Account {
    fn open(shared: &Shared, method: Method, span: Span) -> Self {
        shared.metrics.requests_active.inc();
        Self {
            metrics: shared.metrics.clone(),
            method,
            begun: Instant::now(),
            code: Code::Ok,
            span,
            permits: Vec::new(),
        }
    }

    /// Settles when the response's body is gone.
    fn close_over(self, response: Response<Body>) -> Response<Body> {
        response.map(|body| Body::new(Accounted { body, account: self }))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let method = self.method.name;
        let code = status::code_name(self.code);
        self.span.record("outcome", code);
        self.metrics.requests_active.dec();
        self.metrics.requests.get_or_create(&Answered { method, code }).inc();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.request_seconds.get_or_create(&metrics::Method { method }).observe(seconds);
        if self.code == Code::Internal {
            let _entered = self.span.enter();
            tracing::error!(code, method, "a request failed");
        }
    }
}

/// A response's body that settles its account at the end, with the code that
/// the trailers say.
struct Accounted {
    body: Body,
    account: Account,
}

impl HttpBody for Accounted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        if let Some(status) = trailers.and_then(Status::from_header_map) {
            self.account.code = status.code();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body that holds its bytes from the budget of all requests, until
/// it is dropped with the request.
struct Metered {
    body: Body,
    shared: Arc<Shared>,
    held: Option<OwnedSemaphorePermit>,
}

impl Metered {
    fn new(body: Body, shared: Arc<Shared>) -> Self {
        Self { body, shared, held: None }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = self.shared.bytes.clone().try_acquire_many_owned(bytes).map_err(|_| {
            let limit = self.shared.limits.requests_bytes_max;
            self.shared.overloaded("bytes of requests", limit)
        })?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.hold(data.len())
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_says() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(parse_timeout(text), expected, "{text}");
        };
        check("1S", Some(Duration::from_secs(1)));
        check("250m", Some(Duration::from_millis(250)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        check("5u", Some(Duration::from_micros(5)));
        check("5n", Some(Duration::from_nanos(5)));
        check("2M", Some(Duration::from_mins(2)));
        for wrong in ["", "S", "1", "1s", "-1S", "123456789S", "1 S", "1\u{e9}"] {
            check(wrong, None);
        }
    }
}
