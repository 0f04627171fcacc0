//! The methods of the API, and what the layer has to know of each.

/// How a method's messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One request, one response.
    Unary,
    /// A stream in at least one direction: it lasts.
    Stream,
    /// Health and reflection: served while the node is loaded or stops.
    Service,
}

/// A method as metrics and spans name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// `Service/Method`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// Every method of `keelstone.v1`.
pub(super) const METHODS: [Method; 39] = [
    unary("Kv/Range"),
    unary("Kv/Put"),
    unary("Kv/Delete"),
    unary("Kv/Txn"),
    unary("Kv/Compact"),
    unary("Leases/Grant"),
    stream("Leases/KeepAlive"),
    unary("Leases/Revoke"),
    unary("Leases/TimeToLive"),
    unary("Leases/List"),
    unary("Sessions/Open"),
    unary("Sessions/Close"),
    stream("Watch/Watch"),
    unary("Types/Register"),
    unary("Types/Get"),
    unary("Types/List"),
    unary("Entities/Create"),
    unary("Entities/Get"),
    unary("Entities/List"),
    unary("Entities/Update"),
    unary("Entities/Patch"),
    unary("Entities/Delete"),
    unary("Entities/Resolve"),
    unary("Entities/History"),
    stream("Entities/Watch"),
    unary("Config/Put"),
    unary("Config/Get"),
    unary("Config/List"),
    unary("Config/Delete"),
    unary("Config/History"),
    stream("Config/Watch"),
    unary("Cluster/Status"),
    unary("Cluster/Members"),
    unary("Cluster/Add"),
    unary("Cluster/Promote"),
    unary("Cluster/Remove"),
    unary("Cluster/Transfer"),
    unary("Cluster/Drain"),
    stream("Export/Export"),
];

const PREFIX: &str = "/keelstone.v1.";

const fn unary(name: &'static str) -> Method {
    Method { name, kind: Kind::Unary }
}

const fn stream(name: &'static str) -> Method {
    Method { name, kind: Kind::Stream }
}

/// The method that a path names. What is not known has one name, whatever it
/// is: labels must not grow with what clients send.
pub(super) fn of(path: &str) -> Method {
    let ours = path.strip_prefix(PREFIX);
    if let Some(name) = ours {
        let known = METHODS.iter().find(|method| method.name == name);
        return known.copied().unwrap_or(unary("unknown"));
    }
    if path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.v1") {
        return Method { name: "service", kind: Kind::Service };
    }
    unary("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_api_is_known() {
        let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto/keelstone/v1");
        let mut found = Vec::new();
        for file in std::fs::read_dir(proto).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let mut service = "";
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.trim_end_matches(" {");
                }
                let Some(rest) = line.strip_prefix("rpc ") else { continue };
                let method = rest.split('(').next().unwrap();
                let kind = if rest.contains("stream ") { Kind::Stream } else { Kind::Unary };
                found.push((format!("{service}/{method}"), kind));
            }
        }
        let mut known: Vec<_> = METHODS.iter().map(|m| (m.name.to_owned(), m.kind)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        known.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(known, found);
    }

    #[test]
    fn what_is_not_known_has_one_name() {
        assert_eq!(of("/keelstone.v1.Kv/Put").name, "Kv/Put");
        assert_eq!(of("/keelstone.v1.Kv/Steal").name, "unknown");
        assert_eq!(of("/x").name, "unknown");
        assert_eq!(of("/grpc.health.v1.Health/Check").kind, Kind::Service);
    }
}
