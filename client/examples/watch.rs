//! Prints what is there under a prefix, and then every change of it, until it is
//! interrupted. It survives the loss of any node.
//!
//! `cargo run -p keelstone-client --example watch -- jobs/ 127.0.0.1:7701`
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use keelstone_client::{Client, ErrorKind, Event, KeyRange};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let prefix = arguments.next().unwrap_or_default();
    let endpoints: Vec<_> = arguments.collect();
    anyhow::ensure!(!endpoints.is_empty(), "give a prefix and at least one endpoint");
    let client = Client::builder().endpoints(endpoints).connect().await?;
    let range = KeyRange::prefix(prefix);
    loop {
        let now = client.kv().range(range.clone()).send().await?;
        println!("{} keys at revision {}", now.count, now.at.revision);
        let mut watch = client.kv().watch(range.clone()).after(now.at).start().await?;
        let error = loop {
            match watch.next().await {
                Ok(Some(changes)) => changes.events.iter().for_each(print),
                Ok(None) => return Ok(()),
                Err(error) => break error,
            }
        };
        match error.kind() {
            // What was missed cannot be had any more: begin with the present.
            ErrorKind::Compacted { .. } | ErrorKind::HistoryChanged => println!("{error}"),
            _ => return Err(error.into()),
        }
    }
}

fn print(event: &Event) {
    let kv = event.kv();
    let key = String::from_utf8_lossy(&kv.key);
    match event {
        Event::Put { .. } => {
            println!("{} {key} = {}", kv.mod_revision, String::from_utf8_lossy(&kv.value));
        }
        _ => println!("{} {key} is gone", kv.mod_revision),
    }
}
