//! An MPIJob as kubeflow/mpi-operator's v2beta1 knows it (`pkg/apis/kubeflow/v2beta1/types.go` and
//! the schema that is made of it): all fields of the operator with their types and values, and of
//! Kubernetes' own pods those that `loract render` writes. Any other is refused, as the cluster
//! refuses it.
#![allow(dead_code)] // the schema has more than the tests look at

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MpiJob {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    pub slots_per_worker: Option<i32>,
    pub run_launcher_as_worker: Option<bool>,
    #[serde(default)]
    pub run_policy: RunPolicy,
    pub mpi_replica_specs: Replicas,
    pub ssh_auth_mount_path: Option<String>,
    pub launcher_creation_policy: Option<LauncherCreation>,
    pub mpi_implementation: Option<MpiImplementation>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum LauncherCreation {
    AtStartup,
    WaitForWorkersReady,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum MpiImplementation {
    #[serde(rename = "OpenMPI")]
    OpenMpi,
    Intel,
    #[serde(rename = "MPICH")]
    Mpich,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunPolicy {
    pub clean_pod_policy: Option<CleanPods>,
    pub ttl_seconds_after_finished: Option<i32>,
    pub active_deadline_seconds: Option<i64>,
    pub backoff_limit: Option<i32>,
    pub scheduling_policy: Option<Value>,
    pub suspend: Option<bool>,
    pub managed_by: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum CleanPods {
    All,
    Running,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct Replicas {
    pub launcher: Replica,
    pub worker: Replica,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Replica {
    pub replicas: Option<i32>,
    pub restart_policy: Option<Restart>,
    pub template: Template,
}

/// The operator's own check leaves two of the schema's.
#[derive(Debug, PartialEq, Deserialize)]
pub enum Restart {
    Never,
    OnFailure,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub spec: Pod,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pod {
    pub termination_grace_period_seconds: Option<i64>,
    pub security_context: PodSecurity,
    pub containers: [Container; 1],
    pub volumes: [Volume; 1],
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSecurity {
    pub run_as_non_root: bool,
    pub run_as_user: i64,
    pub run_as_group: i64,
    pub fs_group: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: String,
    pub working_dir: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    pub readiness_probe: Option<Value>,
    pub resources: Resources,
    pub volume_mounts: [Mount; 1],
}

/// Quantities: numbers, or text such as `64Gi`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub limits: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub persistent_volume_claim: Claim,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Claim {
    pub claim_name: String,
}

impl MpiJob {
    pub fn read(text: &str) -> MpiJob {
        serde_yaml_ng::from_str(text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
    }

    /// What the launcher's shell is given.
    pub fn script(&self) -> &str {
        &self.spec.mpi_replica_specs.launcher.template.spec.containers[0].args[0]
    }
}
