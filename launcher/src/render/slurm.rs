//! What only jobs for Slurm have: the process manager interface, containers, and job arrays.

use super::{Request, quote::word};
use crate::failure::Failure;
use config::{Cluster, Container, Mpi, Run};
use serde::Serialize;
use std::path::Path;

/// What Slurm's template knows.
#[derive(Debug, Serialize)]
pub struct Slurm {
    /// The plugin by which `srun` speaks with the ranks' MPI.
    slurm_pmi: &'static str,
    /// Options of `srun`, with a blank before each.
    srun_container: String,
    /// What runs a rank's command in a container, with a blank behind it.
    container_exec: String,
    /// What each task of an array sets, quoted for a shell.
    array: Vec<String>,
    /// The setting of a task's run directory, up to its number, quoted for a shell.
    array_dir: String,
}

impl Slurm {
    /// # Errors
    /// A folder that no container could mount, and a task of an array that is no valid run.
    pub fn new(request: &Request<'_>) -> Result<Self, Failure> {
        let Cluster { mpi, container, array, .. } = &request.run.cluster;
        for set in array {
            let set = request.set.iter().chain([set]).cloned().collect::<Vec<_>>();
            Run::load(request.config, &set)?;
        }
        let (srun_container, container_exec) = match container {
            None => Default::default(),
            Some(Container::Pyxis) => (pyxis(request)?, String::new()),
            Some(Container::Apptainer) => (String::new(), apptainer(request)?),
        };
        Ok(Self {
            slurm_pmi: match mpi {
                Mpi::OpenMpi => "pmix",
                Mpi::Mpich | Mpi::Intel => "pmi2",
            },
            srun_container,
            container_exec,
            array: array.iter().map(|set| word(set)).collect::<Result<_, _>>()?,
            array_dir: word(&format!("run.dir={}-", request.run.dir.display()))?,
        })
    }
}

/// The folders of a container: the current one, and those of the configuration.
fn mounts(request: &Request<'_>) -> Result<Vec<String>, Failure> {
    let here = folder(request.directory)?;
    let further = request.run.cluster.mounts.iter().cloned();
    Ok(std::iter::once(here).chain(further).collect())
}

/// The current folder, which has the same path inside.
fn folder(directory: &Path) -> Result<String, Failure> {
    let path = directory.display().to_string();
    if path.contains([',', ':']) {
        let what = format!("{path}: a container cannot mount a folder with , or : in its path");
        return Err(Failure::Input(what));
    }
    Ok(path)
}

fn pyxis(request: &Request<'_>) -> Result<String, Failure> {
    // It wants both paths.
    let mounts = mounts(request)?.into_iter().map(|mount| match mount.split_once(':') {
        Some(_) => mount,
        None => format!("{mount}:{mount}"),
    });
    let options = [
        format!("--container-image={}", request.run.cluster.image),
        format!("--container-mounts={}", mounts.collect::<Vec<_>>().join(",")),
        format!("--container-workdir={}", request.directory.display()),
    ];
    options.iter().map(|option| Ok(format!(" {}", word(option)?))).collect()
}

fn apptainer(request: &Request<'_>) -> Result<String, Failure> {
    let Cluster { image, gpus_per_node, .. } = &request.run.cluster;
    let mut words = vec!["apptainer".to_owned(), "exec".to_owned()];
    if *gpus_per_node > 0 {
        // The driver's libraries come from the host.
        words.push("--nv".to_owned());
    }
    for mount in mounts(request)? {
        words.extend(["--bind".to_owned(), word(&mount)?]);
    }
    words.extend(["--pwd".to_owned(), word(&request.directory.display().to_string())?]);
    words.push(word(image)?);
    Ok(words.join(" ") + " ")
}
