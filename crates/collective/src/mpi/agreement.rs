//! Before a collective: do all ranks make the same call?

use super::call::{self, Communicator};
use crate::payload::{Element, Payload, Refusal};
use crate::{Error, Reduce, Result};

/// The collectives, and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    AllReduce = 1,
    ReduceScatter,
    Broadcast,
    AllGather,
    Barrier,
    BroadcastBytes,
    AllGatherBytes,
    Duplicate,
    WithDevice,
    Leave,
}

impl Operation {
    const ALL: [Operation; 10] = [
        Operation::AllReduce,
        Operation::ReduceScatter,
        Operation::Broadcast,
        Operation::AllGather,
        Operation::Barrier,
        Operation::BroadcastBytes,
        Operation::AllGatherBytes,
        Operation::Duplicate,
        Operation::WithDevice,
        Operation::Leave,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::AllReduce => "all_reduce",
            Operation::ReduceScatter => "reduce_scatter",
            Operation::Broadcast => "broadcast",
            Operation::AllGather => "all_gather",
            Operation::Barrier => "barrier",
            Operation::BroadcastBytes => "broadcast_bytes",
            Operation::AllGatherBytes => "all_gather_bytes",
            Operation::Duplicate => "duplicate",
            Operation::WithDevice => "with_device",
            Operation::Leave => "leave",
        }
    }
}

/// A call as numbers: operation; reduction or root; dtype + 1 (and [`ON_GPU`]) and number of
/// elements, or 0; why this rank refuses it, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u64; 5]);

/// Added to the dtype of a tensor on a GPU.
const ON_GPU: u64 = 1 << 8;

impl Header {
    pub(super) fn new(operation: Operation, detail: u64) -> Header {
        Header([operation as u64, detail, 0, 0, 0])
    }

    pub(super) fn with_payload(operation: Operation, detail: u64, payload: Payload) -> Header {
        let place = if payload.on_gpu { ON_GPU } else { 0 };
        Header([
            operation as u64,
            detail,
            place + payload.element as u64 + 1,
            payload.numel as u64,
            0,
        ])
    }

    pub(super) fn refused(operation: Operation, refusal: Refusal) -> Header {
        Header([operation as u64, 0, 0, 0, refusal as u64])
    }

    fn operation(&self) -> &'static str {
        Operation::ALL
            .into_iter()
            .find(|&operation| operation as u64 == self.0[0])
            .map_or("an unknown call", Operation::name)
    }

    /// FNV-1a, then the finisher of MurmurHash3, so that a difference in any bit reaches all bits.
    fn fingerprint(&self) -> u64 {
        let hash = self
            .0
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    }

    /// The call in words.
    fn describe(&self) -> String {
        let [operation, detail, element, numel, refusal] = self.0;
        if operation == Operation::Leave as u64 {
            return "left the group".into();
        }
        if let Some(refusal) = Refusal::from_number(refusal) {
            return format!("{} was refused its argument ({})", self.operation(), refusal.reason());
        }
        let detail = if operation == Operation::AllReduce as u64
            || operation == Operation::ReduceScatter as u64
        {
            match detail {
                detail if detail == Reduce::Sum as u64 => " (sum)".to_owned(),
                detail if detail == Reduce::Max as u64 => " (max)".to_owned(),
                _ => " (min)".to_owned(),
            }
        } else if operation == Operation::Broadcast as u64
            || operation == Operation::BroadcastBytes as u64
        {
            format!(" (root {detail})")
        } else {
            String::new()
        };
        let payload = Element::ALL.into_iter().find(|&known| known as u64 + 1 == element % ON_GPU);
        let on_gpu = element >= ON_GPU;
        let payload = payload.map_or_else(String::new, |element| {
            format!(" of {}", Payload { element, numel: numel as usize, on_gpu })
        });
        format!("{}{detail}{payload}", self.operation())
    }
}

/// Fails on every rank unless all ranks pass the same header.
pub(super) fn compare(
    header: Header,
    communicator: Communicator,
    rank: usize,
    hosts: &[String],
) -> Result<()> {
    let operation = header.operation();
    let fingerprint = header.fingerprint();
    // The smallest fingerprint and the complement of the largest: equal ends mean that all are
    // equal.
    let [smallest, largest] =
        communicator.all_reduce_min(operation, [fingerprint, !fingerprint])?;
    if smallest == !largest {
        return Ok(());
    }
    let mut numbers = header.0;
    let own = call::as_bytes_mut(&mut numbers);
    let mut all = vec![0_u64; header.0.len() * hosts.len()];
    communicator.all_gather(
        operation,
        own,
        &vec![own.len(); hosts.len()],
        call::as_bytes_mut(&mut all),
    )?;
    let headers: Vec<Header> = all.as_chunks().0.iter().map(|&numbers| Header(numbers)).collect();
    Err(Error::Mismatch { operation, rank, calls: explain(&headers, hosts) })
}

/// What most ranks called, and each rank that called something else (of very many, the first
/// eight).
fn explain(headers: &[Header], hosts: &[String]) -> String {
    let votes = |header: &Header| headers.iter().filter(|other| *other == header).count();
    let Some(common) = headers.iter().rev().max_by_key(|header| votes(header)) else {
        return String::new();
    };
    let differing: Vec<usize> =
        (0..headers.len()).filter(|&rank| headers[rank] != *common).collect();
    let name =
        |rank: usize| format!("rank {rank} (host {}): {}", hosts[rank], headers[rank].describe());
    // Two ranks that differ are named both: there is no majority.
    let agreeing = (0..headers.len()).filter(|&rank| headers[rank] == *common).collect::<Vec<_>>();
    let majority = match agreeing.as_slice() {
        [only] => name(*only),
        many => format!("{} ranks: {}", many.len(), common.describe()),
    };
    let mut parts = vec![majority];
    parts.extend(differing.iter().take(8).map(|&rank| name(rank)));
    if differing.len() > 8 {
        parts.push(format!("and {} more", differing.len() - 8));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|rank| format!("node{rank}")).collect()
    }

    #[test]
    fn every_number_of_a_call_changes_its_fingerprint() {
        let payload = |element, numel| Payload { element, numel, on_gpu: false };
        let headers = [
            Header::with_payload(Operation::AllReduce, 0, payload(Element::F32, 4)),
            Header::with_payload(Operation::AllReduce, 1, payload(Element::F32, 4)),
            Header::with_payload(Operation::AllReduce, 0, payload(Element::F32, 5)),
            Header::with_payload(Operation::AllReduce, 0, payload(Element::I64, 4)),
            Header::with_payload(
                Operation::AllReduce,
                0,
                Payload { on_gpu: true, ..payload(Element::F32, 4) },
            ),
            Header::with_payload(Operation::AllGather, 0, payload(Element::F32, 4)),
            Header::refused(Operation::AllReduce, Refusal::Dtype),
            Header::refused(Operation::AllReduce, Refusal::Elsewhere),
            Header::new(Operation::Barrier, 0),
            Header::new(Operation::Leave, 0),
        ];
        for (index, header) in headers.iter().enumerate() {
            assert!(
                headers[..index]
                    .iter()
                    .all(|earlier| earlier.fingerprint() != header.fingerprint()),
                "{header:?}"
            );
        }
    }

    #[test]
    fn two_ranks_that_differ_are_both_named() {
        let payload = Payload { element: Element::F32, numel: 4, on_gpu: true };
        let headers = [
            Header::with_payload(Operation::AllReduce, Reduce::Max as u64, payload),
            Header::new(Operation::BroadcastBytes, 1),
        ];
        assert_eq!(
            explain(&headers, &hosts(2)),
            "rank 0 (host node0): all_reduce (max) of 4 f32 on the GPU; rank 1 (host node1): broadcast_bytes (root 1)"
        );
    }

    #[test]
    fn of_many_ranks_only_those_are_named_that_differ() {
        let mut headers = vec![Header::new(Operation::Barrier, 0); 5];
        headers[3] = Header::new(Operation::Leave, 0);
        headers[4] = Header::refused(Operation::AllGather, Refusal::NotContiguous);
        assert_eq!(
            explain(&headers, &hosts(5)),
            "3 ranks: barrier; rank 3 (host node3): left the group; \
             rank 4 (host node4): all_gather was refused its argument (it is not contiguous)"
        );
        let headers: Vec<Header> =
            (0..20).map(|rank| Header::new(Operation::BroadcastBytes, rank)).collect();
        let text = explain(&headers, &hosts(20));
        assert!(text.ends_with("and 11 more"), "{text}");
        assert_eq!(text.matches("node").count(), 9);
    }
}
