//! One of many: of all processes that run this, one at a time does the work.
//! Kill it, and within the lease's time another goes on.
//!
//! `cargo run -p keelstone-client --example leader -- 127.0.0.1:7701`
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use keelstone_client::{Client, Compare, KeepAlive, KeyRange, Op};
use std::time::Duration;

const KEY: &str = "example/leader";
const TTL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<_> = std::env::args().skip(1).collect();
    anyhow::ensure!(!endpoints.is_empty(), "give at least one endpoint, such as 127.0.0.1:7701");
    let client = Client::builder().endpoints(endpoints).connect().await?;
    let name = format!("process {}", std::process::id());
    loop {
        let lease = campaign(&client, &name).await?;
        println!("{name} leads");
        tokio::select! {
            () = lease.lost() => println!("{name} lost the lead"),
            () = work() => {}
            _ = tokio::signal::ctrl_c() => {
                // The next one need not wait for the lease to end.
                lease.revoke().await?;
                return Ok(());
            }
        }
    }
}

/// Waits until the key is free and takes it.
async fn campaign(client: &Client, name: &str) -> anyhow::Result<KeepAlive> {
    loop {
        let lease = client.leases().hold(TTL).await?;
        let taken = client
            .kv()
            .txn()
            .when(Compare::absent(KEY))
            .then(Op::put_with_lease(KEY, name.to_owned(), lease.id()))
            .otherwise(Op::range(KEY))
            .commit()
            .await?;
        if taken.succeeded {
            return Ok(lease);
        }
        println!("{name} waits");
        let mut watch = client.kv().watch(KeyRange::key(KEY)).after(taken.at).start().await?;
        watch.next().await?;
        lease.revoke().await?;
    }
}

async fn work() {
    loop {
        println!("working");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
