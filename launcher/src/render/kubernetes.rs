//! What only jobs for Kubernetes have.

use super::{Scheduler, job_name};
use crate::failure::Failure;
use config::{Cluster, Memory, Mpi, Run, Toleration};
use serde::Serialize;
use std::collections::BTreeMap;

/// Where the operators write the hosts of a job, in the pod that starts the ranks.
pub const HOSTFILE: &str = "/etc/mpi/hostfile";

/// What the templates of both operators know.
#[derive(Debug, Serialize)]
pub struct Kubernetes<'a> {
    hostfile: &'static str,
    /// As both operators call it.
    mpi_implementation: &'static str,
    ttl_seconds: Option<u32>,
    priority_class: Option<&'a str>,
    image_pull_secrets: &'a [String],
    tolerations: &'a [Toleration],
    shared_memory: Option<&'a str>,
    rdma: &'a BTreeMap<String, u32>,
}

impl<'a> Kubernetes<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        Self {
            hostfile: HOSTFILE,
            mpi_implementation: match cluster.mpi {
                Mpi::OpenMpi => "OpenMPI",
                Mpi::Mpich => "MPICH",
                Mpi::Intel => "Intel",
            },
            ttl_seconds: cluster.ttl_seconds_after_finished,
            priority_class: cluster.priority_class.as_deref(),
            image_pull_secrets: &cluster.image_pull_secrets,
            tolerations: &cluster.tolerations,
            shared_memory: cluster.shared_memory.as_ref().map(Memory::as_str),
            rdma: &cluster.rdma,
        }
    }
}

/// Refuses what the API server or the operator would.
pub fn check(scheduler: Scheduler, run: &Run) -> Result<(), Failure> {
    let refuse =
        |key: &str, what: &str| Err(Failure::Input(run.error_at("cluster", key, what).to_string()));
    if let Some(name) = &run.cluster.name
        && !is_label(name)
    {
        let what = format!(
            "is {name:?}, and Kubernetes takes small letters, digits and -, a letter first; write {:?}",
            job_name(name.as_ref())
        );
        return refuse("name", &what);
    }
    if scheduler == Scheduler::Trainjob && run.cluster.mpi != Mpi::OpenMpi {
        let what = format!(
            "is \"{}\", and Kubeflow Trainer starts only \"openmpi\"; render an mpijob instead",
            run.cluster.mpi
        );
        return refuse("mpi", &what);
    }
    Ok(())
}

/// A label of RFC 1035 that YAML reads as a text.
pub fn is_label(name: &str) -> bool {
    let inner =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    name.chars().all(inner)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !matches!(name, "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_begins_with_a_letter_and_is_no_other_scalar_of_yaml() {
        assert!(["a", "tune-7", "on-2"].into_iter().all(is_label));
        assert!(["7-tune", "Tune", "", "on", "null"].into_iter().all(|name| !is_label(name)));
    }
}
