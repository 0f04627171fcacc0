//! Configuration: sets a value, changes it only if nobody else has, and shows
//! the tree.
//!
//! `cargo run -p keelstone-client --example config -- 127.0.0.1:7701`
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use keelstone_client::{Client, ErrorKind, Precondition};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<_> = std::env::args().skip(1).collect();
    anyhow::ensure!(!endpoints.is_empty(), "give at least one endpoint, such as 127.0.0.1:7701");
    let config = Client::builder().endpoints(endpoints).connect().await?.config();

    let first = config.put("example/syslog/port", &514, Precondition::Unconditional).await?;
    config.put("example/syslog/host", "logs.example.com", Precondition::Unconditional).await?;
    let guard = Precondition::IfRevision(first.revision);
    config.put("example/syslog/port", &6514, guard).await?;

    // The guard names a revision that is over.
    match config.put("example/syslog/port", &1514, guard).await {
        Err(error) => match error.kind() {
            ErrorKind::Conflict { current_revision } => println!("it is at {current_revision} now"),
            _ => return Err(error.into()),
        },
        Ok(value) => println!("nobody was faster: it is at {} now", value.revision),
    }
    for value in config.list("example").await?.values {
        println!("{} = {}", value.path, String::from_utf8_lossy(&value.value));
    }
    println!("{} values deleted", config.delete_tree("example").await?);
    Ok(())
}
