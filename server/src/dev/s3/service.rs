//! The S3 operations that a client of immutable objects needs. Everything else
//! is answered with `NotImplemented`.

use super::faults::{Fault, Faults, Operation};
use super::shelf::{NotWritten, Object, Shelf};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::{
    Bucket, Checksum, CommonPrefix, CreateBucketInput, CreateBucketOutput, DeleteObjectInput,
    DeleteObjectOutput, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::{S3, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Bytes of one object.
const OBJECT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Entries of one page of a listing, as in S3.
const PAGE_MAX: usize = 1000;

/// The operations over a shelf of objects.
pub(super) struct Service {
    shelf: Arc<Shelf>,
    faults: Arc<Faults>,
}

impl Service {
    pub(super) fn new(shelf: Arc<Shelf>, faults: Arc<Faults>) -> Self {
        Self { shelf, faults }
    }

    /// Lets a scripted fault strike. What is left of it happens to the answer.
    async fn strike(&self, operation: Operation, key: &str) -> S3Result<Option<Fault>> {
        match self.faults.strike(operation, key) {
            Some(Fault::SlowDown) => Err(s3_error!(SlowDown, "Please reduce your request rate.")),
            Some(Fault::InternalError) => Err(s3_error!(InternalError, "We made an error.")),
            Some(Fault::Conflict) => Err(s3_error!(ConditionalRequestConflict, "Conflict.")),
            Some(Fault::AccessDenied) => Err(s3_error!(AccessDenied, "Access Denied.")),
            Some(Fault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            fault => Ok(fault),
        }
    }

    async fn find(&self, bucket: &str, key: &str) -> S3Result<Object> {
        match self.shelf.get(bucket, key).await {
            Some(object) => Ok(object),
            None if self.shelf.has_bucket(bucket).await => Err(s3_error!(NoSuchKey)),
            None => Err(s3_error!(NoSuchBucket)),
        }
    }
}

#[async_trait]
impl S3 for Service {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { bucket, key, if_none_match, if_match, content_md5, .. } =
            &request.input;
        // Ignoring what a client relies on would be worse than refusing it.
        if if_match.is_some() || content_md5.is_some() {
            return Err(s3_error!(NotImplemented, "If-Match and Content-MD5 are not checked here"));
        }
        let if_absent = matches!(if_none_match, Some(ETagCondition::Any));
        if if_none_match.is_some() && !if_absent {
            return Err(s3_error!(NotImplemented, "If-None-Match needs *"));
        }
        let (bucket, key) = (bucket.clone(), key.clone());
        let fault = self.strike(Operation::Put, &key).await?;
        let trailers = request.trailing_headers.clone();
        let mut input = request.input;
        let bytes = read_body(input.body.take(), input.content_length).await?;
        let checksum = check_sums(&bytes, &input, trailers.as_ref())?;
        let object = self.shelf.put(&bucket, &key, bytes, if_absent).await.map_err(refusal)?;
        if fault == Some(Fault::ErrorAfterCommit) {
            return Err(s3_error!(InternalError, "We made an error."));
        }
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(object.md5)),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = request.input;
        let fault = self.strike(Operation::Get, &key).await?;
        let object = self.find(&bucket, &key).await?;
        let full = object.bytes.len();
        let (bytes, content_range) = match range {
            None => (object.bytes, None),
            Some(range) => {
                let range = range.check(full as u64).map_err(|_| s3_error!(InvalidRange))?;
                let told = format!("bytes {}-{}/{full}", range.start, range.end - 1);
                let start = usize::try_from(range.start).expect("within the object");
                let end = usize::try_from(range.end).expect("within the object");
                (object.bytes.slice(start..end), Some(told))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(signed(bytes.len())),
            body: Some(spoil(bytes, fault)),
            content_range,
            accept_ranges: Some("bytes".into()),
            e_tag: Some(ETag::Strong(object.md5)),
            last_modified: Some(object.modified.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput { bucket, key, .. } = request.input;
        self.strike(Operation::Head, &key).await?;
        let object = self.find(&bucket, &key).await?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(signed(object.bytes.len())),
            e_tag: Some(ETag::Strong(object.md5)),
            last_modified: Some(object.modified.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        self.strike(Operation::List, &prefix).await?;
        let mut page = Page::new(&input, &prefix);
        let after = input.continuation_token.as_ref().or(input.start_after.as_ref());
        let after = after.cloned().unwrap_or_default();
        let visit = |key: &str, object: &Object| page.add(key, object);
        let listed = self.shelf.list(&input.bucket, &prefix, &after, visit).await;
        listed.ok_or_else(|| s3_error!(NoSuchBucket))?;
        Ok(S3Response::new(page.finish(&input, prefix)))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, .. } = request.input;
        self.strike(Operation::Delete, &key).await?;
        let deleted = self.shelf.delete(&bucket, &key).await;
        deleted.map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let created = self.shelf.create_bucket(&request.input.bucket).await;
        created.map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        if self.shelf.has_bucket(&request.input.bucket).await {
            return Ok(S3Response::new(HeadBucketOutput::default()));
        }
        Err(s3_error!(NoSuchBucket))
    }

    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let names = self.shelf.bucket_names().await.into_iter();
        let buckets = names.map(|name| Bucket { name: Some(name), ..Bucket::default() }).collect();
        let output = ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() };
        Ok(S3Response::new(output))
    }
}

/// One page of a listing, as it fills.
struct Page {
    delimiter: Option<String>,
    prefix_bytes: usize,
    limit: usize,
    objects: Vec<s3s::dto::Object>,
    folders: BTreeSet<String>,
    last: String,
    truncated: bool,
}

impl Page {
    fn new(input: &ListObjectsV2Input, prefix: &str) -> Self {
        let asked = input.max_keys.and_then(|max| usize::try_from(max).ok());
        Self {
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            prefix_bytes: prefix.len(),
            limit: asked.unwrap_or(PAGE_MAX).min(PAGE_MAX),
            objects: Vec::new(),
            folders: BTreeSet::new(),
            last: String::new(),
            truncated: false,
        }
    }

    /// Adds an object, or the folder that it is in; `false`: the page is full.
    fn add(&mut self, key: &str, object: &Object) -> bool {
        let folder = self.folder_of(key);
        if folder.as_ref().is_some_and(|folder| self.folders.contains(folder)) {
            key.clone_into(&mut self.last);
            return true;
        }
        if self.objects.len() + self.folders.len() >= self.limit {
            self.truncated = true;
            return false;
        }
        key.clone_into(&mut self.last);
        match folder {
            Some(folder) => {
                self.folders.insert(folder);
            }
            None => self.objects.push(s3s::dto::Object {
                key: Some(key.to_owned()),
                size: Some(signed(object.bytes.len())),
                e_tag: Some(ETag::Strong(object.md5.clone())),
                last_modified: Some(object.modified.into()),
                ..s3s::dto::Object::default()
            }),
        }
        true
    }

    fn folder_of(&self, key: &str) -> Option<String> {
        let delimiter = self.delimiter.as_deref()?;
        let at = key[self.prefix_bytes..].find(delimiter)?;
        Some(key[..self.prefix_bytes + at + delimiter.len()].to_owned())
    }

    fn finish(self, input: &ListObjectsV2Input, prefix: String) -> ListObjectsV2Output {
        let count = self.objects.len() + self.folders.len();
        let folders = self.folders.into_iter().map(|it| CommonPrefix { prefix: Some(it) });
        ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(prefix),
            delimiter: input.delimiter.clone(),
            max_keys: input.max_keys,
            key_count: Some(i32::try_from(count).expect("at most a page")),
            is_truncated: Some(self.truncated),
            next_continuation_token: self.truncated.then_some(self.last),
            contents: Some(self.objects),
            common_prefixes: Some(folders.collect()),
            ..ListObjectsV2Output::default()
        }
    }
}

async fn read_body(body: Option<StreamingBlob>, announced: Option<i64>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(part) = body.next().await {
            // A client that went away, or a body that is not what was signed.
            let part = part.map_err(|_| s3_error!(IncompleteBody))?;
            if bytes.len() + part.len() > OBJECT_BYTES_MAX {
                return Err(s3_error!(EntityTooLarge));
            }
            bytes.extend_from_slice(&part);
        }
    }
    match announced {
        Some(announced) if announced != signed(bytes.len()) => Err(s3_error!(IncompleteBody)),
        _ => Ok(bytes.freeze()),
    }
}

/// Computes the checksums that the client sent, in headers or trailers, and
/// refuses the body if one of them is another.
fn check_sums(
    bytes: &Bytes,
    input: &PutObjectInput,
    trailers: Option<&TrailingHeaders>,
) -> S3Result<Checksum> {
    let trailers = trailers.and_then(TrailingHeaders::take).unwrap_or_default();
    let sent = |header: &Option<String>, name: &str| {
        let trailer = trailers.get(name).and_then(|value| value.to_str().ok());
        header.clone().or_else(|| trailer.map(str::to_owned))
    };
    let crc32 = sent(&input.checksum_crc32, "x-amz-checksum-crc32");
    let crc32c = sent(&input.checksum_crc32c, "x-amz-checksum-crc32c");
    let crc64nvme = sent(&input.checksum_crc64nvme, "x-amz-checksum-crc64nvme");
    let sha1 = sent(&input.checksum_sha1, "x-amz-checksum-sha1");
    let sha256 = sent(&input.checksum_sha256, "x-amz-checksum-sha256");
    let mut hasher = ChecksumHasher {
        crc32: crc32.is_some().then(s3s::crypto::Crc32::new),
        crc32c: crc32c.is_some().then(s3s::crypto::Crc32c::new),
        sha1: sha1.is_some().then(s3s::crypto::Sha1::new),
        sha256: sha256.is_some().then(s3s::crypto::Sha256::new),
        crc64nvme: crc64nvme.is_some().then(s3s::crypto::Crc64Nvme::new),
    };
    hasher.update(bytes);
    let sums = hasher.finalize();
    let equal = sums.checksum_crc32 == crc32
        && sums.checksum_crc32c == crc32c
        && sums.checksum_crc64nvme == crc64nvme
        && sums.checksum_sha1 == sha1
        && sums.checksum_sha256 == sha256;
    if equal { Ok(sums) } else { Err(s3_error!(BadDigest)) }
}

/// The body of an answer, with what a fault does to it.
fn spoil(bytes: Bytes, fault: Option<Fault>) -> StreamingBlob {
    let half = bytes.len() / 2;
    let parts: Vec<io::Result<Bytes>> = match fault {
        Some(Fault::Cut) => {
            vec![Ok(bytes.slice(..half)), Err(io::Error::other("scripted: the body is cut"))]
        }
        Some(Fault::Flip(place)) => {
            let mut bytes = bytes.to_vec();
            if let Some(at) = place.in_object_of(bytes.len()) {
                bytes[at] ^= 0x10;
            }
            vec![Ok(bytes.into())]
        }
        _ => vec![Ok(bytes)],
    };
    StreamingBlob::wrap(futures::stream::iter(parts))
}

fn refusal(error: NotWritten) -> s3s::S3Error {
    match error {
        NotWritten::NoBucket => s3_error!(NoSuchBucket),
        NotWritten::Exists => s3_error!(PreconditionFailed, "The object is there already."),
        NotWritten::Full => s3_error!(EntityTooLarge, "The development bucket is full."),
        NotWritten::Io(error) => s3_error!(error, InternalError),
    }
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).expect("a length in memory")
}
