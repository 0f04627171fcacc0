//! `keelstone backup`: making, listing and verifying backups.

use super::connect::Connection;
use super::output::{Format, bytes, line, note};
use super::progress::Bars;
use crate::backup::{
    self, BackupError, Bucket, BucketOptions, BucketUrl, CreateOptions, Damage, Entry, Listing,
    Repo, Source, Unreadable, create, verify,
};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use keelstone_client::Client;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Back up a cluster to object storage or a directory, list and verify backups.
#[derive(Debug, Args)]
#[command(after_help = BUCKET_HELP)]
pub(super) struct Backups {
    #[command(subcommand)]
    action: Action,
}

/// Printed below the help of everything that uses a bucket.
pub(super) const BUCKET_HELP: &str = "Where backups are:
  s3://BUCKET/PREFIX   any S3-compatible server; credentials from AWS_ACCESS_KEY_ID and
                       AWS_SECRET_ACCESS_KEY, the server from AWS_ENDPOINT_URL and AWS_REGION
  file:///PATH         a directory";

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a full backup of the newest revision.
    Create {
        /// Where to, such as `s3://bucket/prefix` or `file:///path`.
        #[arg(long, value_name = "URL", env = "KEELSTONE_BACKUP_URL")]
        to: BucketUrl,
        #[command(flatten)]
        server: S3Server,
        /// Read all of it back afterwards.
        #[arg(long)]
        verify: bool,
    },
    /// List the backups.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Read a backup back and check every byte, record and hash.
    Verify {
        /// The backup's name, or `latest`.
        #[arg(default_value = "latest", conflicts_with = "all")]
        name: String,
        /// All backups.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// Where backups are, to read them.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// Where the backups are, such as `s3://bucket/prefix` or `file:///path`.
    #[arg(long, value_name = "URL", env = "KEELSTONE_BACKUP_URL")]
    from: BucketUrl,
    #[command(flatten)]
    server: S3Server,
}

/// How to reach an S3 server; these override the `AWS_*` variables.
#[derive(Clone, Debug, Args)]
pub(super) struct S3Server {
    /// The server, such as <https://minio.example:9000>; AWS otherwise.
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// The region that requests are signed for.
    #[arg(long, value_name = "NAME")]
    s3_region: Option<String>,
    /// PEM file of certificates to trust besides those of the system.
    #[arg(long, value_name = "FILE")]
    s3_ca_file: Option<PathBuf>,
    /// Reach a server that is not on this machine without TLS. Whoever is on the
    /// way can read the backup.
    #[arg(long)]
    s3_allow_http: bool,
}

impl S3Server {
    fn open(&self, url: &BucketUrl, create: bool) -> Result<Arc<dyn Bucket>, BackupError> {
        let mut options = BucketOptions::from_env();
        options.endpoint = self.s3_endpoint.clone().or(options.endpoint);
        options.region = self.s3_region.clone().or(options.region);
        options.ca_file = self.s3_ca_file.clone().or(options.ca_file);
        options.allow_http |= self.s3_allow_http;
        Ok(backup::open(url, &options, create)?)
    }
}

impl Place {
    /// The repository, which must be there.
    pub(super) async fn repo(&self) -> Result<Repo, BackupError> {
        Repo::open(self.server.open(&self.from, false)?).await
    }
}

impl Backups {
    pub(super) async fn run(self, connection: &Connection) -> Result<()> {
        let output = connection.output;
        match self.action {
            Action::Create { to, server, verify } => {
                // First, so that a wrong address makes no repository.
                let client = connection.client().await?;
                let repo = Repo::open_or_init(server.open(&to, true)?).await?;
                for warning in repo.capabilities().warnings() {
                    note(&format!("warning: {warning}"));
                }
                make(output, &client, &repo, verify).await
            }
            Action::List { place } => print(output, &place.repo().await?.list().await?),
            Action::Verify { all: true, place, .. } => {
                verify_all(output, &place.repo().await?).await
            }
            Action::Verify { name, place, .. } => {
                let repo = place.repo().await?;
                let entry = repo.find(&name).await?;
                let report = check(&repo, &entry).await?;
                tell(output, &[report])
            }
        }
    }
}

async fn make(output: Format, client: &Client, repo: &Repo, verify: bool) -> Result<()> {
    let export = client.cluster().export(None).await.context("begin the export")?;
    let source = Source::of_export(export).map_err(BackupError::Source)?;
    let bars = Bars::default();
    let entry = create(source, repo, CreateOptions::default(), &bars).await?;
    drop(bars);
    if verify {
        let report = check(repo, &entry).await?;
        report.into_result()?;
    }
    let manifest = &entry.manifest;
    let stats = &manifest.stats;
    let fields = [
        ("backup", manifest.name()),
        ("revision", manifest.revision.to_string()),
        ("keys", manifest.counts.keys.to_string()),
        ("rows", bytes(stats.plain_bytes)),
        ("stored", bytes(stats.stored_bytes)),
        ("took", format!("{:.1} s", Duration::from_millis(stats.millis).as_secs_f64())),
        ("state root", manifest.state_root.clone()),
        ("verified", if verify { "yes" } else { "no" }.to_owned()),
        ("where", repo.describe()),
    ];
    output.fields(&fields, &json_of(&entry))
}

/// What is told about a backup to programs: its manifest, its name, and the hash
/// of the manifest.
pub(super) fn json_of(entry: &Entry) -> Value {
    let mut value = serde_json::to_value(&entry.manifest).unwrap_or_default();
    value["name"] = json!(entry.manifest.name());
    value["manifest_hash"] = json!(entry.manifest_hash);
    value
}

fn print(output: Format, listing: &Listing) -> Result<()> {
    let rows = listing.backups.iter().map(|entry| {
        let manifest = &entry.manifest;
        vec![
            manifest.name(),
            manifest.history.ordinal.to_string(),
            manifest.time.commit.clone(),
            manifest.counts.keys.to_string(),
            bytes(manifest.stats.plain_bytes),
            bytes(manifest.stats.stored_bytes),
            manifest.time.finished.clone(),
        ]
    });
    let unreadable = listing.unreadable.iter().map(
        |it| json!({ "folder": it.folder, "problem": it.problem, "finished": it.problem.is_some() }),
    );
    let json = json!({
        "backups": listing.backups.iter().map(json_of).collect::<Vec<_>>(),
        "unreadable": unreadable.collect::<Vec<_>>(),
    });
    let headings = ["name", "history", "state of", "keys", "rows", "stored", "finished"];
    output.rows(&headings, rows.collect(), &json)?;
    for Unreadable { folder, problem } in &listing.unreadable {
        match problem {
            Some(problem) => {
                note(&format!("warning: {folder}: its manifest is damaged: {problem}"));
            }
            None => note(&format!("{folder}: not finished; it is being made, or was given up")),
        }
    }
    Ok(())
}

/// What a verification found.
struct Report {
    name: String,
    damages: Vec<Damage>,
    rows: u64,
    bytes: u64,
    elapsed: Duration,
}

impl Report {
    fn into_result(self) -> Result<(), BackupError> {
        if self.damages.is_empty() { Ok(()) } else { Err(BackupError::Damaged(self.damages)) }
    }
}

async fn check(repo: &Repo, entry: &Entry) -> Result<Report, BackupError> {
    let verified = verify(repo, entry, &Bars::default()).await?;
    Ok(Report {
        name: entry.manifest.name(),
        damages: verified.damages,
        rows: entry.manifest.rows,
        bytes: entry.manifest.stats.plain_bytes,
        elapsed: verified.elapsed,
    })
}

async fn verify_all(output: Format, repo: &Repo) -> Result<()> {
    let listing = repo.list().await?;
    let mut reports = Vec::new();
    for entry in &listing.backups {
        reports.push(check(repo, entry).await?);
    }
    for Unreadable { folder, problem } in listing.unreadable {
        let Some(problem) = problem else { continue };
        let damages = vec![Damage { object: format!("{folder}/MANIFEST"), problem }];
        reports.push(Report { name: folder, damages, rows: 0, bytes: 0, elapsed: Duration::ZERO });
    }
    tell(output, &reports)
}

/// Prints what was found, and fails if anything is damaged.
fn tell(output: Format, reports: &[Report]) -> Result<()> {
    let verdict = |report: &Report| if report.damages.is_empty() { "ok" } else { "DAMAGED" };
    let rows = reports.iter().map(|report| {
        vec![
            report.name.clone(),
            verdict(report).to_owned(),
            report.rows.to_string(),
            bytes(report.bytes),
            format!("{:.1} s", report.elapsed.as_secs_f64()),
        ]
    });
    let json = reports.iter().map(|report| {
        let damages = report.damages.iter();
        let damages = damages.map(|it| json!({ "object": it.object, "problem": it.problem }));
        json!({
            "name": report.name,
            "sound": report.damages.is_empty(),
            "damages": damages.collect::<Vec<_>>(),
            "rows": report.rows,
            "bytes": report.bytes,
            "seconds": report.elapsed.as_secs_f64(),
        })
    });
    let headings = ["name", "verdict", "rows", "bytes", "took"];
    output.rows(&headings, rows.collect(), &Value::Array(json.collect()))?;
    let damages: Vec<Damage> = reports.iter().flat_map(|it| it.damages.clone()).collect();
    if damages.is_empty() {
        return Ok(());
    }
    if output == Format::Table {
        line("")?;
    }
    Err(BackupError::Damaged(damages).into())
}
