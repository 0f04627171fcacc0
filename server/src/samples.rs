//! Real-shaped sample types and documents, for `demo`, benches and tests.
//!
//! The layout is that of real entities, the undeclared fields and the null
//! where the schema wants an object included; all values are invented and
//! depend on the seed alone.

use serde_json::{Value, json};

/// The URN of the sample cluster type.
pub const CLUSTER_TYPE: &str = "urn:vcloud:type:vmware:capvcdCluster:1.3.0";
/// Its schema, draft-04 without saying so.
pub const CLUSTER_SCHEMA: &str = include_str!("../samples/capvcdCluster-1.3.0.schema.json");
/// The URN of the sample configuration type.
pub const CONFIG_TYPE: &str = "urn:vcloud:type:vmware:VCDKEConfig:1.1.0";
/// Its schema, draft-04.
pub const CONFIG_SCHEMA: &str = include_str!("../samples/VCDKEConfig-1.1.0.schema.json");

/// How large a sample cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterShape {
    /// Machines.
    pub nodes: u32,
    /// Groups of like machines.
    pub pools: u32,
    /// Persistent volumes.
    pub volumes: u32,
    /// Load balancers.
    pub balancers: u32,
    /// Events in the extension's section.
    pub events: u32,
}

impl ClusterShape {
    /// About 32 KB.
    pub const SMALL: Self = Self { nodes: 2, pools: 1, volumes: 2, balancers: 2, events: 10 };
    /// About 45 KB.
    pub const TYPICAL: Self = Self { nodes: 6, pools: 2, volumes: 20, balancers: 3, events: 20 };
    /// About 115 KB.
    pub const LARGE: Self = Self { nodes: 50, pools: 5, volumes: 300, balancers: 20, events: 40 };

    /// The shape of the `seed`-th of many clusters: mostly typical, some small,
    /// a few large.
    pub fn of(seed: u64) -> Self {
        match seed % 10 {
            0..=2 => Self::SMALL,
            3..=8 => Self::TYPICAL,
            _ => Self::LARGE,
        }
    }
}

/// The document of a sample cluster, as compact JSON. The same for the same
/// arguments.
pub fn cluster(seed: u64, shape: ClusterShape) -> Vec<u8> {
    cluster_value(seed, shape).to_string().into_bytes()
}

/// A merge patch that a worker sends as its sign of life.
pub fn heartbeat(worker: &str, beat: u64) -> Vec<u8> {
    let status = json!({
        "workerId": worker,
        "heartbeatString": format!("{worker}:{beat}"),
        "heartbeatTimestamp": time(beat),
    });
    json!({"status": {"vcdKe": status}}).to_string().into_bytes()
}

/// The document of the sample configuration, as compact JSON.
pub fn config() -> Vec<u8> {
    let part = |name: &str, version: &str| json!({"name": name, "version": version});
    let profile = json!({
        "name": "production",
        "active": true,
        "vcdKeInstances": [
            {"name": "server-1", "version": "4.2.0", "vcdKeInstanceId": Draw(1).uuid()},
            {"name": "server-2", "version": "4.2.0", "vcdKeInstanceId": Draw(2).uuid()},
        ],
        "serverConfig": {
            "rdePollIntervalInMin": 1,
            "heartbeatWatcherTimeoutInMin": 10,
            "staleHeartbeatIntervalInMin": 30,
        },
        "vcdConfig": {"sysLogger": {"host": "", "port": ""}},
        "githubConfig": {"githubPersonalAccessToken": ""},
        "bootstrapClusterConfig": {
            "sizingPolicy": "small",
            "dockerVersion": "",
            "kindVersion": "v0.20.0",
            "kindestNodeVersion": "v1.28.0",
            "kubectlVersion": "",
            "clusterctl": {"version": "v1.5.0", "clusterctlyaml": ""},
            "capiEcosystem": {
                "coreCapiVersion": "v1.5.0",
                "controlPlaneProvider": part("KCP", "v1.5.0"),
                "bootstrapProvider": part("CAPBK", "v1.5.0"),
                "infraProvider": {
                    "name": "capvcd",
                    "version": "v1.2.0",
                    "capvcdRde": {"vendor": "vmware", "nss": "capvcdCluster", "version": "1.3.0"},
                },
                "certManagerVersion": "v1.12.0",
            },
            "proxyConfig": {"httpProxy": "", "httpsProxy": "", "noProxy": ""},
            "certificateAuthorities": [],
        },
        "K8Config": {
            "csi": [part("named-disk driver", "1.5.0")],
            "cpi": part("cloud provider", "1.5.0"),
            "cni": part("antrea", ""),
            "rdeProjectorVersion": "0.7.0",
            "mhc": {
                "maxUnhealthyNodes": 100,
                "nodeStartupTimeout": "900s",
                "nodeNotReadyTimeout": "300s",
                "nodeUnknownTimeout": "300s",
            },
            "certificateAuthorities": [],
        },
        "containerRegistryUrl": "registry.example.com",
    });
    json!({"profiles": [profile]}).to_string().into_bytes()
}

/// Like [`cluster`], as a value.
pub fn cluster_value(seed: u64, shape: ClusterShape) -> Value {
    let mut draw = Draw(seed);
    let name = format!("cluster-{seed:04}");
    json!({
        "kind": "CAPVCDCluster",
        "apiVersion": "capvcd.vmware.com/v1.2",
        "metadata": {
            "name": name,
            "orgName": format!("tenant-{}", seed % 7),
            "virtualDataCenterName": "vdc-1",
            "site": "https://director.example.com",
        },
        "spec": spec(&mut draw, &name, shape),
        "status": {
            "vcdKe": extension_status(&mut draw, shape),
            "capvcd": provider_status(&mut draw, &name, shape),
            "cpi": balancer_status(&mut draw, shape),
            "csi": volume_status(&mut draw, shape),
            "projector": {
                "name": "rde-projector",
                "version": "0.7.0",
                "lastAppliedSequence": 1,
                "eventSet": [],
                "errorSet": [],
                "operations": [],
                "retrySet": [],
            },
        },
    })
}

fn spec(draw: &mut Draw, name: &str, shape: ClusterShape) -> Value {
    json!({
        "capiYaml": cluster_yaml(name, shape.pools),
        "yamlSet": [],
        "projector": {"operations": []},
        "vcdKe": {
            "isVCDKECluster": true,
            "markForDelete": false,
            "forceDelete": false,
            "autoRepairOnErrors": false,
            "defaultStorageClassOptions": storage_class(),
            "secure": {"apiToken": format!("SAMPLE-{}", draw.base64(32))},
        },
    })
}

fn extension_status(draw: &mut Draw, shape: ClusterShape) -> Value {
    let events = (0..shape.events)
        .map(|at| event(draw, "BootstrapStepDone", at, Some("the step has finished")))
        .collect::<Value>();
    json!({
        "state": "provisioned",
        "vcdKeVersion": "4.2.0",
        "vcdKeInstanceId": draw.uuid(),
        "workerId": draw.uuid(),
        "heartbeatString": "none yet",
        "heartbeatTimestamp": time(0),
        "eventSet": events,
        "errorSet": [],
        "vcdResourceSet": [resource(draw, "ephemeral-vm", "vm", "EPHEMERAL-1")],
        "defaultStorageClass": storage_class(),
    })
}

fn provider_status(draw: &mut Draw, name: &str, shape: ClusterShape) -> Value {
    let replicas = (shape.nodes / shape.pools.max(1)).max(1);
    let pool = |at: u32| {
        json!({
            "name": format!("{name}-pool-{at}"),
            "sizingPolicy": "small",
            "storageProfile": "*",
            "diskSizeMb": 20480,
            "nvidiaGpuEnabled": false,
            "desiredReplicas": replicas,
            "availableReplicas": replicas,
        })
    };
    let binding = |name: &str| {
        json!({
            "clusterResourceSetName": "base",
            "kind": "Secret",
            "name": name,
            "applied": true,
            "lastAppliedTime": time(10),
        })
    };
    let bindings = ["cni", "cpi", "csi", "sc"].map(binding);
    let mut resources = vec![resource(draw, "vApp", "vapp", name)];
    resources.extend((0..shape.nodes).map(|at| {
        let machine = format!("{name}-{at}");
        resource(draw, "virtual-machine", "vm", &machine)
    }));
    let long = "the machine did not answer in time. ".repeat(11);
    let errors = (0..3).map(|at| event(draw, "MachineError", at, Some(&long))).collect::<Value>();
    let events = (0..20).map(|at| event(draw, "MachineBootstrapped", at, None)).collect::<Value>();
    json!({
        "phase": "Provisioned",
        "kubernetes": "v1.28.4+sample.1",
        "uid": format!("urn:vcloud:entity:vmware:capvcdCluster:{}", draw.uuid()),
        "parentUid": "",
        "capvcdVersion": "1.3.2",
        "createdByVersion": "1.3.2",
        "useAsManagementCluster": false,
        "clusterApiStatus": {"phase": "Ready", "apiEndpoints": [{"host": "10.0.0.10", "port": 6443}]},
        "k8sNetwork": {
            "pods": {"cidrBlocks": ["100.96.0.0/11"]},
            "services": {"cidrBlocks": ["100.64.0.0/13"]},
        },
        "upgrade": {
            "ready": true,
            "current": {"kubernetesVersion": "v1.28.4+sample.1", "tkgVersion": "v2.5.0"},
            // Real writers leave this null although the schema says object.
            "previous": null,
        },
        "nodePool": (0..shape.pools).map(pool).collect::<Value>(),
        "vcdProperties": {
            "site": "https://director.example.com",
            "organizations": [{"name": "tenant", "id": format!("urn:vcloud:org:{}", draw.uuid())}],
            "orgVdcs": [{
                "name": "vdc-1",
                "id": format!("urn:vcloud:vdc:{}", draw.uuid()),
                "ovdcNetworkName": "net-1",
            }],
        },
        "private": {"kubeConfig": format!("SAMPLE\n{}", draw.base64(5600))},
        "capiStatusYaml": status_yaml(name, shape.nodes),
        "clusterResourceSetBindings": bindings,
        "vcdResourceSet": resources,
        "eventSet": events,
        "errorSet": errors,
    })
}

fn balancer_status(draw: &mut Draw, shape: ClusterShape) -> Value {
    let events =
        (0..10).map(|at| event(draw, "BalancerCreated", at, Some("created"))).collect::<Value>();
    let balancer = |at: u32| {
        let mut item = resource(draw, "virtual-service", "loadBalancerVirtualService", "ingress");
        item["additionalDetails"] = json!({"virtualIP": format!("10.1.0.{}", at % 250)});
        item
    };
    let resources = (0..shape.balancers).map(balancer).collect::<Value>();
    json!({
        "name": "cloud-controller-manager",
        "version": "1.6.0",
        "eventSet": events,
        "errorSet": [],
        "vcdResourceSet": resources,
    })
}

fn volume_status(draw: &mut Draw, shape: ClusterShape) -> Value {
    let events =
        (0..10).map(|at| event(draw, "DiskAttached", at, Some("attached"))).collect::<Value>();
    let volumes = (0..shape.volumes)
        .map(|_| {
            let name = format!("pvc-{}", draw.uuid());
            resource(draw, "named-disk", "disk", &name)
        })
        .collect::<Value>();
    json!({
        "name": "named-disk-driver",
        "version": "1.6.0",
        "eventSet": events,
        "errorSet": [],
        "vcdResourceSet": volumes,
    })
}

fn storage_class() -> Value {
    json!({
        "fileSystem": "ext4",
        "k8sStorageClassName": "default-sc",
        "vcdStorageProfileName": "*",
        "useDeleteReclaimPolicy": true,
    })
}

fn event(draw: &mut Draw, name: &str, at: u32, details: Option<&str>) -> Value {
    let mut event = json!({
        "name": name,
        "occurredAt": time(u64::from(at)),
        "vcdResourceId": format!("urn:vcloud:vm:{}", draw.uuid()),
        "vcdResourceName": format!("machine-{}", &draw.uuid()[..5]),
    });
    if let Some(details) = details {
        event["additionalDetails"] = json!({"Detailed Event": details});
    }
    event
}

fn resource(draw: &mut Draw, kind: &str, urn: &str, name: &str) -> Value {
    json!({"type": kind, "id": format!("urn:vcloud:{urn}:{}", draw.uuid()), "name": name})
}

fn cluster_yaml(name: &str, pools: u32) -> String {
    let mut yaml = format!(
        "apiVersion: cluster.x-k8s.io/v1beta1\nkind: Cluster\nmetadata:\n  name: {name}\nspec:\n"
    );
    yaml += &"  # control plane, network and infrastructure\n".repeat(100);
    for pool in 0..pools {
        let head = format!(
            "---\nkind: VCDMachineTemplate\nmetadata:\n  name: {name}-pool-{pool}\nspec:\n"
        );
        yaml.extend([head, "      sizingPolicy: small\n".repeat(90)]);
    }
    yaml
}

fn status_yaml(name: &str, nodes: u32) -> String {
    let condition =
        "  - lasttransitiontime: \"2026-03-01T00:00:00Z\"\n    status: \"True\"\n    type: Ready\n";
    let mut yaml = String::new();
    for node in 0..nodes + 3 {
        let head = format!(
            "---\nkind: VCDMachine\nmetadata:\n  name: {name}-{node}\nstatus:\n  conditions:\n"
        );
        yaml.extend([head, condition.repeat(4)]);
    }
    yaml
}

fn time(minutes: u64) -> String {
    let (day, hour, minute) = (1 + minutes / 1440 % 28, minutes / 60 % 24, minutes % 60);
    format!("2026-03-{day:02}T{hour:02}:{minute:02}:00.123456789Z")
}

/// A stream of numbers from a seed (splitmix64), so that the same seed makes
/// the same document everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn uuid(&mut self) -> String {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    fn base64(&mut self, characters: usize) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..characters)
            .map(|_| {
                let at = usize::try_from(self.next() % 64).expect("below 64");
                char::from(ALPHABET[at])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelstone_store::entity::json::Json;
    use keelstone_store::entity::schema::Schema;

    #[test]
    fn documents_are_valid_and_of_real_size() {
        let schema = Schema::compile(CLUSTER_SCHEMA.as_bytes()).unwrap();
        let check = |shape: ClusterShape, bytes: std::ops::Range<usize>| {
            let document = cluster(7, shape);
            assert!(bytes.contains(&document.len()), "{shape:?} has {} bytes", document.len());
            assert_eq!(document, cluster(7, shape));
            let text = String::from_utf8(document).unwrap();
            assert_eq!(schema.validate(&Json::parse(&text).unwrap()), Ok(()));
        };
        check(ClusterShape::SMALL, 25_000..40_000);
        check(ClusterShape::TYPICAL, 35_000..60_000);
        check(ClusterShape::LARGE, 90_000..130_000);
    }

    #[test]
    fn the_configuration_is_valid() {
        let schema = Schema::compile(CONFIG_SCHEMA.as_bytes()).unwrap();
        let text = String::from_utf8(config()).unwrap();
        assert_eq!(schema.validate(&Json::parse(&text).unwrap()), Ok(()));
        let wrong = text.replace("\"active\":true", "\"active\":\"yes\"");
        let invalid = schema.validate(&Json::parse(&wrong).unwrap()).unwrap_err();
        assert_eq!(invalid.problems[0].pointer, "/profiles/0/active");
    }
}
