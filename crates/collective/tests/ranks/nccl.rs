//! The same as over MPI, by a NCCL that takes memory of the host (`nccl.cpp`): how ranks meet, what
//! is handed over, and what happens when it fails.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tch::{Cuda, Tensor};

use collective::{Error, Mpi, ProcessGroup, Reduce};

use crate::driver::{self, Outcome};

/// The folder of `libnccl.so.2`.
fn library() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = driver::empty_directory("nccl");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ranks/nccl.cpp");
        let mut compiler = Command::new("c++");
        compiler
            .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"])
            .arg(folder.join("libnccl.so.2"))
            .arg(source)
            .arg("-lrt");
        assert!(compiler.status().expect("a C++ compiler is on the PATH").success());
        folder.to_str().unwrap().to_owned()
    })
}

/// Whether NCCL is loaded with this program already, as with a libtorch for GPUs: then no other can
/// be.
fn has_its_own() -> bool {
    let is = std::fs::read_to_string("/proc/self/maps").unwrap().contains("libnccl");
    if is {
        println!("skipped: NCCL itself is loaded");
    }
    is
}

fn mpirun(world_size: usize, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let path = match std::env::var("LD_LIBRARY_PATH") {
        Ok(others) => format!("{}:{others}", library()),
        Err(_) => library().to_owned(),
    };
    driver::mpirun_with(
        world_size,
        &[&["nccl"], arguments].concat(),
        &[variables, &[("LD_LIBRARY_PATH", &path)]].concat(),
    )
}

pub fn start(world_size: usize) {
    if has_its_own() {
        return;
    }
    mpirun(world_size, &["operations"], &[]).expect_success();
    let directory = driver::empty_directory(&format!("nccl-misuse-{world_size}"));
    mpirun(world_size, &["misuse", directory.to_str().unwrap()], &[]).expect_success();
    std::fs::remove_dir_all(directory).unwrap();
}

/// The program of one rank: every tensor goes by NCCL.
pub fn join(body: impl FnOnce(&dyn ProcessGroup) -> Result<(), Error>) {
    collective::install_panic_hook();
    let group = Mpi::initialize().unwrap();
    let joined = match group.join_gpus(Some(driver::device())) {
        Ok(joined) => joined,
        Err(error) => group.abort(&error.to_string()),
    };
    if let Err(error) = body(&joined) {
        group.abort(&error.to_string());
    }
}

/// By the real NCCL, where there is a GPU: that many ranks share it.
pub fn on_a_gpu(world_size: usize) {
    if !Cuda::is_available() {
        return println!("no GPU here");
    }
    // A rank is told that it has a host of its own, as NCCL refuses two of one host on one GPU.
    let directory = driver::empty_directory(&format!("nccl-gpu-{world_size}"));
    for arguments in [&["nccl", "operations"][..], &["nccl", "misuse", directory.to_str().unwrap()]]
    {
        driver::mpirun_with(
            world_size,
            &[&["on-a-gpu"], arguments].concat(),
            &[("LORACT_TEST_DEVICE", "cuda")],
        )
        .expect_success();
    }
    std::fs::remove_dir_all(directory).unwrap();
}

pub fn without_the_library() {
    let outcome = driver::mpirun_with(2, &["nccl", "operations"], &[]);
    // Where a machine has a NCCL of its own, it is found, and takes no memory of the host.
    let missing = outcome.text.contains("the ranks cannot join over NCCL: rank 0 (host ")
        && outcome.text.contains("NCCL is not found");
    outcome.expect(missing || outcome.text.contains("NCCL failed"), "what is missing");
    outcome.expect(!outcome.status.success(), "a failure");
}

pub fn absent() {
    if has_its_own() {
        return;
    }
    let outcome =
        mpirun(3, &["operations"], &[("NCCL_FAKE", "absent"), ("LORACT_NCCL_DEADLINE", "2")]);
    let said =
        "NCCL failed in all_reduce: this rank could not meet the others: it is not done after 2 s";
    outcome.expect(outcome.text.contains(said), said);
    outcome.expect(!outcome.status.success(), "a failure");
}

pub fn leaving() {
    if has_its_own() {
        return;
    }
    mpirun(2, &["leave"], &[]).expect_success();
}

/// Rank 0 leaves the group while the other still watches it.
pub fn leave(group: &dyn ProcessGroup) -> Result<(), Error> {
    let over_nccl = group.duplicate()?;
    over_nccl.all_reduce(&mut Tensor::from_slice(&[1.0_f32]), Reduce::Sum)?;
    if group.rank() == 0 {
        drop(over_nccl);
    } else {
        // Two looks or more. Where there are fewer, the test sees less, and passes as well.
        std::thread::sleep(Duration::from_secs(3));
    }
    group.barrier()
}

pub fn late_error() {
    if has_its_own() {
        return;
    }
    let outcome = mpirun(2, &["error"], &[("NCCL_FAKE", "late error")]);
    outcome.expect(
        outcome.text.contains("): NCCL failed: unhandled system error"),
        "NCCL's words, and the rank",
    );
    outcome.expect(!outcome.status.success(), "a failure");
}

/// Makes calls until one has failed, which only a look at NCCL's state tells.
pub fn wait_for_an_error(group: &dyn ProcessGroup) -> Result<(), Error> {
    for _ in 0..3 {
        group.all_reduce(&mut Tensor::from_slice(&[1.0_f32]), Reduce::Sum)?;
    }
    // Begun, and fails when nobody waits for it any more.
    group.all_reduce(&mut Tensor::from_slice(&[1.0_f32]), Reduce::Sum)?;
    crate::faults::do_nothing()
}
