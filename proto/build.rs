//! Compiles the `.proto` files in pure Rust: no protoc is needed.

use prost::Message as _;
use std::path::PathBuf;

const FILES: [&str; 11] = [
    "keelstone/v1/common.proto",
    "keelstone/v1/kv.proto",
    "keelstone/v1/watch.proto",
    "keelstone/v1/entities.proto",
    "keelstone/v1/config.proto",
    "keelstone/v1/cluster.proto",
    "keelstone/peer/v1/peer.proto",
    "keelstone/disk/v1/command.proto",
    "keelstone/disk/v1/state.proto",
    "keelstone/disk/v1/backup.proto",
    "keelstone/disk/v1/entity.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
