//! How fast the ranks of a job talk to each other.

use super::Finding;
use collective::{ProcessGroup, Reduce};
use config::units;
use std::collections::BTreeSet;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Elements of the large sum: 32 MiB in f32, about what a bucket of gradients has.
const LARGE: i64 = 8 << 20;
/// Sums of each kind.
const TIMES: usize = 5;

/// Measures the ranks of `group`; all call it, and all come to the same.
///
/// # Errors
/// Those of the group.
pub fn look(group: &dyn ProcessGroup) -> collective::Result<Vec<Finding>> {
    let world_size = group.world_size();
    let hosts: BTreeSet<&str> = (0..world_size).map(|rank| group.host(rank)).collect();
    let mut findings = vec![Finding::good(
        "ranks",
        format!("{world_size} on {} hosts: {}", hosts.len(), Vec::from_iter(hosts).join(", ")),
    )];
    let (short, long) = (seconds(group, 1)?, seconds(group, LARGE)?);
    // Of n ranks each must send and get at least 2 (n − 1) / n of a sum's bytes.
    let bytes = 4.0 * LARGE as f64 * 2.0 * (world_size - 1) as f64 / world_size as f64;
    let rate = bytes / long;
    let found = format!(
        "{}/s by each rank; a sum of one number takes {:.0} µs",
        units::bytes(rate),
        short * 1e6
    );
    const SLOW: f64 = 100e6;
    findings.push(match rate < SLOW {
        true => Finding::warning(
            "bandwidth",
            found,
            "keep [gradients] method = \"powersgd\", and see which network MPI uses: --mca btl_tcp_if_include with Open MPI",
        ),
        false => Finding::good("bandwidth", found),
    });
    Ok(findings)
}

/// The least time of a sum over all ranks: the slowest rank's, the same on all.
fn seconds(group: &dyn ProcessGroup, elements: i64) -> collective::Result<f64> {
    let mut tensor = Tensor::zeros([elements], (Kind::Float, Device::Cpu));
    group.all_reduce(&mut tensor, Reduce::Sum)?;
    let mut least = f64::INFINITY;
    for _ in 0..TIMES {
        group.barrier()?;
        let started = Instant::now();
        group.all_reduce(&mut tensor, Reduce::Sum)?;
        let own = Tensor::from(started.elapsed().as_secs_f64());
        let slowest = group.all_gather(&own)?.max().double_value(&[]);
        least = least.min(slowest);
    }
    Ok(least)
}
