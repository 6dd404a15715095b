//! Who was heard of when, and what follows from it. No clock and no network: both are told.

use std::time::Duration;

use crate::activity::Activity;

/// What a rank is known to be.
#[derive(Clone, Debug)]
struct Peer {
    /// Whether this process watches it: rank 0 watches all, all watch rank 0.
    is_watched: bool,
    /// When it was last heard of.
    heard: Duration,
    /// What it was doing then.
    activity: Activity,
    /// Since when it was.
    since: Duration,
    /// Its connection was closed without a goodbye.
    is_gone: bool,
}

/// The ranks of a job as one of them sees them.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    own: usize,
    hosts: Vec<String>,
    peers: Vec<Peer>,
    /// Silence that is too long.
    silence: Duration,
    /// Waiting that is too long.
    stall: Option<Duration>,
    /// Whether the ranks are expected to make progress.
    expects_progress: bool,
    /// Time for which this process was awake.
    now: Duration,
}

impl Watch {
    /// Begins to watch as rank `own`. A rank is silent after `silence`, at first after `start`
    /// more; without `stall`, it may be idle for ever.
    pub(super) fn new(
        own: usize,
        hosts: Vec<String>,
        silence: Duration,
        stall: Option<Duration>,
        start: Duration,
    ) -> Watch {
        let peer = |rank| Peer {
            is_watched: if own == 0 { rank != 0 } else { rank == 0 },
            heard: start,
            activity: Activity::default(),
            since: start,
            is_gone: false,
        };
        Watch {
            own,
            peers: (0..hosts.len()).map(peer).collect(),
            hosts,
            silence,
            stall,
            expects_progress: true,
            now: Duration::ZERO,
        }
    }

    /// The rank that watches.
    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// From now on the ranks are expected to make progress, or may wait for one of them for as long
    /// as it works.
    pub(super) fn expect_progress(&mut self, expected: bool) {
        if expected && !self.expects_progress {
            self.peers.iter_mut().for_each(|peer| peer.since = peer.since.max(self.now));
        }
        self.expects_progress = expected;
    }

    /// Lets time pass. More at once than a thread sleeps means that this process was stopped, and
    /// heard nobody for that reason.
    pub(super) fn pass(&mut self, elapsed: Duration) {
        self.now += elapsed.min(self.silence / 4);
    }

    /// Something came from `rank`.
    pub(super) fn heard(&mut self, rank: usize) {
        self.peers[rank].heard = self.now;
    }

    /// What `rank` is doing.
    pub(super) fn update(&mut self, rank: usize, activity: Activity) {
        let peer = &mut self.peers[rank];
        if peer.activity != activity {
            tracing::trace!("heard of rank {rank}: {activity}");
            (peer.activity, peer.since) = (activity, self.now);
        }
    }

    /// The rank has done its work, and may be silent.
    pub(super) fn left(&mut self, rank: usize) {
        self.peers[rank].is_watched = false;
    }

    /// The rank's connection was closed.
    pub(super) fn gone(&mut self, rank: usize) {
        self.peers[rank].is_gone = true;
    }

    /// Who has failed, in words that begin with rank and host.
    pub(super) fn verdict(&self) -> Option<String> {
        self.death().or_else(|| self.silence()).or_else(|| self.stall())
    }

    fn watched(&self) -> impl Iterator<Item = (usize, &Peer)> {
        self.peers.iter().enumerate().filter(|(_, peer)| peer.is_watched)
    }

    fn name(&self, rank: usize) -> String {
        format!("rank {rank} (host {})", self.hosts[rank])
    }

    fn last(&self, rank: usize) -> String {
        format!("last heard of {}", self.peers[rank].activity)
    }

    fn death(&self) -> Option<String> {
        let (rank, _) = self.watched().find(|(_, peer)| peer.is_gone)?;
        Some(format!("{} has ended without a word; {}", self.name(rank), self.last(rank)))
    }

    fn silence(&self) -> Option<String> {
        let silent_for = |peer: &Peer| self.now.saturating_sub(peer.heard);
        let longest = self.watched().map(|(_, peer)| silent_for(peer)).max()?;
        if longest < self.silence {
            return None;
        }
        // They were not cut off at the same moment of their rounds.
        let silent: Vec<usize> = self
            .watched()
            .filter(|(_, peer)| silent_for(peer) > self.silence / 2)
            .map(|(rank, _)| rank)
            .collect();
        let [first, others @ ..] = silent.as_slice() else { return None };
        let mut words = format!(
            "{} has not been heard of for {}; {}",
            self.name(*first),
            seconds(silent_for(&self.peers[*first])),
            self.last(*first)
        );
        if !others.is_empty() {
            words += &format!("; nor has {}", self.names(others));
        }
        let hosts_of_others =
            self.watched().filter(|(rank, _)| self.hosts[*rank] != self.hosts[self.own]).count();
        words += if silent.len() == self.watched().count() && hosts_of_others > 1 {
            "; it may be this rank's own host that is cut off"
        } else {
            "; its host is down or cut off, or its process is stopped"
        };
        Some(words)
    }

    fn stall(&self) -> Option<String> {
        let stall = self.stall.filter(|_| self.expects_progress)?;
        let all = || {
            self.peers
                .iter()
                .enumerate()
                .filter(|(rank, peer)| peer.is_watched || *rank == self.own)
        };
        let idle = self.now.saturating_sub(all().map(|(_, peer)| peer.since).max()?);
        let (waiting, most) = all()
            .filter(|(_, peer)| peer.activity.is_in_collective())
            .max_by_key(|(_, peer)| peer.activity.entered)?;
        if idle < stall {
            return None;
        }
        let behind: Vec<usize> = all()
            .filter(|(_, peer)| peer.activity.entered < most.activity.entered)
            .map(|(rank, _)| rank)
            .collect();
        let idle = seconds(idle);
        Some(match behind.as_slice() {
            [] => {
                format!(
                    "no rank has made progress for {idle}: all are {}; the network between their hosts may have failed",
                    most.activity
                )
            }
            [first, others @ ..] => {
                let others = if others.is_empty() {
                    String::new()
                } else {
                    format!("; nor has {}", self.names(others))
                };
                let waiting = format!("{} waits {}", self.name(waiting), most.activity);
                format!(
                    "{} has made no progress for {idle}; {}{others}; {waiting}",
                    self.name(*first),
                    self.last(*first)
                )
            }
        })
    }

    /// Names a few ranks, and counts the others.
    fn names(&self, ranks: &[usize]) -> String {
        const FEW: usize = 4;
        let mut names: Vec<String> = ranks.iter().take(FEW).map(|&rank| self.name(rank)).collect();
        if ranks.len() > FEW {
            names.push(format!("{} more", ranks.len() - FEW));
        }
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// `54 s`, and `2.7 s` where it is little.
fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch(own: usize, world_size: usize) -> Watch {
        let hosts = ["a", "a", "b", "c", "d", "e", "f"][..world_size]
            .iter()
            .map(ToString::to_string)
            .collect();
        Watch::new(own, hosts, 10 * SECOND, Some(100 * SECOND), Duration::ZERO)
    }

    fn at(step: u64, entered: u64, left: u64) -> Activity {
        Activity { step, entered, left, operation: "all_reduce".into() }
    }

    /// Lets seconds pass in which all of `ranks` are heard of.
    fn pass(watch: &mut Watch, seconds: u64, ranks: &[usize]) {
        for _ in 0..seconds {
            watch.pass(SECOND);
            ranks.iter().for_each(|&rank| watch.heard(rank));
        }
    }

    #[test]
    fn a_silent_rank_is_named_with_what_it_did() {
        let mut watch = watch(0, 4);
        watch.update(2, at(12, 345, 344));
        pass(&mut watch, 50, &[1, 2, 3]);
        assert_eq!(watch.verdict(), None);
        pass(&mut watch, 9, &[1, 3]);
        assert_eq!(watch.verdict(), None);
        pass(&mut watch, 1, &[1, 3]);
        assert_eq!(
            watch.verdict().unwrap(),
            "rank 2 (host b) has not been heard of for 10 s; last heard of at step 12, in all_reduce (collective 345); \
             its host is down or cut off, or its process is stopped"
        );
    }

    #[test]
    fn a_rank_that_hears_nobody_suspects_itself() {
        let mut watch = watch(0, 7);
        pass(&mut watch, 10, &[]);
        let words = watch.verdict().unwrap();
        assert!(words.starts_with("rank 1 (host a) has not been heard of for 10 s; last heard of before the first step"), "{words}");
        assert!(words.contains("; nor has rank 2 (host b), rank 3 (host c), rank 4 (host d), rank 5 (host e) and 1 more;"), "{words}");
        assert!(words.ends_with("it may be this rank's own host that is cut off"), "{words}");
    }

    #[test]
    fn other_ranks_watch_rank_0_alone() {
        let mut watch = watch(2, 4);
        watch.gone(3);
        pass(&mut watch, 9, &[]);
        assert_eq!(watch.verdict(), None);
        pass(&mut watch, 1, &[]);
        assert!(watch.verdict().unwrap().starts_with("rank 0 (host a) has not been heard of"));
        watch.left(0);
        assert_eq!(watch.verdict(), None);
    }

    #[test]
    fn a_closed_connection_is_a_death_unless_there_was_a_farewell() {
        let mut watch = watch(0, 3);
        watch.left(1);
        watch.gone(1);
        assert_eq!(watch.verdict(), None);
        watch.update(2, at(3, 20, 20));
        watch.gone(2);
        assert_eq!(
            watch.verdict().unwrap(),
            "rank 2 (host b) has ended without a word; last heard of at step 3, after all_reduce (collective 20)"
        );
    }

    #[test]
    fn who_was_stopped_itself_suspects_nobody() {
        let mut watch = watch(0, 2);
        pass(&mut watch, 5, &[1]);
        watch.pass(3600 * SECOND);
        assert_eq!(watch.verdict(), None);
        pass(&mut watch, 8, &[]);
        assert!(watch.verdict().is_some(), "but silence after that counts");
    }

    #[test]
    fn a_rank_that_beats_and_does_nothing_is_named_when_others_have_waited() {
        let mut watch = watch(0, 3);
        pass(&mut watch, 50, &[1, 2]);
        watch.update(0, at(4, 31, 30));
        watch.update(1, at(4, 30, 30));
        watch.update(2, at(4, 31, 30));
        pass(&mut watch, 99, &[1, 2]);
        assert_eq!(watch.verdict(), None);
        pass(&mut watch, 1, &[1, 2]);
        assert_eq!(
            watch.verdict().unwrap(),
            "rank 1 (host a) has made no progress for 100 s; last heard of at step 4, after all_reduce (collective 30); \
             rank 2 (host b) waits at step 4, in all_reduce (collective 31)"
        );
        watch.update(1, at(4, 31, 30));
        assert_eq!(watch.verdict(), None, "it continues");
        pass(&mut watch, 100, &[1, 2]);
        assert!(
            watch.verdict().unwrap().starts_with(
                "no rank has made progress for 100 s: all are at step 4, in all_reduce"
            )
        );
    }

    #[test]
    fn long_work_without_waiting_is_no_stall() {
        let mut watch = watch(0, 3);
        (0..3).for_each(|rank| watch.update(rank, at(4, 30, 30)));
        pass(&mut watch, 1000, &[1, 2]);
        assert_eq!(watch.verdict(), None);
    }
}
