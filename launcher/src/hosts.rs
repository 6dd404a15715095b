//! Starting without a host that has failed.

use anyhow::Context;
use std::path::Path;

/// The options of Open MPI and of hydra that name a file of hosts, a host to a line.
const FILES: [&str; 5] = ["--hostfile", "-hostfile", "--machinefile", "-machinefile", "-f"];
/// Those that list hosts.
const LISTS: [&str; 4] = ["--host", "-host", "-H", "-hosts"];

/// mpirun's `arguments` without `host`; a file of hosts is replaced by one at `aside` that lacks
/// it. `None` where no argument names it, or where no other host would be left.
pub fn without(
    host: &str,
    arguments: &[String],
    aside: &Path,
) -> anyhow::Result<Option<Vec<String>>> {
    let mut changed = arguments.to_vec();
    let mut is_left_out = false;
    for at in 1..arguments.len() {
        let (option, value) = (arguments[at - 1].as_str(), &arguments[at]);
        if FILES.contains(&option) {
            let text = files::read_text(Path::new(value))
                .with_context(|| format!("cannot read the hosts in {value}"))?;
            let Some(rest) = keep(text.lines(), host) else { continue };
            files::write(aside, rest.join("\n") + "\n")
                .with_context(|| format!("cannot write {}", aside.display()))?;
            changed[at] = aside.display().to_string();
            is_left_out = true;
        } else if LISTS.contains(&option)
            && let Some(rest) = keep(value.split(','), host)
        {
            changed[at] = rest.join(",");
            is_left_out = true;
        }
    }
    Ok(is_left_out.then_some(changed))
}

/// The entries of other hosts, where there are any, and `host` is not among them.
fn keep<'a>(entries: impl Iterator<Item = &'a str>, host: &str) -> Option<Vec<&'a str>> {
    let (ours, rest): (Vec<&str>, Vec<&str>) =
        entries.partition(|entry| name(entry).is_some_and(|name| is_same(name, host)));
    let others = rest.iter().any(|entry| name(entry).is_some());
    (!ours.is_empty() && others).then_some(rest)
}

/// The host of an entry: `node1 slots=4`, `node1:4`; none in a comment or an empty line.
fn name(entry: &str) -> Option<&str> {
    let word = entry.split('#').next()?.split_whitespace().next()?;
    word.split(':').next().filter(|name| !name.is_empty())
}

/// Whether two names are of one host: a host may call itself by its full name where the file has
/// the short one, or the reverse.
fn is_same(one: &str, other: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let is_address = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
    one == other || (!is_address(one) && !is_address(other) && short(one) == short(other))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_host_is_left_out_of_file_and_list() {
        let dir = tempfile::tempdir().unwrap();
        let (file, aside) = (dir.path().join("hosts"), dir.path().join("aside"));
        std::fs::write(&file, "# ours\nnode1 slots=2\nnode2:2 # the old one\nnode20\n\n").unwrap();
        let arguments = words(&format!("--mca a b --hostfile {} --verbose", file.display()));
        let changed = without("node2.cluster", &arguments, &aside).unwrap().unwrap();
        assert_eq!(changed, words(&format!("--mca a b --hostfile {} --verbose", aside.display())));
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "# ours\nnode1 slots=2\nnode20\n\n");
        // Again, of the file that is left.
        let changed = without("node20", &changed, &aside).unwrap().unwrap();
        assert!(without("node1", &changed, &aside).unwrap().is_none(), "somebody must be left");

        let changed =
            without("node1", &words("--host node1:4,node2:4,10.0.0.1"), &aside).unwrap().unwrap();
        assert_eq!(changed, words("--host node2:4,10.0.0.1"));
    }

    #[test]
    fn what_names_no_such_host_stays() {
        let aside = Path::new("unused");
        assert!(without("node1", &words("--host node2,node3"), aside).unwrap().is_none());
        assert!(
            without("10.0.0.2", &words("--host 10.0.0.1,10.0.0.3"), aside).unwrap().is_none(),
            "addresses have no short names"
        );
        assert!(without("node1", &words("-n 4"), aside).unwrap().is_none());
        assert!(without("node1", &words("--hostfile /no/such/file"), aside).is_err());
    }
}
