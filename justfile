# Everyday commands. `just` alone lists them.

default:
    @just --list

# Formatting, lints, and the rules of the source tree.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features keelstone-server/sled -- -D warnings

# Every test: the README's command.
test:
    cargo test --workspace --features keelstone-server/sled

# The main job in one run.
demo:
    cargo run --release -- demo

# Licences, bans, sources; with the advisory database where there is a network.
deny:
    cargo deny check

# Kills a process with SIGKILL under load again and again, and reopens its files.
crash ROUNDS="200":
    cargo run --release -p keelstone-tests --bin crash -- --rounds {{ROUNDS}}

# Cuts the power of a loop device under load; needs root and loop devices.
powercut CUTS="20":
    cargo run --release -p keelstone-tests --features keelstone-store/sled --bin powercut -- --cuts {{CUTS}}

# The same load on Keelstone and on etcd, side by side; needs `etcd` on the path.
compare SECONDS="10":
    cargo build --release
    cargo run --release -p keelstone-tests --bin keelstone-bench -- compare --seconds {{SECONDS}}

# Ten kills of the leader, and how long writes were not acknowledged.
failover KILLS="10":
    cargo build --release
    cargo run --release -p keelstone-tests --bin keelstone-bench -- failover --kills {{KILLS}}

# Empty replicas join under a steady load, and how much longer writes take meanwhile.
join *ARGS:
    cargo build --release
    cargo run --release -p keelstone-tests --bin keelstone-bench -- join {{ARGS}}

# Micro-benchmarks of apply, codec, disk and engines.
bench *ARGS:
    cargo bench -p keelstone-store {{ARGS}}

# One seed of the deterministic simulation, with all that happened.
sim SEED:
    just sim-many {{SEED}} "$(({{SEED}} + 1))" --trace

# Many seeds, and how many a minute. A build of its own: tokio's randomness has to come from the seed.
sim-many FROM TO *ARGS:
    RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/sim cargo run --profile sim -p keelstone-tests --no-default-features --features simulation --bin keelstone-sim -- run --seeds {{FROM}}..{{TO}} {{ARGS}}

# One fault run on real processes: `just jepsen append kill+partition 60s`.
jepsen WORKLOAD NEMESIS TIME="60s":
    cargo build --release -p keelstone-server -p keelstone-jepsen
    target/release/keelstone-jepsen run --workload {{WORKLOAD}} --nemesis {{NEMESIS}} --time {{TIME}}

# All workloads under all nemeses, for so many hours.
jepsen-all HOURS:
    cargo build --release -p keelstone-server -p keelstone-jepsen
    target/release/keelstone-jepsen matrix --hours {{HOURS}}

# Switches each planted bug on and looks for it; prints the table of who found it. `--only NAME`, `--by sim`.
planted-bugs *ARGS:
    cargo build -p keelstone-server --features planted-bugs --bin keelstone
    cargo build -p keelstone-jepsen
    RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=target/sim cargo build --profile sim -p keelstone-tests --no-default-features --features simulation,planted-bugs --bin keelstone-sim
    cargo run -p keelstone-tests --bin planted-bugs -- {{ARGS}}
