//! What is on a GPU goes by NCCL. MPI brings the ranks together: before that, whether each has what
//! it takes; then the identity to meet by.

use tch::Device;

use super::Mpi;
use super::agreement::{Header, Operation};
use crate::nccl::{Id, Nccl};
use crate::payload::Payload;
use crate::{Error, ProcessGroup as _, Result};

impl Mpi {
    /// Another group of the same ranks, which carries tensors on `device` by NCCL if there is one.
    /// [`Device::Cpu`] is for tests, see [`Nccl::open`].
    #[doc(hidden)]
    pub fn join_gpus(&self, device: Option<Device>) -> Result<Mpi> {
        let opened = device.map(|device| {
            Nccl::open(device)
                .and_then(|nccl| Ok((nccl.identity(&self.hosts[self.rank], self.rank)?, nccl)))
        });
        // What this rank is: without a GPU, with this one, or unable to use it.
        let told = match &opened {
            None => "-".to_owned(),
            Some(Ok((identity, _))) => format!("+{identity}"),
            Some(Err(missing)) => format!("!{missing}"),
        };
        {
            let _turn = self.take_turn(Operation::WithDevice)?;
            self.agree(Header::new(Operation::WithDevice, 0), Ok(()))?;
        }
        let told = self.all_gather_bytes(told.as_bytes())?;
        let told: Vec<String> =
            told.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        if let Some(ranks) = objection(&told, &self.hosts) {
            return Err(Error::Gpus { ranks });
        }
        let _turn = self.take_turn(Operation::WithDevice)?;
        self.another(opened.and_then(std::result::Result::ok).map(|(_, nccl)| nccl))
    }

    /// Makes a call of NCCL's, on which the ranks have agreed. The first one lets them meet.
    pub(super) fn by_nccl(
        &self,
        operation: Operation,
        payload: &Payload,
        call: impl FnOnce(&Nccl) -> Result<(), String>,
    ) -> Result<()> {
        let Some(nccl) = self.nccl.as_ref().filter(|_| payload.numel > 0) else { return Ok(()) };
        let result = self.meet(nccl, operation).and_then(|()| {
            call(nccl).map_err(|message| Error::Nccl {
                operation: operation.name(),
                message,
                rank: self.rank,
            })
        });
        self.note_failure(&result);
        result
    }

    /// Brings the ranks together over NCCL, unless they have met.
    fn meet(&self, nccl: &Nccl, operation: Operation) -> Result<()> {
        if nccl.has_met() {
            return Ok(());
        }
        let failed =
            |message| Error::Nccl { operation: operation.name(), message, rank: self.rank };
        let made = if self.rank == 0 { Nccl::new_id() } else { Ok(Nccl::NO_ID) };
        let mut id: Id = made.as_ref().copied().unwrap_or(Nccl::NO_ID);
        self.communicator.broadcast(operation.name(), &mut id, 0)?;
        if id == Nccl::NO_ID {
            return Err(failed(made.err().unwrap_or_else(|| "rank 0 could not begin".to_owned())));
        }
        let met = nccl.meet(id, self.rank, self.hosts.len());
        // Those that have met wait here for the others, whose deadline ends.
        let [all_met] =
            self.communicator.all_reduce_min(operation.name(), [u64::from(met.is_ok())])?;
        met.map_err(|message| failed(format!("this rank could not meet the others: {message}")))?;
        if all_met == 1 {
            Ok(())
        } else {
            Err(failed("another rank could not meet this one; it says why".to_owned()))
        }
    }
}

/// Why ranks that told this of themselves cannot join.
fn objection(told: &[String], hosts: &[String]) -> Option<String> {
    let name = |rank: usize| format!("rank {rank} (host {})", hosts[rank]);
    let unable = told
        .iter()
        .enumerate()
        .filter_map(|(rank, told)| Some(format!("{}: {}", name(rank), told.strip_prefix('!')?)));
    let unable: Vec<String> = unable.take(8).collect();
    if !unable.is_empty() {
        return Some(unable.join("; "));
    }
    let with = told.iter().position(|told| told != "-")?;
    if let Some(without) = told.iter().position(|told| told == "-") {
        return Some(format!(
            "{} computes on a GPU and {} on the CPU; set [run] device to one of them",
            name(with),
            name(without)
        ));
    }
    let twice = (0..told.len())
        .find_map(|rank| Some((told[..rank].iter().position(|other| *other == told[rank])?, rank)));
    twice.map(|(first, second)| {
        format!(
            "{} and {} use one GPU; start at most as many ranks on a host as it has GPUs",
            name(first),
            name(second)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_join_only_with_a_gpu_each_or_without_any() {
        let hosts: Vec<String> = ["a", "a", "b"].map(str::to_owned).into();
        let of = |told: [&str; 3]| objection(&told.map(str::to_owned), &hosts).unwrap_or_default();
        assert_eq!(of(["-", "-", "-"]), "");
        assert_eq!(of(["+a 1", "+a 2", "+b 1"]), "");
        assert_eq!(of(["+a 1", "!no driver", "-"]), "rank 1 (host a): no driver");
        assert!(
            of(["+a 1", "+a 1", "+b 1"])
                .starts_with("rank 0 (host a) and rank 1 (host a) use one GPU")
        );
        assert!(
            of(["-", "+a 1", "+b 1"])
                .starts_with("rank 1 (host a) computes on a GPU and rank 0 (host a) on the CPU")
        );
    }
}
