//! MPI, libtorch, CUDA and NCCL.

use super::Finding;
use crate::failure::one_line;
use crate::mpirun::Dialect;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of libtorch that this program is made for.
const LIBTORCH: &str = "2.11.0";

/// Looks at the libraries; `mpirun` is the program that starts ranks.
pub fn look(mpirun: &str) -> Vec<Finding> {
    let mut findings = vec![mpi(mpirun), libtorch()];
    findings.extend(cuda());
    findings
}

fn mpi(mpirun: &str) -> Finding {
    const INSTALL: &str = "install Open MPI (Debian: apt-get install openmpi-bin libopenmpi-dev) and build again; one rank runs without";
    if !cfg!(feature = "mpi") {
        return Finding::warning("MPI", "this program was built without it", INSTALL);
    }
    if let Err(what) = Dialect::from_program(mpirun) {
        return Finding::warning("MPI", what, INSTALL);
    }
    let said = Command::new(mpirun)
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = said
        .unwrap_or_default()
        .lines()
        .find(|line| !line.trim().is_empty())
        .map(one_line)
        .unwrap_or_default();
    match mapped("libmpi.so") {
        Some(path) => Finding::good("MPI", format!("{version}; linked: {}", path.display())),
        None => Finding::good("MPI", version),
    }
}

fn libtorch() -> Finding {
    let Some(path) = mapped("libtorch_cpu.so") else {
        return Finding::problem(
            "libtorch",
            "it is not linked",
            "build again, with LIBTORCH as README.md says",
        );
    };
    // …/lib/libtorch_cpu.so: next to lib/ the wheel has version.py, and what ci/setup unpacks has
    // build-version.
    let top = path.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let version = std::fs::read_to_string(top.join("build-version"))
        .ok()
        .or_else(|| std::fs::read_to_string(top.join("version.py")).ok());
    let version = version.as_deref().and_then(version_in);
    match version {
        Some(version) if version.starts_with(LIBTORCH) => {
            Finding::good("libtorch", format!("{version}, {}", path.display()))
        }
        Some(version) => Finding::problem(
            "libtorch",
            format!("{version}, {}; this program is made for {LIBTORCH}", path.display()),
            format!("pip install torch=={LIBTORCH}, set LIBTORCH to it, and build again"),
        ),
        None => Finding::warning(
            "libtorch",
            format!("{}, of unknown version", path.display()),
            format!("see that it is {LIBTORCH}"),
        ),
    }
}

/// The first thing in a text that looks like a version: `2.11.0+cu130`.
fn version_in(text: &str) -> Option<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '+';
    let mut words = text.split(|letter: char| !is_part(letter));
    words
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

fn cuda() -> Vec<Finding> {
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.as_deref().and_then(|text| text.lines().next()).map(one_line);
    let seen = tch::Cuda::is_available();
    let devices = match (driver, seen) {
        (_, true) => {
            Finding::good("CUDA", format!("libtorch sees {} GPUs", tch::Cuda::device_count()))
        }
        (Some(driver), false) => Finding::warning(
            "CUDA",
            format!("there is a driver ({driver}), and libtorch sees no GPU"),
            "build against a PyTorch with CUDA: LIBTORCH=…/site-packages/torch",
        ),
        (None, false) => {
            return vec![Finding::good("CUDA", "no GPU here: runs compute on the processor")];
        }
    };
    let nccl = match nccl() {
        Some(path) => Finding::good("NCCL", path.display().to_string()),
        None => Finding::warning(
            "NCCL",
            "libnccl.so.2 is in none of the usual places",
            "pip install nvidia-nccl-cu13, or install libnccl2",
        ),
    };
    vec![devices, nccl]
}

/// NCCL, where the loader, PyTorch's packages or a system have it.
fn nccl() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths).collect();
    if let Some(lib) = mapped("libtorch_cpu.so").as_deref().and_then(Path::parent) {
        folders.push(lib.to_owned());
        folders.push(lib.join("../../nvidia/nccl/lib"));
    }
    folders.extend(
        [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
            "/usr/local/cuda/lib64",
        ]
        .map(PathBuf::from),
    );
    folders.into_iter().map(|folder| folder.join("libnccl.so.2")).find(|path| path.exists())
}

/// The path of a library that this process has loaded.
fn mapped(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths =
        maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..]).to_owned()));
    let mut named = paths.filter(|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    });
    named.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_both_kinds_of_files() {
        assert_eq!(version_in("2.11.0\n").as_deref(), Some("2.11.0"));
        assert_eq!(
            version_in(
                "from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n"
            )
            .as_deref(),
            Some("2.11.0+cu130")
        );
        assert_eq!(version_in("nothing here"), None);
    }

    #[test]
    fn the_libtorch_that_is_linked_is_the_one_this_program_is_made_for() {
        // A program that calls nothing of it would not have loaded it.
        let _ = tch::Tensor::from(1.0);
        let finding = libtorch();
        assert!(
            finding.state == super::super::State::Good && finding.found.starts_with(LIBTORCH),
            "{finding:?}"
        );
    }
}
